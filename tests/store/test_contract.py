"""The seam, first part: the life of tasks and runs. Whatever a store promises stands here, for every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hive.clock import ManualClock
from hive.errors import UsageError
from hive.lifecycle import advance
from hive.model import (
    Errored,
    Evidence,
    Interrupted,
    Limited,
    Lost,
    NewTask,
    Phase,
    Planned,
    ProcessRecord,
    Reason,
    Rejected,
    RunId,
    State,
    Succeeded,
    TaskId,
    Usage,
    WorkspaceKind,
)
from hive.store import Added, Cancel, Claimed, Finish, Hold, Limits, Release, Retry, Store
from tests.store.play import (
    BROKEN,
    DONE,
    HOST,
    PLENTY,
    SHARD,
    add,
    claim,
    end,
    get,
    goal,
    keyed,
    last,
    last_seq,
    plan,
    rules,
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
        c, b, a = await add(store, keyed("c", "b"), keyed("b", "a"), keyed("a"))
        assert (a, b, c) == (1, 2, 3)
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
        assert "nowhere" in refused.value.message
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
        assert "a" in refused.value.message
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


class TestFinish:
    """An ending is recorded once, whole, and only for an open run."""

    async def test_writes_task_and_run(self, store: Store, clock: ManualClock) -> None:
        """Task, run and usage are written together."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        clock.advance(5)
        usage = Usage(1, 2, 3, 4, 0.25, 5.0)
        done = Succeeded(usage=usage, session_id="s-1", exit_code=0, evidence=Evidence(commit="abc"))
        assert await end(store, clock, run_id, done) is Finish.COMMITTED
        task = await get(store, task_id)
        assert (task.state, task.phase, task.attempt) == (State.QUEUED, Phase.TEST, 0)
        assert (task.commit, task.session_id, task.exit_code) == ("abc", "s-1", 0)
        assert (task.usage, task.runs, task.finished_at_ms, task.failure) == (usage, 1, None, None)
        [run] = await store.runs(task_id)
        assert (run.outcome, run.ended_at_ms, run.exit_code) == ("succeeded", clock.now_ms(), 0)
        assert (run.usage, run.session_id, run.failure) == (usage, "s-1", None)

    async def test_sums_over_runs(self, store: Store, clock: ManualClock) -> None:
        """A task's usage and run count are the sums over its runs, and the end is the last one's."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "no", usage=Usage(input_tokens=1, cost_usd=0.25)))
        clock.advance(5)
        [second] = await claim(store)
        await end(store, clock, second, replace(DONE, usage=Usage(input_tokens=2, cost_usd=0.5)))
        task = await get(store, task_id)
        assert (task.usage, task.runs) == (Usage(input_tokens=3, cost_usd=0.75), 2)
        assert (task.state, task.finished_at_ms) == (State.COMPLETED, clock.now_ms())

    async def test_keeps_the_commit_a_step_does_not_name(self, store: Store, clock: ManualClock) -> None:
        """A step without a commit leaves the task's tip alone."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        await end(store, clock, run_id, Succeeded(evidence=Evidence(commit="abc")))
        [second] = await claim(store)
        [assignment] = await store.load([second])
        step = advance(assignment.task, Rejected("red"), rules(clock))
        await store.finish(second, replace(step, commit=None))
        assert (await get(store, task_id)).commit == "abc"

    async def test_keeps_what_the_next_run_needs(self, store: Store, clock: ManualClock) -> None:
        """Feedback, failure, round and the count of alike failures are the step's."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        await end(store, clock, run_id)
        [second] = await claim(store)
        await end(store, clock, second, Rejected("1 failed", exit_code=1))
        task = await get(store, task_id)
        assert (task.state, task.phase, task.round, task.alike) == (State.QUEUED, Phase.APPLY, 1, 1)
        assert (task.reason, task.feedback, task.exit_code) == (Reason.REWORK, "1 failed", 1)
        assert task.failure is not None
        assert (await store.runs(task_id))[-1].failure == task.failure

    async def test_a_run_shows_only_its_own_failure(self, store: Store, clock: ManualClock) -> None:
        """The failure an earlier run left with the task is not put down to a run that ended well."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "exit code 1"))
        clock.advance(5)
        [second] = await claim(store)
        await end(store, clock, second, Interrupted())
        failed, interrupted = await store.runs(task_id)
        assert failed.failure is not None
        assert interrupted.failure is None
        assert (await get(store, task_id)).failure == failed.failure

    async def test_again_is_harmless(self, store: Store, clock: ManualClock) -> None:
        """Finishing a finished run again, with whatever step, is answered as committed and changes nothing."""
        task_id, run_id = await start(store, NewTask("t"))
        [assignment] = await store.load([run_id])
        await end(store, clock, run_id)
        before, seq = await get(store, task_id), await last_seq(store)
        other = advance(assignment.task, BROKEN, rules(clock))
        assert await store.finish(run_id, other) is Finish.COMMITTED
        assert (await get(store, task_id), await last_seq(store)) == (before, seq)

    async def test_interrupted_by_its_own_shard_is_finished(self, store: Store, clock: ManualClock) -> None:
        """A worker that finishes its run as interrupted may repeat that: only a release takes a run away."""
        task_id, run_id = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), Interrupted(), rules(clock))
        assert await store.finish(run_id, step) is Finish.COMMITTED
        assert await store.finish(run_id, step) is Finish.COMMITTED

    async def test_after_release_changes_nothing(self, store: Store, clock: ManualClock) -> None:
        """A shard that was presumed dead cannot overwrite the run that replaced its own."""
        task_id, run_id = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), DONE, rules(clock))
        await store.release([run_id], Lost(), rules(clock))
        clock.advance(5)
        [second] = await claim(store)
        before, seq = await get(store, task_id), await last_seq(store)
        assert await store.finish(run_id, step) is Finish.LOST
        assert (await get(store, task_id), await last_seq(store)) == (before, seq)
        assert await end(store, clock, second) is Finish.COMMITTED

    async def test_unknown_run(self, store: Store, clock: ManualClock) -> None:
        """A run that never was is lost."""
        task_id, _ = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), DONE, rules(clock))
        assert await store.finish(RunId(99), step) is Finish.LOST

    async def test_moment_in_the_past_parks_nothing(self, store: Store, clock: ManualClock) -> None:
        """A step whose moment has come leaves the task startable at once."""
        task_id, run_id = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), Errored("exit", "no"), replace(rules(clock), jitter=0.0))
        await store.finish(run_id, step)
        assert (await store.counts()).startable == 1
        assert (await get(store, task_id)).not_before_at_ms is None
        assert len(await claim(store)) == 1

    async def test_facts(self, store: Store, clock: ManualClock) -> None:
        """An ending is told as the run's end and then what became of the task."""
        task_id, run_id = await start(store, NewTask("t"))
        seq = await last_seq(store)
        await end(store, clock, run_id, replace(BROKEN, usage=Usage(cost_usd=0.5, duration_s=2.0)))
        assert await told(store, seq) == [("run.finished", task_id), ("task.failed", task_id)]
        event = await last(store, "run.finished")
        assert event.run_id == run_id
        assert event.data == {
            "outcome": "errored",
            "phase": "apply",
            "attempt": 1,
            "exit_code": 1,
            "cost_usd": 0.5,
            "duration_s": 2.0,
        }
        failure = (await get(store, task_id)).failure
        assert failure is not None
        assert (await last(store, "task.failed")).data == {
            "phase": "apply",
            "reason": "not_retryable",
            "round": 0,
            "attempt": 1,
            "code": "exit",
            "message": "exit code 1",
            "group": failure.group,
        }

    @pytest.mark.parametrize(
        ("outcome", "kind"),
        [
            (DONE, "task.completed"),
            (Errored("exit", "no"), "task.queued"),
            (Limited(None), "task.queued"),
            (Planned(()), "task.waiting"),
        ],
    )
    async def test_fact_for_each_becoming(
        self, store: Store, clock: ManualClock, outcome: Succeeded | Errored | Limited | Planned, kind: str
    ) -> None:
        """What became of the task is told under the name of its state."""
        task_id, run_id = await start(store, goal() if isinstance(outcome, Planned) else NewTask("t"))
        seq = await last_seq(store)
        await end(store, clock, run_id, outcome)
        assert (await told(store, seq))[:2] == [("run.finished", task_id), (kind, task_id)]

    async def test_stuck_task_is_told_as_needs_you(self, store: Store, clock: ManualClock) -> None:
        """A task that failed alike twice asks a person."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "the same"))
        clock.advance(10)
        [second] = await claim(store)
        await end(store, clock, second, Errored("exit", "the same"))
        assert (await last(store, "task.needs_you")).data["reason"] == "same_failure"
        assert (await get(store, task_id)).alike == 2

    async def test_no_failure_no_failure_data(self, store: Store, clock: ManualClock) -> None:
        """A task without a failure is told without one."""
        _, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id)
        assert (await last(store, "task.completed")).data == {
            "phase": "apply",
            "reason": None,
            "round": 0,
            "attempt": 1,
        }


class TestDependents:
    """What waits for a task hears of its end in the same transaction."""

    async def test_last_need_frees(self, store: Store, clock: ManualClock) -> None:
        """A task is queued when the last of its needs is completed, and that is told."""
        a, b, c = await add(store, keyed("a"), keyed("b"), keyed("c", "a", "b"))
        await run_through(store, clock, a)
        assert await states(store, [c]) == [State.BLOCKED]
        seq = await last_seq(store)
        [run] = [run for run in await store.runs(b) if run.ended_at_ms is None]
        await end(store, clock, run.id)
        assert await told(store, seq) == [("run.finished", b), ("task.completed", b), ("task.unblocked", c)]
        freed = await get(store, c)
        assert (freed.state, freed.reason) == (State.QUEUED, None)

    async def test_phase_between_frees_nobody(self, store: Store, clock: ManualClock) -> None:
        """Only the end of the whole pipeline meets a need."""
        a, b = await add(store, replace(keyed("a"), phases=(Phase.APPLY, Phase.TEST)), keyed("b", "a"))
        await run_through(store, clock, a)
        assert await states(store, [a, b]) == [State.QUEUED, State.BLOCKED]

    async def test_failure_spreads_breadth_first(self, store: Store, clock: ManualClock) -> None:
        """Dependents of a failed task fail, then theirs; each is told once, by id within a generation."""
        a, b, c, d = await add(store, keyed("a"), keyed("b", "a"), keyed("c", "b"), keyed("d", "a"))
        seq = await last_seq(store)
        await run_through(store, clock, a, BROKEN)
        assert (await told(store, seq))[1:] == [
            ("run.finished", a),
            ("task.failed", a),
            ("task.failed", b),
            ("task.failed", d),
            ("task.failed", c),
        ]
        failed = await get(store, c)
        assert (failed.state, failed.reason, failed.finished_at_ms) == (State.FAILED, Reason.DEPENDENCY, clock.now_ms())
        assert (await last(store, "task.failed")).data["code"] == "dependency"

    async def test_failure_of_one_need_is_enough(self, store: Store, clock: ManualClock) -> None:
        """A task fails with its first failed need, and the others' success does not bring it back."""
        a, b, c = await add(store, keyed("a"), keyed("b"), keyed("c", "a", "b"))
        await run_through(store, clock, a, BROKEN)
        [run] = [run for run in await store.runs(b) if run.ended_at_ms is None]
        await end(store, clock, run.id)
        assert await states(store, [c]) == [State.FAILED]


