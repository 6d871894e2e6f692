"""The seam, fourth part: what people ask of tasks and of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hive.clock import ManualClock
from hive.model import Errored, NewTask, Phase, Reason, Rejected, RunId, State, TaskId
from hive.store import (
    Cancel,
    Command,
    Hold,
    LimitSignal,
    Receipt,
    Release,
    Reprioritise,
    Retry,
    Steer,
    Steering,
    Store,
)
from tests.store.play import (
    BROKEN,
    HOST,
    PLENTY,
    SHARD,
    STOPPED,
    add,
    claim,
    end,
    get,
    goal,
    keyed,
    last,
    last_seq,
    plan,
    run_through,
    start,
    states,
    told,
)

MISSING = TaskId(99)


@pytest.mark.parametrize(
    "command",
    [Cancel((MISSING,)), Hold((MISSING,)), Release((MISSING,)), Retry((MISSING,)), Reprioritise((MISSING,), 1)],
)
async def test_unknown_task_is_refused(store: Store, command: Command) -> None:
    """A command for a task that is not there says so and tells nobody."""
    receipt = await store.control(command)
    assert (receipt.changed, [task_id for task_id, _ in receipt.refused]) == ((), [MISSING])
    assert await store.events() == []


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("command", [Cancel, Hold, Release, lambda ids: Reprioritise(ids, 5)])
async def test_finished_task_is_refused_alone(
    store: Store, clock: ManualClock, command: Callable[[tuple[TaskId, ...]], Command], *, hold: bool
) -> None:
    """What is over is left alone with the reason; the others of the same command are changed."""
    done, other = await add(store, keyed("a"), NewTask("t", hold=hold))
    await claim(store, slots=1)
    await end(store, clock, RunId(1))
    before = await get(store, done)
    receipt = await store.control(command((done, other)))
    assert receipt.changed == (other,)
    assert receipt.refused == ((done, "already completed"),)
    assert await get(store, done) == before


class TestCancel:
    """Nothing more of it is started; what runs is stopped first."""

    @pytest.mark.parametrize("asked", [keyed("t"), replace(keyed("t"), hold=True), keyed("t", "need")])
    async def test_ends_what_does_not_run(self, store: Store, clock: ManualClock, asked: NewTask) -> None:
        """A queued, held or blocked task is cancelled at once."""
        _, task_id = await add(store, keyed("need"), asked)
        seq = await last_seq(store)
        assert await store.control(Cancel((task_id,))) == Receipt((task_id,))
        task = await get(store, task_id)
        assert (task.state, task.reason, task.finished_at_ms) == (State.CANCELLED, Reason.CANCELLED, clock.now_ms())
        assert await told(store, seq) == [("task.cancelled", task_id)]

    async def test_ends_what_is_parked(self, store: Store, clock: ManualClock) -> None:
        """A task that backs off is cancelled and waits for no moment any more."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "no"))
        await store.control(Cancel((task_id,)))
        assert (await get(store, task_id)).not_before_at_ms is None
        counts = await store.counts()
        assert (counts.parked, counts.next_due_at_ms) == (0, None)

    async def test_ends_what_asks_a_person(self, store: Store, clock: ManualClock) -> None:
        """A task that needs you is cancelled at once."""
        task_id = await _stuck(store, clock)
        await store.control(Cancel((task_id,)))
        assert await states(store, [task_id]) == [State.CANCELLED]

    async def test_marks_what_runs(self, store: Store, clock: ManualClock) -> None:
        """A running task goes on until its agent is stopped; asking twice is told once."""
        task_id, run_id = await start(store, NewTask("t"))
        assert await claim(store) == []  # a write that changed nothing must not be taken for the cancel's own
        seq = await last_seq(store)
        assert await store.control(Cancel((task_id,))) == Receipt((task_id,))
        assert await store.control(Cancel((task_id,))) == Receipt((task_id,))
        task = await get(store, task_id)
        assert (task.state, task.cancel_requested) == (State.IN_PROGRESS, True)
        assert await told(store, seq) == [("task.cancel_requested", task_id)]
        assert (await store.steering()).changes == 1
        await end(store, clock, run_id, STOPPED)
        task = await get(store, task_id)
        assert (task.state, task.cancel_requested) == (State.CANCELLED, False)

    async def test_only_running_tasks_alert_the_engine(self, store: Store) -> None:
        """Cancelling what does not run is nothing the engine must look at."""
        await store.control(Cancel(tuple(await add(store, NewTask("t")))))
        assert (await store.steering()).changes == 0

    async def test_dependents_fail(self, store: Store) -> None:
        """Who needs a cancelled task fails by dependency, recursively, after it is told."""
        a, b, c = await add(store, keyed("a"), keyed("b", "a"), keyed("c", "b"))
        seq = await last_seq(store)
        assert await store.control(Cancel((a,))) == Receipt((a,))
        assert await told(store, seq) == [("task.cancelled", a), ("task.failed", b), ("task.failed", c)]

    @pytest.mark.parametrize("backwards", [False, True])
    async def test_dependents_that_are_named_too_are_cancelled(self, store: Store, *, backwards: bool) -> None:
        """Cancelling a task together with what needs it cancels both, in any order."""
        ids = await add(store, keyed("a"), keyed("b", "a"))
        named = tuple(reversed(ids)) if backwards else tuple(ids)
        assert await store.control(Cancel(named)) == Receipt(named)
        assert await states(store, ids) == [State.CANCELLED, State.CANCELLED]

    async def test_goal_takes_its_children(self, store: Store, clock: ManualClock) -> None:
        """Children are cancelled with their goal, children of children too; running ones are marked."""
        goal_id, after = await add(store, goal(), keyed("after", "goal"))
        running, inner, blocked = await plan(store, clock, goal_id, keyed("a"), goal("inner"), keyed("c", "a"))
        [leaf] = await plan(store, clock, inner, keyed("leaf"))
        seq = await last_seq(store)
        assert await store.control(Cancel((goal_id,))) == Receipt((goal_id,))
        assert await told(store, seq) == [
            ("task.cancelled", goal_id),
            ("task.cancel_requested", running),
            ("task.cancelled", inner),
            ("task.cancelled", blocked),
            ("task.cancelled", leaf),
            ("task.failed", after),
        ]
        [run] = [run for run in await store.runs(running) if run.ended_at_ms is None]
        await end(store, clock, run.id, STOPPED)
        assert await states(store, [goal_id, running]) == [State.CANCELLED, State.CANCELLED]

    async def test_goal_and_child_may_both_be_named(self, store: Store, clock: ManualClock) -> None:
        """A child that its goal has just taken along counts as cancelled, not as refused."""
        [goal_id] = await add(store, goal())
        [child] = await plan(store, clock, goal_id, keyed("a"))
        assert await store.control(Cancel((goal_id, child))) == Receipt((goal_id, child))

    async def test_last_child_ends_its_goal(self, store: Store, clock: ManualClock) -> None:
        """A goal whose children were cancelled one by one has failed."""
        [goal_id] = await add(store, goal())
        children = await plan(store, clock, goal_id, keyed("a"), keyed("b", "a"))
        await store.control(Cancel(tuple(children)))
        assert await states(store, [goal_id, *children]) == [State.FAILED, State.CANCELLED, State.CANCELLED]


