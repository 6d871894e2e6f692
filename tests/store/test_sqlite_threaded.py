from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.errors import StoreError, StoreUnavailable, StoreUnsupported, UsageError
from hive.model import NewEvent, NewTask
from hive.store import TaskQuery
from hive.store.sqlite import SqliteStore
from hive.store.sqlite_database import Tx
from hive.store.sqlite_library import sqlite3
from hive.store.sqlite_threaded import MOST_PER_COMMIT, MOST_WAITING, ThreadedEngine
from tests.rig import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the queue is made."""
    return tmp_path / "hive.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """Return a store with a writer thread."""
    opened = await SqliteStore.open(path, clock=SystemClock(), boot_id="b")
    yield opened
    await opened.close()


async def test_many_writes_share_few_commits(store: SqliteStore) -> None:
    """Writes that come together are committed together, at most so many at a time, each in a savepoint of its own."""
    with _trace(store) as statements:
        added = await asyncio.gather(*[store.add([_task(number)]) for number in range(500)])
    assert len({one[0].id for one in added}) == 500
    commits = _sizes(statements)
    assert sum(commits) == 500
    assert max(commits) <= MOST_PER_COMMIT
    assert len(commits) <= 500 // MOST_PER_COMMIT + 10


async def test_a_write_that_fails_does_not_sink_the_others(store: SqliteStore) -> None:
    """An error of one caller, of whatever kind, is that caller's alone, though the commit is shared."""
    wrong = [
        NewTask(title="needs nobody", key="w", after=("nobody",)),
        NewTask(title="text for a number", priority="high"),  # type: ignore[arg-type]
        NewTask(title="nothing SQLite knows", priority=object()),  # type: ignore[arg-type]
        NewTask(title="a number too large", priority=2**70),
    ]
    with _gate_held(store):
        good = [asyncio.create_task(store.add([_task(number)])) for number in range(20)]
        bad = [asyncio.create_task(store.add([task])) for task in wrong]
        good += [asyncio.create_task(store.add([_task(number)])) for number in range(20, 40)]
        await _queued(store, 44)
    failures = await asyncio.gather(*bad, return_exceptions=True)
    assert [type(failure) for failure in failures] == [UsageError, StoreError, StoreError, OverflowError]
    await asyncio.gather(*good)
    assert len(await store.tasks(TaskQuery())) == 40


async def test_half_a_write_is_taken_back_alone(store: SqliteStore) -> None:
    """What a write did before it failed is undone, and what its neighbours in the commit did is not."""

    def half(tx: Tx) -> None:
        tx.run("batch_add", {"name": "half", "now_ms": 1})
        raise ZeroDivisionError

    with _gate_held(store):
        before = asyncio.create_task(store.add([_task(1)]))
        failing = asyncio.create_task(_engine(store).write(half))
        after = asyncio.create_task(store.add([_task(2)]))
        await _queued(store, 3)
    await asyncio.gather(before, after)
    with pytest.raises(ZeroDivisionError):
        await failing
    assert [totals.batch for totals in await store.ledger()] == ["default"]


async def test_writes_happen_in_the_order_they_came(store: SqliteStore) -> None:
    """First come, first served: the order of facts is that of the calls."""
    await asyncio.gather(*[store.append([NewEvent("n.counted", data={"n": number})]) for number in range(300)])
    assert [event.data["n"] for event in await store.events()] == list(range(300))