class TestGoals:
    """A plan's subtasks are children: the goal waits for them and ends with the last."""

    async def test_subtasks_become_children(self, store: Store, clock: ManualClock) -> None:
        """Subtasks are added under their goal with needs among themselves, in the goal's batch."""
        [goal_id] = await add(store, replace(goal(), batch="night"))
        await claim(store)
        seq = await last_seq(store)
        subtasks = (keyed("model"), keyed("view", "model"))
        await end(store, clock, RunId(1), Planned(subtasks))
        model, view = TaskId(2), TaskId(3)
        assert await states(store, [goal_id, model, view]) == [State.WAITING, State.QUEUED, State.BLOCKED]
        assert await store.needs(view) == [model]
        child = await get(store, model)
        assert (child.parent, child.spec.batch, child.spec.title) == (goal_id, "night", "task model")
        assert await told(store, seq) == [
            ("run.finished", goal_id),
            ("task.waiting", goal_id),
            ("task.added", model),
            ("task.added", view),
        ]
        assert (await last(store, "task.added")).data["parent"] == goal_id

    async def test_completed_with_the_last_child(self, store: Store, clock: ManualClock) -> None:
        """A goal is completed with its last child, and frees who needs it."""
        goal_id, after = await add(store, goal(), keyed("after", "goal"))
        a, b = await plan(store, clock, goal_id, keyed("a"), keyed("b"))
        await run_through(store, clock, a)
        assert await states(store, [goal_id, after]) == [State.WAITING, State.BLOCKED]
        seq = await last_seq(store)
        await end(store, clock, (await store.runs(b))[0].id)
        assert await told(store, seq) == [
            ("run.finished", b),
            ("task.completed", b),
            ("task.completed", goal_id),
            ("task.unblocked", after),
        ]
        assert (await get(store, goal_id)).finished_at_ms == clock.now_ms()

    async def test_failed_when_a_child_is_not_completed(self, store: Store, clock: ManualClock) -> None:
        """A goal waits for all children even after one failed, and then says how many are missing."""
        [goal_id] = await add(store, goal())
        a, b = await plan(store, clock, goal_id, keyed("a"), keyed("b"))
        await run_through(store, clock, a, BROKEN)
        assert await states(store, [goal_id]) == [State.WAITING]
        await end(store, clock, (await store.runs(b))[0].id)
        failed = await get(store, goal_id)
        assert (failed.state, failed.reason) == (State.FAILED, Reason.CHILD_FAILED)
        assert failed.failure is not None
        assert (failed.failure.code, failed.failure.message) == ("child_failed", "1 of 2 subtasks did not complete")

    async def test_failed_dependents_are_children_too(self, store: Store, clock: ManualClock) -> None:
        """When a failure takes the last open children with it, the goal ends in the same transaction."""
        [goal_id] = await add(store, goal())
        a, b = await plan(store, clock, goal_id, keyed("a"), keyed("b", "a"))
        seq = await last_seq(store)
        await run_through(store, clock, a, BROKEN)
        assert (await told(store, seq))[2:] == [("task.failed", a), ("task.failed", b), ("task.failed", goal_id)]

    async def test_goals_within_goals(self, store: Store, clock: ManualClock) -> None:
        """A child may be a goal itself; the last grandchild ends both."""
        [outer] = await add(store, goal())
        [inner] = await plan(store, clock, outer, goal("inner"))
        [leaf] = await plan(store, clock, inner, keyed("leaf"))
        await run_through(store, clock, leaf)
        assert await states(store, [leaf, inner, outer]) == [State.COMPLETED] * 3

    async def test_empty_plan_completes_the_goal(self, store: Store, clock: ManualClock) -> None:
        """A plan without subtasks leaves nothing to wait for."""
        [goal_id] = await add(store, goal())
        assert await plan(store, clock, goal_id) == []
        assert await states(store, [goal_id]) == [State.COMPLETED]

    async def test_two_goals_may_use_the_same_keys(self, store: Store, clock: ManualClock) -> None:
        """Planners choose keys without knowing each other: every goal gets children of its own."""
        one, two = await add(store, goal("one"), goal("two"))
        first = await plan(store, clock, one, keyed("tests"), keyed("docs", "tests"))
        [run] = [run for run in await store.runs(two) if run.ended_at_ms is None]
        await end(store, clock, run.id, Planned((keyed("tests"), keyed("docs", "tests"))))
        second = [TaskId(first[-1] + 1), TaskId(first[-1] + 2)]
        assert [(await get(store, task_id)).parent for task_id in first + second] == [one, one, two, two]
        assert await store.needs(second[1]) == [second[0]]

    async def test_new_plan_replaces_the_old(self, store: Store, clock: ManualClock) -> None:
        """A goal planned again waits for its new children only, even with the same keys."""
        [goal_id] = await add(store, goal())
        [old] = await plan(store, clock, goal_id, keyed("a"))
        await run_through(store, clock, old, BROKEN)
        await store.control(Retry((goal_id,)))
        [new] = await plan(store, clock, goal_id, keyed("a"))
        assert (await get(store, old)).parent is None
        assert await states(store, [goal_id, old, new]) == [State.WAITING, State.FAILED, State.QUEUED]
        await run_through(store, clock, new)
        assert await states(store, [goal_id]) == [State.COMPLETED]

    async def test_new_plan_cancels_what_is_left_of_the_old(self, store: Store, clock: ManualClock) -> None:
        """Children that somebody revived meanwhile end when their goal is planned anew."""
        [goal_id] = await add(store, goal())
        [old] = await plan(store, clock, goal_id, keyed("a"))
        await run_through(store, clock, old, BROKEN)
        await store.control(Retry((goal_id, old)))
        await store.control(Hold((old,)))
        [new] = await plan(store, clock, goal_id, keyed("b"))
        assert await states(store, [goal_id, old, new]) == [State.WAITING, State.CANCELLED, State.QUEUED]

    async def test_plan_that_is_no_dag_changes_nothing(self, store: Store, clock: ManualClock) -> None:
        """A plan with a cycle is refused whole: the run stays open, nothing is told."""
        [goal_id] = await add(store, goal())
        [run_id] = await claim(store)
        before, seq = await get(store, goal_id), await last_seq(store)
        for subtasks in ((keyed("a", "b"), keyed("b", "a")), (keyed("a", "goal"),)):
            step = advance(before, Planned(subtasks), rules(clock))
            with pytest.raises(UsageError):
                await store.finish(run_id, step)
        assert (await get(store, goal_id), await last_seq(store)) == (before, seq)
        assert len(await store.load([run_id])) == 1

    async def test_plan_to_be_approved_is_held(self, store: Store, clock: ManualClock) -> None:
        """While a person decides about a plan, none of its subtasks starts."""
        [goal_id] = await add(store, goal())
        [run_id] = await claim(store)
        asked = replace(rules(clock), approve_plans=True)
        await store.finish(run_id, advance(await get(store, goal_id), Planned((keyed("a"),)), asked))
        child = await get(store, TaskId(2))
        assert await states(store, [goal_id]) == [State.NEEDS_YOU]
        assert (child.parent, child.held) == (goal_id, True)
        assert await claim(store) == []

    async def test_cancel_during_planning_adds_no_children(self, store: Store, clock: ManualClock) -> None:
        """A cancelled goal's plan is not carried out."""
        [goal_id] = await add(store, goal())
        [run_id] = await claim(store)
        await store.control(Cancel((goal_id,)))
        await end(store, clock, run_id, Planned((keyed("a"),)))
        assert await states(store, [goal_id]) == [State.CANCELLED]
        assert await store.task(TaskId(2)) is None


