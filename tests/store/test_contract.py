"""The seam, first part: tasks come in and runs are opened and carried. What a store promises stands in these parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hive.clock import ManualClock
from hive.errors import UsageError
from hive.model import (
    Errored,
    NewTask,
    Phase,
    ProcessRecord,
    Reason,
    RunId,
    State,
    TaskId,
    WorkspaceKind,
)
from hive.store import Added, Cancel, Claimed, Limits, Retry, Store
from tests.store.play import (
    BROKEN,
    HOST,
    PLENTY,
    SHARD,
    add,
    claim,
    end,
    get,
    keyed,
    last,
    last_seq,
    run_through,
    start,
    states,
    told,
)

PROCESS = ProcessRecord(pid=4711, started=12345, boot_id="boot-1")


class TestAdd:
    """Tasks come in: all or none, each key once, needs resolved."""

    async def test_answers_in_order_with_ids_from_one(self, store: Store) -> None:
        """Added tasks are answered in the order given and numbered from 1."""
        assert await store.add([keyed("a"), keyed("b")]) == [Added(TaskId(1), True), Added(TaskId(2), True)]

    async def test_keeps_every_word_of_the_task(self, store: Store, clock: ManualClock) -> None:
        """What was asked for comes back exactly as it was given."""
        asked = NewTask(
            title='Ü "title"',
            prompt="do\nit",
            key="k",
            batch="night",
            role="backend",
            phases=(Phase.APPLY, Phase.TEST, Phase.REVIEW, Phase.MERGE),
            priority=-7,
            tags=("one", "two"),
            paths=("src/a b.py",),
            agent="command",
            command=("echo", ""),
            script="say: hello",
            workspace=WorkspaceKind.FRESH,
            repo="/repo",
            base="main",
            test=("pytest", "-q"),
            model="sonnet",
            max_turns=3,
            permission_mode="plan",
            allowed_tools=("Bash(ls:*)",),
            budget_usd=0.5,
            timeout_s=1.5,
            idle_timeout_s=2.5,
            retries=0,
            rounds=1,
            hold=True,
            allow_no_change=True,
            env={"A": "b=c"},
        )
        [task_id] = await add(store, asked)
        task = await get(store, task_id)
        assert task.spec == asked
        assert (task.state, task.phase, task.held) == (State.QUEUED, Phase.APPLY, True)
        assert task.created_at_ms == clock.now_ms()
        assert (task.started_at_ms, task.finished_at_ms, task.parent) == (None, None, None)

    async def test_same_key_again_changes_nothing(self, store: Store) -> None:
        """An existing key of a batch returns its id, even with other needs, and writes nothing."""
        [first] = await add(store, keyed("a"))
        seq = await last_seq(store)
        assert await store.add([replace(keyed("a", "nowhere"), title="other")]) == [Added(first, False)]
        assert (await get(store, first)).spec.title == "task a"
        assert await last_seq(store) == seq

    async def test_same_key_twice_in_one_call_is_one_task(self, store: Store) -> None:
        """The second mention of a key within a call is the first one's task."""
        assert await store.add([keyed("a"), keyed("a")]) == [Added(TaskId(1), True), Added(TaskId(1), False)]

    async def test_same_key_in_another_batch_is_another_task(self, store: Store) -> None:
        """Keys are unique within a batch only, and needs never cross batches."""
        one, other = await add(store, keyed("a"), keyed("a", batch="night"))
        assert one != other
        with pytest.raises(UsageError):
            await store.add([keyed("b", "c", batch="night"), keyed("c")])

    async def test_no_key_is_never_the_same(self, store: Store) -> None:
        """Tasks without a key are all different."""
        assert await add(store, NewTask("same"), NewTask("same")) == [1, 2]

    async def test_needs_within_a_call_block_until_completed(self, store: Store) -> None:
        """A task that needs another is blocked, and the edge is kept."""
        a, b = await add(store, keyed("a"), keyed("b", "a", "a"))
        assert await states(store, [a, b]) == [State.QUEUED, State.BLOCKED]
        assert (await get(store, b)).reason is Reason.DEPENDENCY
        assert await store.needs(b) == [a]
        assert await store.needs(a) == []

    async def test_needs_come_first_whatever_the_order(self, store: Store) -> None:
        """A task is younger than its needs, so that age and need never disagree; answers keep the caller's order."""
        added = await store.add([keyed("c", "b"), keyed("b", "a"), keyed("a"), keyed("d", "a"), keyed("e", "d")])
        a, b, c, d, e = (TaskId(n) for n in range(1, 6))
        assert added == [Added(task_id, created=True) for task_id in (c, b, a, d, e)]
        assert await states(store, [a, b, c]) == [State.QUEUED, State.BLOCKED, State.BLOCKED]

    async def test_needs_across_calls(self, store: Store, clock: ManualClock) -> None:
        """Needs may name stored tasks: unfinished blocks, completed does not."""
        a, slow = await add(store, keyed("a"), keyed("slow"))
        await run_through(store, clock, a)
        free, blocked = await add(store, keyed("free", "a"), keyed("blocked", "a", "slow"))
        assert await states(store, [free, blocked]) == [State.QUEUED, State.BLOCKED]
        assert await store.needs(blocked) == [a, slow]

    async def test_need_that_failed_fails_the_task_and_its_dependents(self, store: Store, clock: ManualClock) -> None:
        """A task added after a failed need is failed by dependency, and so is what needs it."""
        [a] = await add(store, keyed("a"))
        await run_through(store, clock, a, BROKEN)
        b, c = await add(store, keyed("b", "a"), keyed("c", "b"))
        for task_id, need in ((b, a), (c, b)):
            task = await get(store, task_id)
            assert (task.state, task.reason, task.finished_at_ms) == (State.FAILED, Reason.DEPENDENCY, clock.now_ms())
            assert task.failure is not None
            assert task.failure.code == "dependency"
            assert f"task {need}," in task.failure.message

    async def test_need_that_was_cancelled_fails_the_task(self, store: Store) -> None:
        """A cancelled need will never be completed."""
        [a] = await add(store, keyed("a"))
        await store.control(Cancel((a,)))
        assert await states(store, await add(store, keyed("b", "a"))) == [State.FAILED]

    async def test_unknown_need_adds_nothing(self, store: Store) -> None:
        """One unknown need refuses the whole call."""
        with pytest.raises(UsageError) as refused:
            await store.add([keyed("a"), keyed("b", "nowhere")])
        assert refused.value.code == "H112"
        assert refused.value.message == "`b` needs `nowhere`, which is not in batch `default`"
        assert await store.task(TaskId(1)) is None
        assert await store.events() == []
        assert await store.ledger() == []

    @pytest.mark.parametrize(
        "tasks", [[keyed("a", "a")], [keyed("x"), keyed("a", "b"), keyed("b", "c"), keyed("c", "a")]]
    )
    async def test_cycle_adds_nothing(self, store: Store, tasks: list[NewTask]) -> None:
        """Needs that form a cycle refuse the whole call and name the cycle."""
        with pytest.raises(UsageError) as refused:
            await store.add(tasks)
        assert refused.value.code == "H113"
        assert "a -> " in refused.value.message
        assert await store.events() == []

    async def test_fact(self, store: Store) -> None:
        """Each new task is told once."""
        await store.add([keyed("a"), keyed("b", "a")])
        assert await told(store, 0) == [("task.added", 1), ("task.added", 2)]
        assert (await last(store, "task.added")).data == {
            "title": "task b",
            "batch": "default",
            "key": "b",
            "role": "coder",
            "state": "blocked",
            "phase": "apply",
            "reason": "dependency",
            "parent": None,
        }

    async def test_a_long_chain(self, store: Store, clock: ManualClock) -> None:
        """Needs may be deeper than any stack, and so may what follows from a failure and from a retry."""
        first, *rest = await add(store, keyed("0"), *(keyed(str(n), str(n - 1)) for n in range(1, 1200)))
        await run_through(store, clock, first, BROKEN)
        assert (await store.counts()).by_state[State.FAILED] == 1200
        await store.control(Retry((first,)))
        assert (await store.counts()).by_state[State.BLOCKED] == len(rest)