async def test_a_caller_that_was_cancelled_has_written_all_the_same(store: SqliteStore) -> None:
    """Cancelled is not undone: what was accepted is committed though nobody waits for it any more."""
    with _gate_held(store):
        call = asyncio.create_task(store.add([_task(1)]))
        await _queued(store, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await store.add([_task(2)])
    assert [task.spec.key for task in await store.tasks(TaskQuery())] == ["1", "2"]


async def test_closing_commits_what_was_accepted(store: SqliteStore, path: Path) -> None:
    """Calls under way when the store is closed get their answers, and what they wrote is there."""
    with _gate_held(store):
        calls = [asyncio.create_task(store.add([_task(number)])) for number in range(200)]
        await _queued(store, 200)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        assert not closing.done()
    await closing
    assert len(await asyncio.gather(*calls)) == 200
    again = await SqliteStore.open(path, clock=SystemClock(), boot_id="b")
    assert len(await again.tasks(TaskQuery())) == 200
    await again.close()


async def test_after_closing_nothing_is_accepted(store: SqliteStore) -> None:
    """Reads and writes of a closed store are refused, and closing it again is harmless."""
    await store.close()
    await store.close()
    for verb in (store.add([_task(1)]), store.tasks(TaskQuery()), store.counts()):
        with pytest.raises(StoreUnavailable, match="closed") as caught:
            await verb
        assert caught.value.code == "H301"
    assert not _engine(store)._thread.is_alive()


async def test_an_answer_comes_after_the_commit(store: SqliteStore, path: Path) -> None:
    """Whoever is told of a write can rely on it: another connection sees it by then."""
    other = sqlite3.connect(path)
    for number in range(20):
        [added] = await store.add([_task(number)])
        assert other.execute("SELECT count(*) FROM task WHERE id = ?", (added.id,)).fetchone() == (1,)
    other.close()


async def test_reads_go_on_while_a_write_waits(store: SqliteStore) -> None:
    """Neither the loop nor readers stop while another process holds the gate."""
    await store.add([_task(1)])
    with _gate_held(store):
        call = asyncio.create_task(store.add([_task(2)]))
        await _queued(store, 1)
        assert len(await asyncio.wait_for(store.tasks(TaskQuery()), 5)) == 1
        assert not call.done()
    await call
    assert len(await store.tasks(TaskQuery())) == 2


async def test_the_queue_of_writes_is_bounded(store: SqliteStore) -> None:
    """More writes than the queue holds wait their turn outside of it; none is lost."""
    with _gate_held(store):
        calls = [asyncio.create_task(store.append([NewEvent("n.counted")])) for _ in range(MOST_WAITING + 500)]
        await _queued(store, MOST_WAITING)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(_engine(store)._waiting) <= MOST_WAITING
    await asyncio.gather(*calls)
    assert (await store.counts()).last_seq == MOST_WAITING + 500


async def test_a_full_disk_fails_the_whole_commit_and_passes(store: SqliteStore) -> None:
    """Without space everybody in the commit is told to try again later; with space again all works."""
    connection = _connection(store)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    answers = await asyncio.gather(
        *[store.append([NewEvent("n.counted", data={"x": "x" * 3000})]) for _ in range(30)], return_exceptions=True
    )
    failures = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
    assert failures
    assert {failure.code for failure in failures} == {"H308"}
    connection.execute("PRAGMA max_page_count=1000000")
    before = (await store.counts()).last_seq
    assert before == len(answers) - len(failures)
    await store.append([NewEvent("n.counted")])
    assert (await store.counts()).last_seq == before + 1


async def test_a_reader_cannot_write(store: SqliteStore) -> None:
    """The reading connection refuses changes, so that none can bypass the writer."""
    reader = _engine(store)._reader
    assert reader is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await reader.execute("DELETE FROM task")


async def test_an_open_that_fails_leaves_no_thread(path: Path) -> None:
    """A file that is no queue is refused by name, and nothing stays behind."""
    _spoil(path)
    with pytest.raises(StoreUnsupported) as caught:
        await SqliteStore.open(path, clock=SystemClock(), boot_id="b")
    assert caught.value.code == "H306"
    await until(lambda: not [one for one in threading.enumerate() if one.name == "hive-store-writer"])


def _spoil(path: Path) -> None:
    path.write_bytes(b"no database" * 100)


def _task(number: int) -> NewTask:
    return NewTask(title=f"task {number}", key=str(number))


def _engine(store: SqliteStore) -> ThreadedEngine:
    engine = store._engine
    assert isinstance(engine, ThreadedEngine)
    return engine


def _connection(store: SqliteStore) -> sqlite3.Connection:
    database = _engine(store)._database
    assert database is not None
    return database.connection


@contextmanager
def _trace(store: SqliteStore) -> Iterator[list[str]]:
    """Collect the statements of the writer."""
    statements: list[str] = []
    _connection(store).set_trace_callback(statements.append)
    yield statements
    _connection(store).set_trace_callback(None)


def _sizes(statements: list[str]) -> list[int]:
    """Return how many savepoints each commit held."""
    sizes = [0]
    for statement in statements:
        if statement.startswith("SAVEPOINT"):
            sizes[-1] += 1
        elif statement == "COMMIT":
            sizes.append(0)
    return sizes[:-1]


@contextmanager
def _gate_held(store: SqliteStore) -> Iterator[None]:
    """Be another process that writes."""
    path = _engine(store)._path
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


async def _queued(store: SqliteStore, count: int) -> None:
    """Wait until so many writes were accepted and none of them is done."""
    await until(lambda: len(_engine(store)._waiting) >= count, f"{len(_engine(store)._waiting)} of {count} queued")
