"""What an engine does with a store, in one call each, so that a test tells only its own story."""

from __future__ import annotations

from collections.abc import Sequence

from hive.clock import Clock
from hive.lifecycle import Rules, advance
from hive.model import (
    Cancelled,
    Errored,
    Event,
    Evidence,
    NewTask,
    Outcome,
    Phase,
    Planned,
    RunId,
    State,
    Succeeded,
    Task,
    TaskId,
)
from hive.store import Finish, Limits, Store, TaskQuery

HOST = "here"
SHARD = "here-0-a"
PLENTY = Limits(agents=1000)
DONE = Succeeded(summary="done", evidence=Evidence(commit="c0ffee1", test_exit_code=0))
BROKEN = Errored("exit", "exit code 1", retryable=False, exit_code=1)
STOPPED = Cancelled()


def rules(clock: Clock) -> Rules:
    """Return rules for an ending now, with half of the possible jitter."""
    return Rules(now_ms=clock.now_ms(), jitter=0.5)


def keyed(key: str, *after: str, batch: str = "default") -> NewTask:
    """Return a task with a key and needs."""
    return NewTask(title=f"task {key}", key=key, after=after, batch=batch)


def goal(key: str = "goal") -> NewTask:
    """Return a task that is planned first."""
    return NewTask(title="a goal", key=key, role="planner", phases=(Phase.PLAN,))


async def add(store: Store, *tasks: NewTask) -> list[TaskId]:
    """Add tasks and return their ids."""
    return [added.id for added in await store.add(tasks)]


async def claim(store: Store, slots: int = 1000) -> list[RunId]:
    """Open runs for all that can start and return their ids."""
    return [claimed.run_id for claimed in await store.claim(HOST, {SHARD: slots}, PLENTY)]


async def start(store: Store, *tasks: NewTask) -> tuple[TaskId, RunId]:
    """Add tasks, claim one and return it with its run."""
    await store.add(tasks)
    [claimed] = await store.claim(HOST, {SHARD: 1}, PLENTY)
    return claimed.task_id, claimed.run_id


async def end(store: Store, clock: Clock, run_id: RunId, outcome: Outcome = DONE) -> Finish:
    """End an open run as the worker would."""
    [assignment] = await store.load([run_id])
    return await store.finish(run_id, advance(assignment.task, outcome, rules(clock)))


async def run_through(store: Store, clock: Clock, task_id: TaskId, outcome: Outcome = DONE) -> None:
    """Claim all that can start and end the run of one task."""
    await claim(store)
    [run] = [run for run in await store.runs(task_id) if run.ended_at_ms is None]
    assert await end(store, clock, run.id, outcome) is Finish.COMMITTED


async def plan(store: Store, clock: Clock, goal_id: TaskId, *subtasks: NewTask) -> list[TaskId]:
    """Let a queued goal be planned and return the ids of its new children."""
    before = await _children(store, goal_id)
    await run_through(store, clock, goal_id, Planned(subtasks))
    return [child for child in await _children(store, goal_id) if child not in before]


async def _children(store: Store, goal_id: TaskId) -> list[TaskId]:
    return [task.id for task in await everything(store) if task.parent == goal_id]


async def get(store: Store, task_id: TaskId) -> Task:
    """Return a task that must exist."""
    task = await store.task(task_id)
    assert task is not None
    return task


async def states(store: Store, ids: Sequence[TaskId]) -> list[State]:
    """Return where tasks stand, in the order asked."""
    return [(await get(store, task_id)).state for task_id in ids]


async def everything(store: Store) -> list[Task]:
    """Return all tasks by id."""
    return await store.tasks(TaskQuery())


async def last_seq(store: Store) -> int:
    """Return the number of the newest event, 0 before the first."""
    return max((event.seq for event in await store.events(limit=1_000_000)), default=0)


async def told(store: Store, after: int) -> list[tuple[str, TaskId | None]]:
    """Return kind and task of the events since, in order."""
    return [(event.kind, event.task_id) for event in await store.events(after)]


async def last(store: Store, kind: str) -> Event:
    """Return the newest event of a kind."""
    return [event for event in await store.events(limit=1_000_000) if event.kind == kind][-1]
