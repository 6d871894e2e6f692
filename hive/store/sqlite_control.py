"""What people ask for, on SQLite: cancel, hold, release, retry, reprioritise, steer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from hive.lifecycle import Trigger
from hive.model import FINAL, Reason, State, Task, TaskId
from hive.store import Cancel, Command, Hold, Receipt, Release, Reprioritise, Retry, Steer, facts
from hive.store.rows import clean, task_of
from hive.store.sqlite_database import Tx
from hive.store.sqlite_moves import cancel_tree, count, place, record, ripple


def control(tx: Tx, command: Command) -> Receipt:
    """Do what a person asked."""
    match command:
        case Cancel(ids):
            return _cancel(tx, ids)
        case Hold(ids):
            return _each(tx, ids, lambda tx, task: _hold(tx, task, held=True))
        case Release(ids):
            return _each(tx, ids, lambda tx, task: _hold(tx, task, held=False))
        case Retry(ids):
            # A task is younger than what it needs: by id, the needs of a task are retried before itself.
            named = frozenset(ids)
            return _each(tx, sorted(ids), lambda tx, task: _retry(tx, task, command, named))
        case Reprioritise(ids, priority):
            return _each(tx, ids, lambda tx, task: _reprioritise(tx, task, priority))
        case Steer(paused, agents, stop):
            tx.run("steer", {"paused": paused, "agents": agents, "stop": stop})
            record(tx, [facts.steered(command)])
            return Receipt()


def _each(tx: Tx, ids: Sequence[TaskId], act: Callable[[Tx, Task], str]) -> Receipt:
    changed: list[TaskId] = []
    refused: list[tuple[TaskId, str]] = []
    for task_id in ids:
        row = tx.one("task_get", {"id": task_id})
        why = act(tx, task_of(row)) if row is not None else "no such task"
        if why:
            refused.append((task_id, why))
        else:
            changed.append(task_id)
    return Receipt(tuple(changed), tuple(refused))


def _cancel(tx: Tx, ids: Sequence[TaskId]) -> Receipt:
    """Cancel all that is named before any dependent hears of it: who is named too must not fail instead."""
    ended: list[Task] = []
    just_ended: set[TaskId] = set()

    def cancel(tx: Tx, task: Task) -> str:
        if task.state in FINAL and task.id not in just_ended:
            return f"already {task.state}"
        now = cancel_tree(tx, task.id)
        ended.extend(now)
        just_ended.update(one.id for one in now)
        return ""

    receipt = _each(tx, ids, cancel)
    ripple(tx, ended)
    return receipt


def _hold(tx: Tx, task: Task, *, held: bool) -> str:
    if task.state in FINAL:
        return f"already {task.state}"
    row = tx.one("task_hold", {"id": task.id, "held": held})
    if row is not None:
        record(tx, [facts.held(task_of(row))])
    return ""


def _reprioritise(tx: Tx, task: Task, priority: int) -> str:
    row = tx.one("task_priority", {"id": task.id, "priority": priority})
    if row is None:
        return f"already {task.state}"
    record(tx, [facts.reprioritised(task_of(row))])
    return ""


def _retry(tx: Tx, task: Task, command: Retry, named: Collection[TaskId]) -> str:
    if task.state not in {State.FAILED, State.CANCELLED, State.NEEDS_YOU}:
        return f"it is {task.state}, not failed, cancelled or needs_you"
    if command.phase is not None and command.phase not in task.spec.phases:
        return f"its pipeline has no phase {command.phase}"
    dead = tx.one("dead_need", {"id": task.id})
    if dead is not None:
        return f"it needs task {dead['id']}, which is {dead['state']}: retry that too"
    blocked = count(tx, "unmet", task.id) > 0
    again = place(
        tx,
        task.id,
        task.state,
        Trigger.RETRY,
        State.BLOCKED if blocked else State.QUEUED,
        reason=Reason.DEPENDENCY if blocked else None,
        phase=command.phase,
        reset=True,
        feedback=clean(command.note) or None,
    )
    record(tx, [facts.moved(again)])
    _revive_dependents(tx, task.id, named)
    return ""


def _revive_dependents(tx: Tx, revived: TaskId, named: Collection[TaskId]) -> None:
    """Block again what failed only because of this need; who is `named` has its own turn."""
    again = deque([revived])
    while again:
        for row in tx.all("dependents", {"id": again.popleft()}):
            task_id = TaskId(row["id"])
            failed_with_it = row["state"] == State.FAILED and row["reason"] == Reason.DEPENDENCY
            if failed_with_it and task_id not in named and tx.one("dead_need", {"id": task_id}) is None:
                blocked = place(
                    tx, task_id, State.FAILED, Trigger.NEED_REVIVED, State.BLOCKED, reason=Reason.DEPENDENCY
                )
                record(tx, [facts.blocked(blocked)])
                again.append(task_id)
