from __future__ import annotations

import dataclasses
import json

import orjson

from hive import export
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
)
from hive.store import BatchTotals, Counts

USAGE = Usage(10, 20, 30, 40, 0.12345678, 1.23456)
TASK = Task(
    id=TaskId(7),
    spec=NewTask("Mend it", key="m", batch="b", role="backend", priority=5, tags=("x", "y")),
    state=State.FAILED,
    phase=Phase.TEST,
    created_at_ms=1,
    reason=Reason.NOT_RETRYABLE,
    attempt=2,
    round=1,
    session_id="s",
    branch="hive/m",
    commit="c0ffee",
    workspace="/w",
    failure=Failure("exit", "exit code 3", "abc"),
    exit_code=3,
    usage=USAGE,
    runs=4,
    started_at_ms=2,
    finished_at_ms=3,
)
RUN = Run(
    id=RunId(9),
    task_id=TaskId(7),
    phase=Phase.APPLY,
    attempt=1,
    round=0,
    shard="h.0.x",
    host="h",
    opened_at_ms=1,
    started_at_ms=2,
    ended_at_ms=3,
    process=ProcessRecord(4711, 5, "boot"),
    outcome="errored",
    failure=Failure("exit", "exit code 3", "abc"),
    exit_code=3,
    session_id="s",
    usage=USAGE,
)


def test_a_task_row_is_what_programs_rely_on() -> None:
    """The fields of hive.tasks/1 and their values: fields may be added, never renamed or removed."""
    assert export.task_row(TASK) == {
        "id": 7,
        "key": "m",
        "batch": "b",
        "title": "Mend it",
        "state": "failed",
        "phase": "test",
        "reason": "not_retryable",
        "role": "backend",
        "priority": 5,
        "tags": ["x", "y"],
        "attempt": 2,
        "round": 1,
        "branch": "hive/m",
        "commit": "c0ffee",
        "workspace": "/w",
        "cost_usd": 0.123457,
        "tokens": {"input": 10, "output": 20, "cache_read": 30, "cache_creation": 40},
        "duration_s": 1.235,
        "runs": 4,
        "created_at_ms": 1,
        "started_at_ms": 2,
        "finished_at_ms": 3,
        "not_before_at_ms": None,
        "exit_code": 3,
        "error": {"code": "exit", "message": "exit code 3", "group": "abc"},
        "session_id": "s",
    }


def test_a_held_task_says_so() -> None:
    """Hold is the reason a queued task waits; elsewhere it hides no other reason."""
    queued = dataclasses.replace(TASK, state=State.QUEUED, reason=Reason.BACKOFF, held=True, failure=None)
    assert export.task_row(queued)["reason"] == "hold"
    assert export.task_row(queued)["error"] is None
    assert export.task_row(dataclasses.replace(queued, state=State.BLOCKED))["reason"] == "backoff"


def test_a_run_row_is_what_programs_rely_on() -> None:
    """The fields of hive.runs/1 and their values."""
    row = export.run_row(RUN)
    assert list(row) == [
        "id",
        "task_id",
        "phase",
        "attempt",
        "round",
        "shard",
        "host",
        "outcome",
        "exit_code",
        "error",
        "cost_usd",
        "tokens",
        "duration_s",
        "session_id",
        "opened_at_ms",
        "started_at_ms",
        "ended_at_ms",
        "pid",
    ]
    assert (row["id"], row["outcome"], row["pid"], row["cost_usd"]) == (9, "errored", 4711, 0.123457)
    assert export.run_row(dataclasses.replace(RUN, process=None, failure=None))["pid"] is None


def test_an_event_row_is_the_event() -> None:
    """An event comes out field by field."""
    event = Event(3, 1_000, "task.added", TaskId(7), None, {"title": "t"})
    assert export.event_row(event) == dataclasses.asdict(event)


def test_the_status_row_sums_batches_and_names_every_state() -> None:
    """The whole and each batch name all states, and cost is the sum of the batches."""
    by_state = dict.fromkeys(State, 0) | {State.QUEUED: 2, State.COMPLETED: 1}
    ledger = [BatchTotals("a", {State.QUEUED: 2}, USAGE, 0), BatchTotals("b", {State.COMPLETED: 1}, USAGE, 3)]
    row = export.status_row(Counts(by_state, {"s1": 2, "s2": 1}, 1, 1, 99, 5), ledger)
    assert row["open_runs"] == 3
    assert (row["startable"], row["parked"], row["next_due_at_ms"]) == (1, 1, 99)
    assert row["cost_usd"] == 0.246914
    assert row["states"] == {state.value: by_state[state] for state in State}
    batches = row["batches"]
    assert isinstance(batches, list)
    assert [batch["batch"] for batch in batches] == ["a", "b"]
    assert all(set(batch["states"]) == {state.value for state in State} for batch in batches)


def test_an_envelope_says_what_it_is_and_when_it_was_true() -> None:
    """Every answer begins with its schema and a UTC moment with milliseconds."""
    answer = export.envelope(export.TASKS_SCHEMA, 1_800_000_000_007, tasks=[])
    assert list(answer.items()) == [("schema", "hive.tasks/1"), ("as_of", "2027-01-15T08:00:00.007Z"), ("tasks", [])]


def test_rows_are_plain_json() -> None:
    """Rows survive any JSON library: names of states are text, not members of an enum."""
    for row in (export.task_row(TASK), export.run_row(RUN)):
        assert json.loads(json.dumps(row)) == orjson.loads(orjson.dumps(row)) == row