class TestClaim:
    """Queued tasks become open runs, within limits."""

    async def test_opens_a_run(self, store: Store, clock: ManualClock) -> None:
        """A claim opens a run, counts the attempt and reserves the budget."""
        [task_id] = await add(store, NewTask("t", budget_usd=0.75, role="backend"))
        assert await store.claim(HOST, {SHARD: 4}, PLENTY) == [Claimed(RunId(1), task_id, SHARD)]
        task = await get(store, task_id)
        assert (task.state, task.attempt, task.runs) == (State.IN_PROGRESS, 1, 0)
        assert task.started_at_ms == clock.now_ms()
        [run] = await store.runs(task_id)
        assert (run.id, run.task_id, run.phase, run.attempt, run.round) == (1, task_id, Phase.APPLY, 1, 0)
        assert (run.shard, run.host, run.reserved_usd) == (SHARD, HOST, 0.75)
        assert (run.opened_at_ms, run.started_at_ms, run.ended_at_ms) == (clock.now_ms(), None, None)
        assert (run.process, run.outcome, run.failure) == (None, None, None)

    async def test_reserves_nothing_without_a_budget(self, store: Store) -> None:
        """A task without a budget reserves nothing."""
        task_id, _ = await start(store, NewTask("t"))
        assert [run.reserved_usd for run in await store.runs(task_id)] == [0.0]

    async def test_highest_priority_then_oldest(self, store: Store) -> None:
        """Priority goes before age, age before nothing."""
        low, a, high, b = await add(store, *(NewTask("t", priority=p) for p in (-1, 0, 5, 0)))
        claimed = await store.claim(HOST, {SHARD: 9}, PLENTY)
        assert [one.task_id for one in claimed] == [high, a, b, low]

    async def test_skips_what_cannot_start(self, store: Store) -> None:
        """Blocked, held, running and finished tasks are not claimed."""
        running, held, blocked = await add(store, keyed("a"), NewTask("t", hold=True), keyed("b", "a"))
        assert len(await claim(store)) == 1
        assert await claim(store) == []
        assert await states(store, [running, held, blocked]) == [State.IN_PROGRESS, State.QUEUED, State.BLOCKED]

    async def test_nothing_to_do(self, store: Store) -> None:
        """An empty queue and an empty hive give no runs."""
        assert await store.claim(HOST, {SHARD: 3}, PLENTY) == []
        await store.add([NewTask("t")])
        assert await store.claim(HOST, {}, PLENTY) == []

    async def test_total_limit_counts_open_runs(self, store: Store) -> None:
        """Open runs, wherever they are, never exceed the limit on agents."""
        await store.add([NewTask("t") for _ in range(5)])
        assert len(await store.claim("there", {"there-0": 9}, Limits(agents=2))) == 2
        assert len(await store.claim(HOST, {SHARD: 9}, Limits(agents=3))) == 1
        assert await store.claim(HOST, {SHARD: 9}, Limits(agents=3)) == []
        assert await store.claim(HOST, {SHARD: 9}, Limits(agents=1)) == []

    async def test_role_limit_lets_others_pass(self, store: Store, clock: ManualClock) -> None:
        """A full role is skipped, however high its priority, until one of its runs ends."""
        tasks = [NewTask("f", role="frontend", priority=9) for _ in range(3)] + [NewTask("b", role="backend")]
        f1, f2, _, b1 = await add(store, *tasks)
        limits = Limits(agents=9, per_role={"frontend": 2, "unused": 0})
        claimed = await store.claim(HOST, {SHARD: 9}, limits)
        assert [one.task_id for one in claimed] == [f1, f2, b1]
        assert await store.claim(HOST, {SHARD: 9}, limits) == []
        await end(store, clock, claimed[0].run_id)
        assert len(await store.claim(HOST, {SHARD: 9}, limits)) == 1

    async def test_role_limit_of_zero(self, store: Store) -> None:
        """A role may be shut."""
        await store.add([NewTask("t")])
        assert await store.claim(HOST, {SHARD: 9}, Limits(9, {"coder": 0})) == []

    async def test_slots_are_counted_from_open_runs(self, store: Store, clock: ManualClock) -> None:
        """A shard's room is its slots less its open runs in the store."""
        await store.add([NewTask("t") for _ in range(5)])
        first, _ = await claim(store, slots=2)
        assert await claim(store, slots=2) == []
        await end(store, clock, first)
        assert len(await claim(store, slots=2)) == 1

    async def test_emptiest_shard_first(self, store: Store) -> None:
        """Each run goes to the shard with most free slots; of equals to the one named first."""
        await store.add([NewTask("t") for _ in range(6)])
        await store.claim(HOST, {"one": 1}, PLENTY)
        claimed = await store.claim(HOST, {"one": 3, "two": 3, "full": 0}, PLENTY)
        assert [one.shard for one in claimed] == ["two", "one", "two", "one", "two"]

    async def test_parked_task_waits_for_its_moment(self, store: Store, clock: ManualClock) -> None:
        """A task that backs off is not claimed before its moment, and is from then on."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "exit code 1"))
        parked = await get(store, task_id)
        assert (parked.state, parked.reason) == (State.QUEUED, Reason.BACKOFF)
        assert parked.not_before_at_ms == clock.now_ms() + 1000
        clock.advance(0.999)
        assert await claim(store) == []
        clock.advance(0.001)
        assert len(await claim(store)) == 1
        again = await get(store, task_id)
        assert (again.attempt, again.reason, again.not_before_at_ms) == (2, None, None)

    async def test_start_of_the_task_is_its_first_claim(self, store: Store, clock: ManualClock) -> None:
        """Later attempts do not move the moment a task was started."""
        task_id, run_id = await start(store, NewTask("t"))
        began_at_ms = clock.now_ms()
        await end(store, clock, run_id, Errored("exit", "exit code 1"))
        clock.advance(10)
        [second] = await claim(store)
        assert (await get(store, task_id)).started_at_ms == began_at_ms
        assert [(run.id, run.attempt) for run in await store.runs(task_id)] == [(run_id, 1), (second, 2)]

    async def test_run_resumes_the_session(self, store: Store, clock: ManualClock) -> None:
        """A new run knows the session of the earlier ones."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "no", session_id="s-1"))
        clock.advance(10)
        await claim(store)
        assert [run.session_id for run in await store.runs(task_id)] == ["s-1", "s-1"]

    async def test_fact(self, store: Store) -> None:
        """Each claim is told once, with its run."""
        task_id, run_id = await start(store, NewTask("t"))
        event = await last(store, "task.claimed")
        assert (event.task_id, event.run_id) == (task_id, run_id)
        assert event.data == {"phase": "apply", "attempt": 1, "round": 0, "shard": SHARD, "host": HOST}