class TestCancelMeanwhile:
    """A cancel that came during a run wins over going on."""

    async def test_cancels_instead_of_going_on(self, store: Store, clock: ManualClock) -> None:
        """The next phase does not start; the mark is gone; dependents fail."""
        a, b = await add(store, replace(keyed("a"), phases=(Phase.APPLY, Phase.TEST)), keyed("b", "a"))
        [run_id] = await claim(store)
        await store.control(Cancel((a,)))
        seq = await last_seq(store)
        await end(store, clock, run_id)
        task = await get(store, a)
        assert (task.state, task.reason, task.cancel_requested) == (State.CANCELLED, Reason.CANCELLED, False)
        assert task.finished_at_ms == clock.now_ms()
        assert task.commit == "c0ffee1"
        assert await told(store, seq) == [("run.finished", a), ("task.cancelled", a), ("task.failed", b)]

    async def test_what_is_done_is_done(self, store: Store, clock: ManualClock) -> None:
        """A run that completed the task in spite of the cancel completes it."""
        task_id, run_id = await start(store, NewTask("t"))
        await store.control(Cancel((task_id,)))
        await end(store, clock, run_id)
        task = await get(store, task_id)
        assert (task.state, task.cancel_requested) == (State.COMPLETED, False)

    async def test_release_cancels_too(self, store: Store, clock: ManualClock) -> None:
        """A cancelled task whose shard died is not started again."""
        task_id, run_id = await start(store, NewTask("t"))
        await store.control(Cancel((task_id,)))
        await store.release([run_id], Lost(), rules(clock))
        assert await states(store, [task_id]) == [State.CANCELLED]


