"""The JSON that other programs rely on: fields are added, never renamed or removed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hive.model import Event, Json, Run, State, Task, Usage
from hive.store import BatchTotals, Counts

TASKS_SCHEMA = "hive.tasks/1"


def task_row(task: Task) -> dict[str, Json]:
    """Return a task as a row of ``hive.tasks/1``."""
    spec, failure = task.spec, task.failure
    return {
        "id": task.id,
        "key": spec.key,
        "batch": spec.batch,
        "title": spec.title,
        "state": task.state,
        "phase": task.phase,
        "reason": "hold" if task.held and task.state is State.QUEUED else task.reason,
        "role": spec.role,
        "priority": spec.priority,
        "tags": list(spec.tags),
        "attempt": task.attempt,
        "round": task.round,
        "branch": task.branch,
        "commit": task.commit,
        "workspace": task.workspace or None,
        "cost_usd": round(task.usage.cost_usd, 6),
        "tokens": tokens(task.usage),
        "duration_s": round(task.usage.duration_s, 3),
        "runs": task.runs,
        "created_at_ms": task.created_at_ms,
        "started_at_ms": task.started_at_ms,
        "finished_at_ms": task.finished_at_ms,
        "not_before_at_ms": task.not_before_at_ms,
        "exit_code": task.exit_code,
        "error": {"code": failure.code, "message": failure.message, "group": failure.group} if failure else None,
        "session_id": task.session_id,
    }


def run_row(run: Run) -> dict[str, Json]:
    """Return a run as a row of ``hive.runs/1``."""
    failure = run.failure
    return {
        "id": run.id,
        "task_id": run.task_id,
        "phase": run.phase,
        "attempt": run.attempt,
        "round": run.round,
        "shard": run.shard,
        "host": run.host,
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "error": {"code": failure.code, "message": failure.message, "group": failure.group} if failure else None,
        "cost_usd": round(run.usage.cost_usd, 6),
        "tokens": tokens(run.usage),
        "duration_s": round(run.usage.duration_s, 3),
        "session_id": run.session_id,
        "opened_at_ms": run.opened_at_ms,
        "started_at_ms": run.started_at_ms,
        "ended_at_ms": run.ended_at_ms,
        "pid": run.process.pid if run.process else None,
    }


def event_row(event: Event) -> dict[str, Json]:
    """Return an event as ``hive events --jsonl`` prints it."""
    return {
        "seq": event.seq,
        "at_ms": event.at_ms,
        "kind": event.kind,
        "task_id": event.task_id,
        "run_id": event.run_id,
        "data": event.data,
    }


def status_row(counts: Counts, ledger: list[BatchTotals]) -> dict[str, Json]:
    """Return how the queue stands as ``hive.status/1``."""
    return {
        "states": state_counts(counts.by_state),
        "open_runs": sum(counts.open_runs.values()),
        "startable": counts.startable,
        "parked": counts.parked,
        "next_due_at_ms": counts.next_due_at_ms,
        "cost_usd": round(sum(batch.usage.cost_usd for batch in ledger), 6),
        "batches": [
            {
                "batch": batch.batch,
                "states": state_counts(batch.by_state),
                "cost_usd": round(batch.usage.cost_usd, 6),
                "tokens": tokens(batch.usage),
                "runs": batch.runs,
            }
            for batch in ledger
        ],
    }


def state_counts(by_state: Mapping[State, int]) -> dict[str, int]:
    """Return counts by state's name, zero included."""
    return {state.value: by_state.get(state, 0) for state in State}


def tokens(usage: Usage) -> dict[str, Json]:
    """Return tokens by class."""
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_creation": usage.cache_creation_tokens,
    }


def envelope(schema: str, as_of_ms: int, **fields: Json) -> dict[str, Json]:
    """Return what every ``--json`` answer looks like: its schema, the moment it was true, then its fields."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(as_of_ms // 1000))
    return {"schema": schema, "as_of": f"{moment}.{as_of_ms % 1000:03d}Z", **fields}