class TestHold:
    """Queued but not started."""

    async def test_hold_and_release(self, store: Store) -> None:
        """A held task is not claimed and a released one is; each change is told once."""
        [task_id] = await add(store, NewTask("t"))
        seq = await last_seq(store)
        for _ in range(2):
            assert await store.control(Hold((task_id,))) == Receipt((task_id,))
        assert (await get(store, task_id)).held
        assert await claim(store) == []
        for _ in range(2):
            assert await store.control(Release((task_id,))) == Receipt((task_id,))
        assert await told(store, seq) == [("task.held", task_id), ("task.released", task_id)]
        assert len(await claim(store)) == 1

    async def test_hold_of_a_blocked_task_lasts(self, store: Store, clock: ManualClock) -> None:
        """A need that is met does not release a held task."""
        a, b = await add(store, keyed("a"), keyed("b", "a"))
        await store.control(Hold((b,)))
        await run_through(store, clock, a)
        assert await states(store, [b]) == [State.QUEUED]
        assert await claim(store) == []

    async def test_held_task_may_come_due(self, store: Store, clock: ManualClock) -> None:
        """A back-off that ends while a task is held is over when it is released."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "no"))
        await store.control(Hold((task_id,)))
        clock.advance(10)
        assert await claim(store) == []
        await store.control(Release((task_id,)))
        assert len(await claim(store)) == 1


class TestRetry:
    """Failed, cancelled and stuck tasks start anew."""

    async def test_starts_anew(self, store: Store, clock: ManualClock) -> None:
        """Counts, failure and end are reset; session, commit, usage and start are kept."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        started_at_ms = clock.now_ms()
        await end(store, clock, run_id)
        [second] = await claim(store)
        await end(store, clock, second, Rejected("red", session_id="s-1"))
        [third] = await claim(store)
        await end(store, clock, third, BROKEN)
        failed, seq = await get(store, task_id), await last_seq(store)
        assert (failed.state, failed.round) == (State.FAILED, 1)
        clock.advance(1)
        assert await store.control(Retry((task_id,))) == Receipt((task_id,))
        task = await get(store, task_id)
        assert (task.state, task.phase, task.reason) == (State.QUEUED, Phase.APPLY, None)
        assert (task.attempt, task.round, task.alike, task.failure, task.finished_at_ms) == (0, 0, 0, None, None)
        assert (task.session_id, task.commit, task.runs) == ("s-1", "c0ffee1", 3)
        assert (task.usage, task.started_at_ms) == (failed.usage, started_at_ms)
        assert await told(store, seq) == [("task.queued", task_id)]
        assert len(await claim(store)) == 1

    async def test_from_a_phase(self, store: Store, clock: ManualClock) -> None:
        """A phase of the pipeline may be named; another is refused and changes nothing."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        await end(store, clock, run_id, BROKEN)
        receipt = await store.control(Retry((task_id,), phase=Phase.MERGE))
        assert receipt.changed == ()
        [(refused, why)] = receipt.refused
        assert refused == task_id
        assert "merge" in why
        assert await states(store, [task_id]) == [State.FAILED]
        await store.control(Retry((task_id,), phase=Phase.TEST))
        assert (await get(store, task_id)).phase is Phase.TEST

    async def test_note_is_told_to_the_agent(self, store: Store, clock: ManualClock) -> None:
        """A note takes the place of the feedback; without one the feedback stays."""
        task_id = await _stuck(store, clock)
        before = (await get(store, task_id)).feedback
        await store.control(Retry((task_id,)))
        assert (await get(store, task_id)).feedback == before
        await store.control(Cancel((task_id,)))
        await store.control(Retry((task_id,), note="use the other library"))
        assert (await get(store, task_id)).feedback == "use the other library"

    async def test_of_what_asks_a_person(self, store: Store, clock: ManualClock) -> None:
        """A task that needs you may be retried."""
        task_id = await _stuck(store, clock)
        assert await store.control(Retry((task_id,))) == Receipt((task_id,))
        assert await states(store, [task_id]) == [State.QUEUED]

    @pytest.mark.parametrize("running", [False, True])
    async def test_of_what_goes_on_is_refused(self, store: Store, *, running: bool) -> None:
        """A queued or running task has nothing to retry."""
        [task_id] = await add(store, NewTask("t"))
        await claim(store, slots=1 if running else 0)
        before = await get(store, task_id)
        receipt = await store.control(Retry((task_id,)))
        assert [refused for refused, _ in receipt.refused] == [task_id]
        assert before.state in receipt.refused[0][1]
        assert await get(store, task_id) == before

    async def test_dependents_wait_again(self, store: Store, clock: ManualClock) -> None:
        """What had failed by dependency is blocked again, recursively, and runs when the need is met."""
        a, b, c = await add(store, keyed("a"), keyed("b", "a"), keyed("c", "b"))
        await run_through(store, clock, a, BROKEN)
        seq = await last_seq(store)
        assert await store.control(Retry((a,))) == Receipt((a,))
        assert await told(store, seq) == [("task.queued", a), ("task.blocked", b), ("task.blocked", c)]
        waiting = await get(store, b)
        assert (waiting.state, waiting.reason, waiting.failure) == (State.BLOCKED, Reason.DEPENDENCY, None)
        assert waiting.finished_at_ms is None
        assert (await last(store, "task.blocked")).data == {
            "phase": "apply",
            "reason": "dependency",
            "round": 0,
            "attempt": 0,
        }
        for task_id in (a, b, c):
            await run_through(store, clock, task_id)
        assert await states(store, [a, b, c]) == [State.COMPLETED] * 3

    async def test_dependents_that_still_wait_go_on_waiting(self, store: Store, clock: ManualClock) -> None:
        """A task that waited while its need asked a person is not touched by the retry."""
        need = await _stuck(store, clock, "need")
        [waiting] = await add(store, keyed("waiting", "need"))
        seq = await last_seq(store)
        await store.control(Retry((need,)))
        assert await told(store, seq) == [("task.queued", need)]
        assert await states(store, [waiting]) == [State.BLOCKED]

    async def test_dependents_that_ended_otherwise_stay(self, store: Store, clock: ManualClock) -> None:
        """A dependent that somebody cancelled, or whose other need failed, is not revived."""
        ids = await add(store, keyed("a"), keyed("z"), keyed("cancelled", "a"), keyed("both", "a", "z"))
        a, z, cancelled, both = ids
        await store.control(Cancel((cancelled,)))
        await run_through(store, clock, a, BROKEN)
        await end(store, clock, (await store.runs(z))[0].id, BROKEN)
        await store.control(Retry((a,)))
        assert await states(store, [cancelled, both]) == [State.CANCELLED, State.FAILED]
        await store.control(Retry((z,)))
        assert await states(store, [cancelled, both]) == [State.CANCELLED, State.BLOCKED]

    async def test_with_a_dead_need_is_refused(self, store: Store, clock: ManualClock) -> None:
        """A task whose need failed could only wait for ever: the need must be retried too."""
        a, b = await add(store, keyed("a"), keyed("b", "a"))
        await run_through(store, clock, a, BROKEN)
        receipt = await store.control(Retry((b,)))
        assert receipt.changed == ()
        [(refused, why)] = receipt.refused
        assert (refused, f"task {a}," in why) == (b, True)
        assert await states(store, [b]) == [State.FAILED]

    @pytest.mark.parametrize("backwards", [False, True])
    async def test_together_with_the_need(self, store: Store, clock: ManualClock, *, backwards: bool) -> None:
        """Need and dependent may be named together in any order; both have the command's phase and note."""
        phases = (Phase.APPLY, Phase.TEST)
        ids = await add(store, *(replace(task, phases=phases) for task in (keyed("a"), keyed("b", "a"))))
        a, b = ids
        await run_through(store, clock, a, BROKEN)
        seq = await last_seq(store)
        named = tuple(reversed(ids)) if backwards else tuple(ids)
        assert await store.control(Retry(named, Phase.TEST, "again")) == Receipt((a, b))
        assert await told(store, seq) == [("task.queued", a), ("task.blocked", b)]
        for task_id in ids:
            task = await get(store, task_id)
            assert (task.phase, task.feedback) == (Phase.TEST, "again")

    async def test_of_a_cancelled_task_with_unmet_needs_blocks(self, store: Store) -> None:
        """A retried task waits for needs that are still under way."""
        _, b = await add(store, keyed("a"), keyed("b", "a"))
        await store.control(Cancel((b,)))
        await store.control(Retry((b,)))
        task = await get(store, b)
        assert (task.state, task.reason) == (State.BLOCKED, Reason.DEPENDENCY)

    async def test_of_a_child_while_its_goal_waits(self, store: Store, clock: ManualClock) -> None:
        """A goal still waiting counts a retried child as open again."""
        [goal_id] = await add(store, goal())
        a, b = await plan(store, clock, goal_id, keyed("a"), keyed("b"))
        await run_through(store, clock, a, BROKEN)
        await store.control(Retry((a,)))
        await end(store, clock, (await store.runs(b))[0].id)
        assert await states(store, [goal_id]) == [State.WAITING]
        await run_through(store, clock, a)
        assert await states(store, [goal_id]) == [State.COMPLETED]