class TestCarry:
    """A shard loads its runs, notes processes and renews its lease."""

    async def test_load_gives_open_runs_only(self, store: Store, clock: ManualClock) -> None:
        """Ended and unknown runs are left out."""
        a, b = await add(store, keyed("a"), keyed("b"))
        one, two = await claim(store)
        await end(store, clock, one)
        [assignment] = await store.load([two, one, RunId(99)])
        assert (assignment.run.id, assignment.task.id) == (two, b)
        assert assignment.task == await get(store, b)
        assert [assignment.run] == await store.runs(b)
        assert await store.load([]) == []
        assert a != b

    async def test_attach_notes_the_process(self, store: Store, clock: ManualClock) -> None:
        """The process and the moment it started are in the run, and told."""
        task_id, run_id = await start(store, NewTask("t"))
        clock.advance(2)
        assert await store.attach(run_id, PROCESS)
        [run] = await store.runs(task_id)
        assert (run.process, run.started_at_ms) == (PROCESS, clock.now_ms())
        event = await last(store, "run.started")
        assert (event.task_id, event.run_id) == (task_id, run_id)
        assert event.data == {"phase": "apply", "attempt": 1, "shard": SHARD, "pid": 4711}

    async def test_attach_again_keeps_the_start(self, store: Store, clock: ManualClock) -> None:
        """A second process of a run replaces the first; the run started with the first."""
        task_id, run_id = await start(store, NewTask("t"))
        await store.attach(run_id, PROCESS)
        started_at_ms = clock.now_ms()
        clock.advance(1)
        assert await store.attach(run_id, replace(PROCESS, pid=4712))
        [run] = await store.runs(task_id)
        assert (run.process, run.started_at_ms) == (replace(PROCESS, pid=4712), started_at_ms)

    async def test_attach_again_is_no_second_start(self, store: Store) -> None:
        """An agent that goes on in another process, or works in none, has started once."""
        _, run_id = await start(store, NewTask("t"))
        assert await store.attach(run_id, None)
        assert await store.attach(run_id, PROCESS)
        assert await store.attach(run_id, None)
        [found] = await store.load([run_id])
        assert found.run.process == PROCESS
        assert [event.kind for event in await store.events()].count("run.started") == 1

    async def test_attach_to_an_ended_run_declines(self, store: Store, clock: ManualClock) -> None:
        """Nobody may start an agent for a run that is not open."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id)
        seq = await last_seq(store)
        assert not await store.attach(run_id, PROCESS)
        assert not await store.attach(RunId(99), PROCESS)
        assert [run.process for run in await store.runs(task_id)] == [None]
        assert await last_seq(store) == seq

    async def test_workspace(self, store: Store) -> None:
        """Where a task works is kept, and what was asked for stays as it was."""
        [task_id] = await add(store, NewTask("t", base="main"))
        await store.workspace(task_id, "/w/1", "hive/1", "abc123")
        task = await get(store, task_id)
        assert (task.workspace, task.branch, task.base_commit, task.spec.base) == ("/w/1", "hive/1", "abc123", "main")

    async def test_renew_names_runs_that_are_not_ours(self, store: Store, clock: ManualClock) -> None:
        """Ended, unknown and other shards' runs are lost to the shard; its own are not."""
        await store.add([NewTask("t") for _ in range(3)])
        mine, ended = await claim(store, slots=2)
        [other] = await store.claim(HOST, {"other": 1}, PLENTY)
        await end(store, clock, ended)
        renewal = await store.renew(SHARD, HOST, [mine, ended, other.run_id, RunId(99)], 60)
        assert renewal.lost == {ended, other.run_id, 99}
        assert renewal.cancelled == frozenset()

    async def test_renew_names_cancelled_runs(self, store: Store) -> None:
        """A shard hears of its cancelled runs, also of those it forgot to name, and of nobody else's."""
        one, two = await add(store, NewTask("t"), NewTask("t"))
        [run] = await claim(store, slots=1)
        await store.claim(HOST, {"other": 1}, PLENTY)
        await store.control(Cancel((one, two)))
        assert (await store.renew(SHARD, HOST, [], 60)).cancelled == {run}