class TestLost:
    """Runs that nobody carries are found and given back."""

    async def test_this_hosts_dead_shards(self, store: Store) -> None:
        """On this host a run is lost when its incarnation is not among the living, lease or not."""
        await store.add([NewTask("t"), NewTask("t")])
        one, two = await store.claim(HOST, {"dead": 1, "live": 1}, PLENTY)
        await store.renew("dead", HOST, [one.run_id], 60)
        [lost] = await store.lost(HOST, ["live"])
        assert (lost.run.id, lost.task.id) == (one.run_id, one.task_id)
        assert [assignment.run.id for assignment in await store.lost(HOST, [])] == [one.run_id, two.run_id]
        assert await store.lost(HOST, ["live", "dead"]) == []

    async def test_other_hosts_only_when_the_lease_ran_out(self, store: Store, clock: ManualClock) -> None:
        """Another host's run is lost only once its shard has been silent for the lease."""
        await store.add([NewTask("t")])
        await store.renew("far-0", "far", [], 60)
        [claimed] = await store.claim("far", {"far-0": 1}, PLENTY)
        clock.advance(59)
        assert await store.lost(HOST, []) == []
        await store.renew("far-0", "far", [claimed.run_id], 60)
        clock.advance(59)
        assert await store.lost(HOST, []) == []
        clock.advance(1)
        assert [assignment.run.id for assignment in await store.lost(HOST, [])] == [claimed.run_id]

    async def test_other_host_that_never_renewed(self, store: Store) -> None:
        """A shard that never said it lives holds nothing."""
        await store.add([NewTask("t")])
        [claimed] = await store.claim("far", {"far-0": 1}, PLENTY)
        assert [assignment.run.id for assignment in await store.lost(HOST, [])] == [claimed.run_id]

    async def test_ended_runs_are_not_lost(self, store: Store, clock: ManualClock) -> None:
        """Only open runs can be lost."""
        _, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id)
        assert await store.lost(HOST, []) == []

    async def test_open_runs_of_a_host(self, store: Store, clock: ManualClock) -> None:
        """A machine's open runs come oldest first, without ended ones and without other machines'."""
        await store.add([NewTask("t") for _ in range(4)])
        one, two, three = await claim(store, slots=3)
        await store.claim("far", {"far-0": 1}, PLENTY)
        await end(store, clock, two)
        assert [run.id for run in await store.open_runs(HOST)] == [one, three]

    async def test_release_as_lost_backs_off(self, store: Store, clock: ManualClock) -> None:
        """A lost run costs an attempt and a back-off; the release says which runs it ended."""
        task_id, run_id = await start(store, NewTask("t"))
        clock.advance(1)
        assert await store.release([run_id, RunId(99)], Lost(), rules(clock)) == [run_id]
        assert await store.release([run_id], Lost(), rules(clock)) == []
        task = await get(store, task_id)
        assert (task.state, task.reason, task.attempt, task.runs) == (State.QUEUED, Reason.BACKOFF, 1, 1)
        assert task.not_before_at_ms == clock.now_ms() + 1000
        [run] = await store.runs(task_id)
        assert (run.outcome, run.ended_at_ms) == ("lost", clock.now_ms())

    async def test_release_as_interrupted_is_free(self, store: Store, clock: ManualClock) -> None:
        """A shutdown costs no attempt and no wait."""
        task_id, run_id = await start(store, NewTask("t"))
        seq = await last_seq(store)
        await store.release([run_id], Interrupted(), rules(clock))
        task = await get(store, task_id)
        assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.INTERRUPTED, 0)
        assert [run.outcome for run in await store.runs(task_id)] == ["interrupted"]
        assert await told(store, seq) == [("run.finished", task_id), ("task.queued", task_id)]
        assert len(await claim(store)) == 1

    async def test_release_without_attempts_left_fails(self, store: Store, clock: ManualClock) -> None:
        """A task that is lost too often fails, and so do its dependents."""
        a, b = await add(store, replace(keyed("a"), retries=0), keyed("b", "a"))
        [run_id] = await claim(store)
        await store.release([run_id], Lost(), rules(clock))
        assert await states(store, [a, b]) == [State.FAILED, State.FAILED]

    async def test_released_slots_are_free(self, store: Store, clock: ManualClock) -> None:
        """What was released no longer counts against any limit."""
        _, run_id = await start(store, NewTask("t"))
        await store.release([run_id], Interrupted(), rules(clock))
        assert (await store.counts()).open_runs == {}
        assert len(await store.claim(HOST, {SHARD: 1}, Limits(1, {"coder": 1}))) == 1


async def test_hold_keeps_the_next_phase_from_starting(store: Store, clock: ManualClock) -> None:
    """A task held while it runs stops between phases and goes on when released."""
    task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
    await store.control(Hold((task_id,)))
    await end(store, clock, run_id)
    assert await claim(store) == []
    await store.control(Release((task_id,)))
    assert len(await claim(store)) == 1
