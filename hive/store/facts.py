"""The facts a store writes with the change they describe: kinds and data keys, the same on every store.

Builds events and nothing else; each store numbers and keeps them. Order of the events of one verb:

- The subject first: ``run.finished`` before what became of its task; ``task.added`` of subtasks after their goal's.
- Then what follows from it, breadth first: for each task that ended its dependents by id, then its goal.
- A verb for several runs does one after the other; a cancel first ends all it was asked to, goals before children.
"""

from __future__ import annotations

from collections.abc import Mapping

from hive.model import Failure, Json, NewEvent, Run, Step, Task
from hive.store import LimitSignal, Steer


def added(task: Task) -> NewEvent:
    """Say that a task is in the queue; its state is queued, blocked, or failed when a need had failed."""
    data: dict[str, Json] = {
        "title": task.spec.title,
        "batch": task.spec.batch,
        "key": task.spec.key,
        "role": task.spec.role,
        "state": task.state,
        "phase": task.phase,
        "reason": task.reason,
        "parent": task.parent,
    }
    return NewEvent("task.added", task.id, None, data)


def claimed(task: Task, run: Run) -> NewEvent:
    """Say that a run was opened for a task and given to a shard."""
    data: dict[str, Json] = {
        "phase": run.phase,
        "attempt": run.attempt,
        "round": run.round,
        "shard": run.shard,
        "host": run.host,
    }
    return NewEvent("task.claimed", task.id, run.id, data)


def started(run: Run) -> NewEvent:
    """Say that a run's agent process exists."""
    data: dict[str, Json] = {
        "phase": run.phase,
        "attempt": run.attempt,
        "shard": run.shard,
        "pid": run.process.pid if run.process else None,
    }
    return NewEvent("run.started", run.task_id, run.id, data)


def finished(task: Task, run: Run) -> NewEvent:
    """Say how a run ended, whoever ended it."""
    data: dict[str, Json] = {
        "outcome": run.outcome,
        "phase": run.phase,
        "attempt": run.attempt,
        "exit_code": run.exit_code,
        "cost_usd": run.usage.cost_usd,
        "duration_s": run.usage.duration_s,
    }
    return NewEvent("run.finished", task.id, run.id, data)


def own_failure(before: Task, step: Step) -> Failure | None:
    """Return the failure that belongs in the row of the run that ended.

    A step also carries the failure of an earlier run along, to count endings that are alike: that is not this run's.
    """
    carried = step.failure == before.failure and step.alike == before.alike
    return None if carried else step.failure


def moved(task: Task) -> NewEvent:
    """Say where a task stands now, as ``task.<state>``, with its failure while it has one."""
    return NewEvent(f"task.{task.state}", task.id, None, _standing(task))


def unblocked(task: Task) -> NewEvent:
    """Say that the last need of a task was met."""
    return NewEvent("task.unblocked", task.id, None, _standing(task))


def blocked(task: Task) -> NewEvent:
    """Say that a task which had failed with its need waits for it again."""
    return NewEvent("task.blocked", task.id, None, _standing(task))


def held(task: Task) -> NewEvent:
    """Say that a task was held or, when it no longer is, released."""
    return NewEvent("task.held" if task.held else "task.released", task.id)


def reprioritised(task: Task) -> NewEvent:
    """Say that a task has another priority."""
    return NewEvent("task.reprioritised", task.id, None, {"priority": task.spec.priority})


def cancel_requested(task: Task) -> NewEvent:
    """Say that the agent of a task is to be stopped."""
    return NewEvent("task.cancel_requested", task.id)


def steered(command: Steer) -> NewEvent:
    """Say what a person changed about the engine; what was left alone is not named."""
    asked: Mapping[str, Json] = {"paused": command.paused, "agents": command.agents, "stop": command.stop}
    return NewEvent("engine.steered", data={name: value for name, value in asked.items() if value is not None})


def limit_met(signal: LimitSignal) -> NewEvent:
    """Say that an agent met a limit."""
    data: dict[str, Json] = {
        "kind": signal.kind,
        "until_at_ms": signal.until_at_ms,
        "host": signal.host,
        "detail": signal.detail,
    }
    return NewEvent("limit.met", data=data)


def _standing(task: Task) -> Mapping[str, Json]:
    data: dict[str, Json] = {
        "phase": task.phase,
        "reason": task.reason,
        "round": task.round,
        "attempt": task.attempt,
    }
    if task.failure is not None:
        data |= {"code": task.failure.code, "message": task.failure.message, "group": task.failure.group}
    return data
