"""Moves of tasks that no run carries, on SQLite, and how an ending spreads to dependents and goals.

Parts of the transactions in `sqlite_writes` and `sqlite_control`; every move goes through `lifecycle.check`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from hive import lifecycle
from hive.errors import UsageError
from hive.lifecycle import Trigger
from hive.model import FINAL, Failure, NewEvent, Phase, Reason, State, Task, TaskId
from hive.store import facts
from hive.store.graph import child_failure, need_failure
from hive.store.rows import dump, failure_columns, task_of
from hive.store.sqlite_database import Tx


def ripple(tx: Tx, ended: Iterable[Task]) -> None:
    """Tell the dependents and the goals of tasks that have just become final, and theirs."""
    waiting = deque(ended)
    while waiting:
        task = waiting.popleft()
        waiting.extend(_tell_dependents(tx, task))
        if task.parent is not None:
            waiting.extend(close_goal(tx, task.parent))


def _tell_dependents(tx: Tx, need: Task) -> list[Task]:
    """Free or fail who waits for `need`; returns who failed."""
    failed = []
    for row in tx.all("dependents", {"id": need.id}):
        if row["state"] != State.BLOCKED:
            continue
        task_id = TaskId(row["id"])
        if need.state is not State.COMPLETED:
            failure = need_failure(need.id)
            after = place(
                tx, task_id, State.BLOCKED, Trigger.NEED_ENDED, State.FAILED, reason=Reason.DEPENDENCY, failure=failure
            )
            record(tx, [facts.moved(after)])
            failed.append(after)
        elif not count(tx, "unmet", task_id):
            freed = place(tx, task_id, State.BLOCKED, Trigger.NEED_COMPLETED, State.QUEUED)
            record(tx, [facts.unblocked(freed)])
    return failed


def close_goal(tx: Tx, goal: TaskId) -> list[Task]:
    """End a goal that waits for nobody any more; returns it then."""
    if get(tx, goal).state is not State.WAITING:
        return []
    states = [State(row["state"]) for row in tx.all("children", {"id": goal})]
    if any(state not in FINAL for state in states):
        return []
    if all(state is State.COMPLETED for state in states):
        closed = place(tx, goal, State.WAITING, Trigger.LAST_CHILD, State.COMPLETED)
    else:
        failure = child_failure(states)
        closed = place(
            tx, goal, State.WAITING, Trigger.LAST_CHILD, State.FAILED, reason=Reason.CHILD_FAILED, failure=failure
        )
    record(tx, [facts.moved(closed)])
    return [closed]


def cancel_tree(tx: Tx, root: TaskId) -> list[Task]:
    """Cancel a task and, goal before children, all below it; returns those that ended at once."""
    ended = []
    tree = [root]
    for task_id in tree:
        task = get(tx, task_id)
        if task.state is State.IN_PROGRESS:
            _request_cancel(tx, task)
        elif task.state not in FINAL:
            tree.extend(children(tx, task_id))
            cancelled = place(tx, task_id, task.state, Trigger.CANCEL, State.CANCELLED, reason=Reason.CANCELLED)
            record(tx, [facts.moved(cancelled)])
            ended.append(cancelled)
    return ended


def _request_cancel(tx: Tx, task: Task) -> None:
    lifecycle.check(task.state, Trigger.CANCEL, State.IN_PROGRESS)
    if tx.run("task_cancel", {"id": task.id}):
        tx.run("steering_changed")
        record(tx, [facts.cancel_requested(task)])


def place(
    tx: Tx,
    task_id: TaskId,
    was: State,
    trigger: Trigger,
    becomes: State,
    *,
    reason: Reason | None = None,
    phase: Phase | None = None,
    reset: bool = False,
    feedback: str | None = None,
    failure: Failure | None = None,
) -> Task:
    """Move a task that no run carries; whatever it waited for is over."""
    lifecycle.check(was, trigger, becomes)
    row = tx.one(
        "task_place",
        {
            "id": task_id,
            "was": was,
            "state": becomes,
            "phase": phase,
            "reason": reason,
            "reset": reset,
            "feedback": feedback,
            "final": becomes in FINAL,
            "now_ms": tx.now_ms,
            **failure_columns(failure),
        },
    )
    assert row is not None, "read in this very transaction"
    return task_of(row)


def record(tx: Tx, events: Sequence[NewEvent]) -> None:
    """Append events with the next sequence numbers."""
    tx.many(
        "event_add",
        [
            {
                "now_ms": tx.now_ms,
                "kind": event.kind,
                "task_id": event.task_id,
                "run_id": event.run_id,
                "data": dump(event.data),
            }
            for event in events
        ],
    )


def children(tx: Tx, goal: TaskId) -> list[TaskId]:
    """Return the subtasks of a goal, by id."""
    return [TaskId(row["id"]) for row in tx.all("children", {"id": goal})]


def count(tx: Tx, name: str, task_id: TaskId) -> int:
    """Return what a counting statement says of a task."""
    row = tx.one(name, {"id": task_id})
    assert row is not None
    return int(row["n"])


def get(tx: Tx, task_id: TaskId) -> Task:
    """Return a task.

    Raises:
        UsageError: H130, there is none.
    """
    row = tx.one("task_get", {"id": task_id})
    if row is None:
        raise UsageError(f"there is no task {task_id}", code="H130", fix="list tasks with: hive ls")
    return task_of(row)
