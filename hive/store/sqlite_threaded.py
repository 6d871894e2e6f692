"""A SQLite store's transactions under an event loop: a writer thread with group commit, reads on aiosqlite.

A transaction is one function on the writer thread, since two coroutines that share a connection lose each other's
writes. All that queues up while one commit is under way goes into the next, so the fsync is shared.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hive.clock import Clock
from hive.errors import StoreUnavailable
from hive.store.sqlite_database import Database, Reading, Row, Write, pragmas, translated

if TYPE_CHECKING:
    import aiosqlite

T = TypeVar("T")


MOST_PER_COMMIT = 64
MOST_WAITING = 4096


@dataclass(slots=True)
class _Op:
    fn: Write[object]
    future: asyncio.Future[object]


class ThreadedEngine:
    """A writer thread with its own connection, and a second connection for reads on aiosqlite.

    One task at a time may not starve another: work is taken in order of arrival, at most `MOST_PER_COMMIT` a commit.
    """

    def __init__(self, path: Path, *, clock: Clock, boot_id: str) -> None:
        self._path = path
        self._clock = clock
        self._boot_id = boot_id
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Op] = deque()
        self._wake = threading.Condition()
        self._room = asyncio.Semaphore(MOST_WAITING)
        self._closing = False
        self._ready: asyncio.Future[object] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="hive-store-writer", daemon=True)
        self._reader: aiosqlite.Connection | None = None
        self._database: Database | None = None

    async def open(self) -> None:
        """Start the writer, which migrates the file if need be, and then the reader."""
        self._thread.start()
        await self._ready
        # After our library module has chosen SQLite: aiosqlite takes whatever `sqlite3` is by then.
        import aiosqlite

        with translated(self._path):
            self._reader = await aiosqlite.connect(self._path, isolation_level=None)
            self._reader.row_factory = Row
            for statement in pragmas(read_only=True):
                await self._reader.execute_fetchall(statement)

    async def write(self, fn: Write[T]) -> T:
        """Run a transaction and return its result after the commit.

        A caller that is cancelled while it waits does not undo the write: cancelled is not "not done".
        """
        async with self._room:
            if self._closing:
                raise StoreUnavailable("the store is closed", code="H301", where=str(self._path))
            future: asyncio.Future[object] = self._loop.create_future()
            with self._wake:
                self._waiting.append(_Op(fn, future))
                self._wake.notify()
            return await future  # type: ignore[return-value]  # it holds what this very function returned

    async def read(self, reading: Reading[T]) -> T:
        """Run the statements of a read and return what it makes of the rows."""
        reader, database = self._reader, self._database
        if reader is None or database is None:
            raise StoreUnavailable("the store is closed", code="H301", where=str(self._path))
        rows: list[Row] | None = None
        with translated(self._path):
            while True:
                try:
                    ask = next(reading) if rows is None else reading.send(rows)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
                rows = list(await reader.execute_fetchall(database.statements[ask.name], dict(ask.params)))

    async def close(self) -> None:
        """Commit what was accepted, then close both connections; twice is harmless."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            await self._loop.run_in_executor(None, self._thread.join)

    def _work(self) -> None:
        try:
            database = Database(self._path, clock=self._clock, boot_id=self._boot_id)
        except BaseException as error:  # noqa: BLE001 - handed to `open`, which waits for this
            self._tell(partial(self._ready.set_exception, error))
            return
        self._database = database
        self._tell(lambda: self._ready.set_result(None))
        try:
            while self._wait_for_work():
                self._commit(database)
        finally:
            database.close()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            return bool(self._waiting)

    def _commit(self, database: Database) -> None:
        taken: list[_Op] = []

        def drain() -> Sequence[Write[object]]:
            with self._wake:
                while self._waiting and len(taken) < MOST_PER_COMMIT:
                    taken.append(self._waiting.popleft())
            return [op.fn for op in taken]

        try:
            results = database.write_many(drain)
        except Exception as error:  # noqa: BLE001 - handed to every caller of this commit
            if not taken:  # the gate itself failed: the operations are still in the queue
                drain()
            results = [(None, error)] * len(taken)
        self._tell(lambda: _resolve(taken, results))

    def _tell(self, callback: Callable[[], object]) -> None:
        # A loop that is closed by now has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)


def _resolve(ops: Sequence[_Op], results: Sequence[tuple[object, Exception | None]]) -> None:
    for op, (result, error) in zip(ops, results, strict=True):
        if op.future.done():
            continue  # its caller was cancelled
        if error is None:
            op.future.set_result(result)
        else:
            op.future.set_exception(error)
