"""How SQLite finds rows in a queue with 100,000 tasks, runs and events behind and before it."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.clock import ManualClock
from hive.store import Limits
from hive.store import sqlite_writes as writes
from hive.store.sqlite_database import Database
from tests.conftest import ROOT

ROWS = 100_000
OPEN_RUNS = 200

# Most tasks are done or queued, as in life; a few are parked, held, blocked, failed or in progress.
TASKS = f"""
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
INSERT INTO task (batch_id, key, parent_id, role, priority, spec, state, phase, created_at_ms, finished_at_ms,
                  not_before_at_ms, parked, held, failure_group)
SELECT 1, 'k' || i, CASE WHEN i % 100 = 2 THEN i - 1 END, CASE WHEN i % 3 THEN 'coder' ELSE 'tester' END, i % 7,
       '{{"title": "t", "prompt": "", "after": [], "tags": [], "paths": [], "command": [], "test": [],'
       || ' "allowed_tools": [], "phases": ["apply"], "workspace": "none"}}',
       CASE WHEN i <= {OPEN_RUNS} THEN 'in_progress' WHEN i % 10 < 4 THEN 'completed' WHEN i % 10 = 4 THEN 'failed'
            WHEN i % 10 = 5 THEN 'blocked' ELSE 'queued' END,
       'apply', 0, CASE WHEN i > {OPEN_RUNS} AND i % 10 < 5 THEN i END,
       CASE WHEN i > {OPEN_RUNS} AND i % 10 = 6 THEN 9e15 END, i > {OPEN_RUNS} AND i % 10 = 6, i % 10 = 7,
       CASE WHEN i % 10 = 4 THEN 'g' || i % 50 END
FROM n
"""
RUNS = """
INSERT INTO run (task_id, phase, attempt, round, shard, host, opened_at_ms, ended_at_ms, outcome)
SELECT id, 'apply', 1, 0, 's' || id % 4, 'h', 0, CASE WHEN state <> 'in_progress' THEN 1 END,
       CASE WHEN state <> 'in_progress' THEN 'succeeded' END FROM task
"""
EVENTS = "INSERT INTO event (at_ms, kind, task_id, run_id, data) SELECT 0, 'task.added', id, NULL, '{}' FROM task"
NEEDS = "INSERT INTO need (task_id, needs_id) SELECT id, id - 1 FROM task WHERE state = 'blocked'"

# What may be read from one end to the other: counters and batches are few, json_each is an argument, and run_open holds
# nothing but the open runs.
SMALL = re.compile(
    r"SCAN (counter|batch|CONSTANT ROW|run USING( COVERING)? INDEX run_open|(wanted|json_each) VIRTUAL TABLE.*)"
)
# Lists for people: they may go through all tasks, a page at a time.
LISTS = {"tasks", "tasks_newest"}


def _statements() -> list[str]:
    names = [file.stem for file in (ROOT / "hive" / "store" / "sqlite").glob("*.sql")]
    return sorted(name for name in names if not name.endswith("_columns") and name not in LISTS)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Return a queue with a long past and a long future."""
    database = _made(tmp_path_factory.mktemp("plans") / "hive.db")
    with_rows = database.connection
    with_rows.execute("BEGIN")
    for statement in ("INSERT INTO batch (name, created_at_ms) VALUES ('default', 0)", TASKS, RUNS, EVENTS, NEEDS):
        with_rows.execute(statement)
    with_rows.execute("COMMIT")
    yield database
    database.close()


@pytest.mark.parametrize("name", _statements())
def test_no_statement_goes_through_a_whole_table(full: Database, name: str) -> None:
    """Tasks, runs, events and needs are found by an index, never by looking at all of them."""
    scans = [step for step in _plan(full, name) if "SCAN" in step and not SMALL.fullmatch(step)]
    assert scans == []


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("claim_pick", "task_startable"),
        ("unpark", "task_parked"),
        ("counts", "task_parked"),
        ("counts", "run_open"),
        ("open_by_shard", "run_open"),
        ("open_runs", "run_open"),
        ("lost", "run_open"),
        ("runs_of_shard", "run_open"),
        ("dependents", "need_by_need"),
        ("children", "task_parent"),
        ("task_by_key", "sqlite_autoindex_task_1"),
        ("events_of_task", "event_task"),
        ("runs", "run_task"),
        ("prune_pick", "task_finished"),
    ],
)
def test_each_statement_is_served_by_its_index(full: Database, name: str, index: str) -> None:
    """The index a statement was given is the one it uses."""
    assert any(f"INDEX {index}" in step for step in _plan(full, name))


@pytest.mark.parametrize(
    "name", ["load", "task_get", "run_get", "run_end", "task_step", "claim_task", "attach_first", "attach_again"]
)
def test_single_rows_are_found_by_their_number(full: Database, name: str) -> None:
    """Ids lead straight to the row."""
    steps = _plan(full, name)
    assert any(re.fullmatch(r"SEARCH (task|run) USING INTEGER PRIMARY KEY \(rowid=\?\)", step) for step in steps)


@pytest.mark.parametrize("name", ["claim_pick", "events", "events_of_task"])
def test_what_is_read_in_order_needs_no_sorting(full: Database, name: str) -> None:
    """A limit stops the search early only where the index has the order."""
    assert not any("TEMP B-TREE" in step for step in _plan(full, name))


def test_a_claim_costs_the_same_however_long_the_queue(full: Database, tmp_path: Path) -> None:
    """Claiming from 100,000 tasks takes about as long as claiming from a hundred."""
    short = _made(tmp_path / "hive.db")
    short.connection.execute("INSERT INTO batch (name, created_at_ms) VALUES ('default', 0)")
    short.connection.execute(TASKS.replace(str(ROWS), "600"))
    try:
        assert _claim_s(full) < 5 * _claim_s(short) + 0.005
    finally:
        short.close()


def test_how_the_queue_stands_is_told_at_once(full: Database) -> None:
    """Counting reads counters, not tasks: a few milliseconds whatever the size, and exact."""
    took_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        full.read(lambda tx: tx.all("counts"))
        took_s.append(time.perf_counter() - began_s)
    assert statistics.median(took_s) < 0.02
    rows = full.read(lambda tx: tx.all("counts"))
    assert sum(row["n"] for row in rows if row["state"] is not None) == ROWS


def _claim_s(database: Database) -> float:
    """Return the median time of a claim of one task, in seconds; nothing stays claimed."""
    took_s = []
    for _ in range(15):
        began_s = time.perf_counter()
        with pytest.raises(ZeroDivisionError):  # rolls it back
            database.write(lambda tx: len(writes.claim(tx, "h", {"x": 1}, Limits(10_000))) and 1 // 0)
        took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s)


def _made(path: Path) -> Database:
    return Database(path, clock=ManualClock(), boot_id="b")


def _plan(database: Database, name: str) -> list[str]:
    text = database.statements[name]
    names = re.findall(r":([a-z_]+)", re.sub(r"--.*", "", text))
    values = {one: "[1]" if one in {"ids", "live"} else 1 for one in names}
    return [row["detail"] for row in database.connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