async def test_reprioritise(store: Store) -> None:
    """Another priority changes the order of claims, and is told with its value."""
    one, two = await add(store, NewTask("t"), NewTask("t"))
    assert await store.control(Reprioritise((two,), 7)) == Receipt((two,))
    assert (await get(store, two)).spec.priority == 7
    event = await last(store, "task.reprioritised")
    assert (event.task_id, event.data) == (two, {"priority": 7})
    claimed = await store.claim(HOST, {SHARD: 2}, PLENTY)
    assert [each.task_id for each in claimed] == [two, one]


class TestSteer:
    """People change how the engine behaves."""

    async def test_nobody_asked_anything(self, store: Store) -> None:
        """At first nothing is asked."""
        assert await store.steering() == Steering(paused=False, agents=None, stop="no", changes=0)

    async def test_changes_only_what_is_named(self, store: Store) -> None:
        """A value that is not named stays as it is."""
        assert await store.control(Steer(paused=True)) == Receipt()
        await store.control(Steer(agents=3))
        await store.control(Steer(stop="drain"))
        assert await store.steering() == Steering(paused=True, agents=3, stop="drain")
        await store.control(Steer(paused=False, stop="no"))
        assert await store.steering() == Steering(paused=False, agents=3, stop="no")
        await store.control(Steer(agents=0))
        assert await store.steering() == Steering(paused=False, agents=None, stop="no")

    async def test_fact(self, store: Store) -> None:
        """What was asked is told, and only that."""
        await store.control(Steer(paused=True, stop="now"))
        event = await last(store, "engine.steered")
        assert (event.task_id, event.run_id, event.data) == (None, None, {"paused": True, "stop": "now"})


async def test_limit_is_told(store: Store) -> None:
    """A limit that an agent met is told with its end."""
    await store.limit(LimitSignal("five_hour", 1_900_000_000_000, HOST, "resets soon"))
    await store.limit(LimitSignal("overloaded", None, HOST))
    first, second = await store.events()
    assert (first.kind, first.task_id, first.run_id) == ("limit.met", None, None)
    assert first.data == {
        "kind": "five_hour",
        "until_at_ms": 1_900_000_000_000,
        "host": HOST,
        "detail": "resets soon",
    }
    assert second.data["until_at_ms"] is None


async def _stuck(store: Store, clock: ManualClock, key: str = "stuck") -> TaskId:
    task_id, run_id = await start(store, NewTask("t", key=key, phases=(Phase.APPLY, Phase.TEST), rounds=0))
    await end(store, clock, run_id)
    [second] = await claim(store)
    await end(store, clock, second, Rejected("1 failed"))
    assert await states(store, [task_id]) == [State.NEEDS_YOU]
    return task_id
