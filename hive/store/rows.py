"""Between our values and a database's columns: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import orjson

from hive.model import (
    Event,
    Failure,
    NewTask,
    Phase,
    ProcessRecord,
    Reason,
    Run,
    RunId,
    State,
    Task,
    TaskId,
    Usage,
    WorkspaceKind,
)
from hive.store import Assignment


class Row(Protocol):
    """A row of any database: values by column name."""

    def __getitem__(self, key: str, /) -> Any: ...


def dump(value: object) -> str:
    """Return JSON text; what is not Unicode is replaced rather than refused, since agents' words get here."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return orjson.dumps(_cleaned(value)).decode()


def dump_spec(task: NewTask) -> str:
    """Return a task's specification as JSON, without what has a column of its own to change in."""
    fields = {name: value for name, value in asdict(task).items() if name not in {"batch", "key", "priority"}}
    return dump(fields)


def task_of(row: Row) -> Task:
    """Build a task from the columns of `task_columns`."""
    return Task(
        id=TaskId(row["id"]),
        spec=_spec(row),
        state=State(row["state"]),
        phase=Phase(row["phase"]),
        created_at_ms=row["created_at_ms"],
        reason=Reason(row["reason"]) if row["reason"] else None,
        attempt=row["attempt"],
        round=row["round"],
        held=bool(row["held"]),
        cancel_requested=bool(row["cancel_requested"]),
        not_before_at_ms=row["not_before_at_ms"],
        session_id=row["session_id"],
        branch=row["branch"],
        base_commit=row["base_commit"],
        commit=row["head_commit"],
        workspace=row["workspace"],
        feedback=row["feedback"],
        failure=_failure(row, ""),
        alike=row["alike"],
        exit_code=row["exit_code"],
        usage=usage_of(row, ""),
        runs=row["runs"],
        started_at_ms=row["started_at_ms"],
        finished_at_ms=row["finished_at_ms"],
        parent=TaskId(row["parent_id"]) if row["parent_id"] is not None else None,
    )


def run_of(row: Row) -> Run:
    """Build a run from the columns of `run_columns`."""
    return Run(
        id=RunId(row["run_id"]),
        task_id=TaskId(row["run_task_id"]),
        phase=Phase(row["run_phase"]),
        attempt=row["run_attempt"],
        round=row["run_round"],
        shard=row["run_shard"],
        host=row["run_host"],
        opened_at_ms=row["run_opened_at_ms"],
        started_at_ms=row["run_started_at_ms"],
        ended_at_ms=row["run_ended_at_ms"],
        process=_process(row),
        outcome=row["run_outcome"],
        failure=_failure(row, "run_"),
        exit_code=row["run_exit_code"],
        session_id=row["run_session_id"],
        usage=usage_of(row, "run_"),
        reserved_usd=row["run_reserved_usd"],
    )


def assignment_of(row: Row) -> Assignment:
    """Build an open run and its task from one row."""
    return Assignment(run_of(row), task_of(row))


def event_of(row: Row) -> Event:
    """Build an event."""
    return Event(row["seq"], row["at_ms"], row["kind"], row["task_id"], row["run_id"], orjson.loads(row["data"]))


def usage_of(row: Row, prefix: str) -> Usage:
    """Build usage from columns that start with `prefix`."""
    return Usage(
        row[prefix + "input_tokens"],
        row[prefix + "output_tokens"],
        row[prefix + "cache_read_tokens"],
        row[prefix + "cache_creation_tokens"],
        row[prefix + "cost_usd"],
        row[prefix + "duration_s"],
    )


def failure_columns(failure: Failure | None) -> dict[str, str | None]:
    """Return the three columns of a failure."""
    if failure is None:
        return {"failure_code": None, "failure_message": None, "failure_group": None}
    return {
        "failure_code": failure.code,
        "failure_message": clean(failure.message),
        "failure_group": failure.group or None,
    }


def usage_columns(usage: Usage) -> dict[str, float]:
    """Return the six columns of usage."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_creation_tokens": usage.cache_creation_tokens,
        "cost_usd": usage.cost_usd,
        "duration_s": usage.duration_s,
    }


def clean(text: str) -> str:
    """Return text that a database accepts: lone surrogates replaced, NUL removed."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _spec(row: Row) -> NewTask:
    fields = orjson.loads(row["spec"])
    for name in ("after", "tags", "paths", "command", "test", "allowed_tools"):
        fields[name] = tuple(fields[name])
    fields["phases"] = tuple(Phase(phase) for phase in fields["phases"])
    fields["workspace"] = WorkspaceKind(fields["workspace"])
    return NewTask(**fields, batch=row["batch"], key=row["key"], priority=row["priority"])


def _failure(row: Row, prefix: str) -> Failure | None:
    code = row[prefix + "failure_code"]
    if code is None:
        return None
    return Failure(code, row[prefix + "failure_message"] or "", row[prefix + "failure_group"] or "")


def _process(row: Row) -> ProcessRecord | None:
    if row["run_pid"] is None:
        return None
    return ProcessRecord(row["run_pid"], row["run_pid_started"], row["run_boot_id"])


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value


__all__ = [
    "assignment_of",
    "clean",
    "dump",
    "dump_spec",
    "event_of",
    "failure_columns",
    "run_of",
    "task_of",
    "usage_columns",
    "usage_of",
]
