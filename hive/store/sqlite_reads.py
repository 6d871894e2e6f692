"""The reading verbs on SQLite, each a generator that yields statements and receives their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hive.model import Event, Run, RunId, State, Task, TaskId
from hive.store import Assignment, BatchTotals, Counts, Steering, TaskQuery
from hive.store.rows import assignment_of, dump, event_of, run_of, task_of, usage_of
from hive.store.sqlite_database import Ask, Reading


def store_id() -> Reading[str]:
    """Return the name made with the store."""
    rows = yield Ask("store_id", {})
    return str(rows[0]["value"])


def load(run_ids: Sequence[RunId]) -> Reading[list[Assignment]]:
    """Return those of the runs that are open."""
    rows = yield Ask("load", {"ids": dump(list(run_ids))})
    return [assignment_of(row) for row in rows]


def open_runs(host: str) -> Reading[list[Run]]:
    """Return a machine's open runs."""
    rows = yield Ask("open_runs", {"host": host})
    return [run_of(row) for row in rows]


def lost(host: str, live: Sequence[str], monotonic_s: float, boot_id: str) -> Reading[list[Assignment]]:
    """Return open runs that nobody carries."""
    rows = yield Ask("lost", {"host": host, "live": dump(list(live)), "monotonic_s": monotonic_s, "boot_id": boot_id})
    return [assignment_of(row) for row in rows]


def steering() -> Reading[Steering]:
    """Return what people asked of the engine."""
    rows = yield Ask("steering", {})
    return Steering(bool(rows[0]["paused"]), rows[0]["agents"], rows[0]["stop"], rows[0]["changes"])


def events(after: int, limit: int, task_id: TaskId | None) -> Reading[list[Event]]:
    """Return events in order."""
    if task_id is None:
        rows = yield Ask("events", {"after": after, "limit": limit})
    else:
        rows = yield Ask("events_of_task", {"after": after, "limit": limit, "task_id": task_id})
    return [event_of(row) for row in rows]


def task(task_id: TaskId) -> Reading[Task | None]:
    """Return one task."""
    rows = yield Ask("task_get", {"id": task_id})
    return task_of(rows[0]) if rows else None


def tasks(query: TaskQuery) -> Reading[list[Task]]:
    """Return the tasks a query selects."""
    params = {
        "after_id": query.after_id,
        "ids": dump(list(query.ids)) if query.ids else None,
        "states": dump(sorted(query.states)) if query.states else None,
        "batch": query.batch,
        "failure_group": query.group,
        "tag": query.tag,
        "text": query.text,
        "limit": query.limit,
    }
    rows = yield Ask("tasks_newest" if query.newest_first else "tasks", params)
    return [task_of(row) for row in rows]


def runs(task_id: TaskId) -> Reading[list[Run]]:
    """Return a task's runs."""
    rows = yield Ask("runs", {"id": task_id})
    return [run_of(row) for row in rows]


def needs(task_id: TaskId) -> Reading[list[TaskId]]:
    """Return what a task needs."""
    rows = yield Ask("needs", {"id": task_id})
    return [TaskId(row["needs_id"]) for row in rows]


def counts() -> Reading[Counts]:
    """Return how the queue stands, in one statement so that the figures belong together."""
    rows = yield Ask("counts", {})
    by_state: dict[State, int] = dict.fromkeys(State, 0)
    open_by_shard: dict[str, int] = {}
    startable = parked = 0
    next_due_at_ms: int | None = None
    last_seq = 0
    for row in rows:
        if row["state"] is not None:
            by_state[State(row["state"])] += row["n"]
            if row["state"] == State.QUEUED and not row["held"]:
                startable += 0 if row["parked"] else row["n"]
                parked += row["n"] if row["parked"] else 0
        elif row["shard"] is not None:
            open_by_shard[row["shard"]] = row["n"]
        else:
            next_due_at_ms, last_seq = row["due_at_ms"], row["n"]
    return Counts(by_state, open_by_shard, startable, parked, next_due_at_ms, last_seq)


def ledger() -> Reading[list[BatchTotals]]:
    """Return sums per batch."""
    states: dict[str, dict[State, int]] = defaultdict(lambda: dict.fromkeys(State, 0))
    for row in (yield Ask("ledger_states", {})):
        states[row["batch"]][State(row["state"])] += row["n"]
    rows = yield Ask("ledger", {})
    return [BatchTotals(row["batch"], dict(states[row["batch"]]), usage_of(row, ""), row["runs"]) for row in rows]
