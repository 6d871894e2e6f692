"""A SQLite store's transactions run at once in the caller, for `--sync` and plain code.

Its coroutines never wait, so `hive.api` can drive them without an event loop; nothing here imports asyncio.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from hive.clock import Clock
from hive.errors import StoreUnavailable
from hive.store.sqlite_database import Database, Reading, Row, Tx, Write

T = TypeVar("T")


class InlineEngine:
    """One connection used by the thread that calls; every coroutine ends without waiting."""

    def __init__(self, path: Path, *, clock: Clock, boot_id: str) -> None:
        self._database: Database | None = Database(path, clock=clock, boot_id=boot_id)

    async def write(self, fn: Write[T]) -> T:
        """Run a transaction; committed when this returns."""
        return self._open().write(fn)

    async def read(self, reading: Reading[T]) -> T:
        """Run a read on one snapshot."""

        def go(tx: Tx) -> T:
            rows: list[Row] | None = None
            while True:
                try:
                    ask = next(reading) if rows is None else reading.send(rows)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
                rows = tx.all(ask.name, ask.params)

        return self._open().read(go)

    async def close(self) -> None:
        """Close the connection; twice is harmless."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> Database:
        if self._database is None:
            raise StoreUnavailable("the store is closed", code="H301")
        return self._database
