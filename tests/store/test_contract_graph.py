"""The seam, third part: what follows from an ending for dependents and goals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hive.clock import ManualClock
from hive.errors import UsageError
from hive.lifecycle import advance
from hive.model import (
    Phase,
    Planned,
    Reason,
    RunId,
    State,
    TaskId,
)
from hive.store import Cancel, Hold, Retry, Store
from tests.store.play import (
    BROKEN,
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
    states,
    told,
)


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

    async def test_subtask_may_be_held(self, store: Store, clock: ManualClock) -> None:
        """What a planner wants held is held, the rest starts."""
        [goal_id] = await add(store, goal())
        held, free = await plan(store, clock, goal_id, replace(keyed("a"), hold=True), keyed("b"))
        assert [(await get(store, child)).held for child in (held, free)] == [True, False]

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
        a, b, c = await plan(store, clock, goal_id, keyed("a"), keyed("b"), keyed("c"))
        await run_through(store, clock, a, BROKEN)
        assert await states(store, [goal_id]) == [State.WAITING]
        for child in (b, c):
            await end(store, clock, (await store.runs(child))[0].id)
        failed = await get(store, goal_id)
        assert (failed.state, failed.reason) == (State.FAILED, Reason.CHILD_FAILED)
        assert failed.failure is not None
        assert (failed.failure.code, failed.failure.message) == ("child_failed", "1 of 3 subtasks did not complete")

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
