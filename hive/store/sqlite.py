"""The store in one SQLite file, for one machine and a local disk.

This class only joins each verb to its transaction (`sqlite_writes`), its read (`sqlite_reads`) and the engine that
runs them. WAL mode, `synchronous=FULL`: what was answered survives a power cut if the disk honours fsync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from hive.clock import Clock
from hive.lifecycle import Rules
from hive.model import Event, NewEvent, NewTask, Outcome, ProcessRecord, Run, RunId, Step, Task, TaskId
from hive.store import (
    Added,
    Assignment,
    BatchTotals,
    Claimed,
    Command,
    Counts,
    Finish,
    Limits,
    LimitSignal,
    Receipt,
    Renewal,
    Steering,
    TaskQuery,
    sqlite_control,
    sqlite_moves,
)
from hive.store import sqlite_reads as reads
from hive.store import sqlite_writes as writes
from hive.store.sqlite_database import Reading, Write

T = TypeVar("T")


class Engine(Protocol):
    """What runs transactions and reads."""

    async def write(self, fn: Write[T]) -> T: ...
    async def read(self, reading: Reading[T]) -> T: ...
    async def close(self) -> None: ...


class SqliteStore:
    """The verbs of `hive.store.Store` on SQLite; see there for what each promises."""

    def __init__(self, engine: Engine, *, clock: Clock, boot_id: str, store_id: str) -> None:
        self._engine = engine
        self._clock = clock
        self._boot_id = boot_id
        self._store_id = store_id

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, boot_id: str) -> SqliteStore:
        """Open or create a store for an event loop: a writer thread and aiosqlite.

        Raises:
            StoreError: See `sqlite_database.Database`.
        """
        from hive.store.sqlite_threaded import ThreadedEngine

        engine = ThreadedEngine(path, clock=clock, boot_id=boot_id)
        try:
            await engine.open()
            store_id = await engine.read(reads.store_id())
        except BaseException:
            await engine.close()
            raise
        return cls(engine, clock=clock, boot_id=boot_id, store_id=store_id)

    @classmethod
    async def open_inline(cls, path: Path, *, clock: Clock, boot_id: str) -> SqliteStore:
        """Open or create a store whose verbs run in the calling thread and never wait."""
        from hive.store.sqlite_inline import InlineEngine

        engine = InlineEngine(path, clock=clock, boot_id=boot_id)
        return cls(engine, clock=clock, boot_id=boot_id, store_id=await engine.read(reads.store_id()))

    @property
    def store_id(self) -> str:
        return self._store_id

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await self._engine.write(lambda tx: writes.add(tx, tasks))

    async def claim(self, host: str, slots: Mapping[str, int], limits: Limits) -> list[Claimed]:
        return await self._engine.write(lambda tx: writes.claim(tx, host, slots, limits))

    async def load(self, run_ids: Sequence[RunId]) -> list[Assignment]:
        return await self._engine.read(reads.load(run_ids))

    async def attach(self, run_id: RunId, process: ProcessRecord | None) -> bool:
        return await self._engine.write(lambda tx: writes.attach(tx, run_id, process))

    async def workspace(self, task_id: TaskId, path: str, branch: str | None, base: str | None) -> None:
        await self._engine.write(lambda tx: writes.workspace(tx, task_id, path, branch, base))

    async def renew(self, shard: str, host: str, run_ids: Sequence[RunId], lease_s: float) -> Renewal:
        return await self._engine.write(lambda tx: writes.renew(tx, shard, host, run_ids, lease_s))

    async def finish(self, run_id: RunId, step: Step) -> Finish:
        return await self._engine.write(lambda tx: writes.finish(tx, run_id, step))

    async def open_runs(self, host: str) -> list[Run]:
        return await self._engine.read(reads.open_runs(host))

    async def lost(self, host: str, live: Sequence[str]) -> list[Assignment]:
        now_s = self._clock.monotonic_s()
        return await self._engine.read(reads.lost(host, live, now_s, self._boot_id))

    async def release(self, run_ids: Sequence[RunId], why: Outcome, rules: Rules) -> list[RunId]:
        return await self._engine.write(lambda tx: writes.release(tx, run_ids, why, rules))

    async def control(self, command: Command) -> Receipt:
        return await self._engine.write(lambda tx: sqlite_control.control(tx, command))

    async def steering(self) -> Steering:
        return await self._engine.read(reads.steering())

    async def limit(self, signal: LimitSignal) -> None:
        await self._engine.write(lambda tx: writes.limit(tx, signal))

    async def append(self, events: Sequence[NewEvent]) -> None:
        await self._engine.write(lambda tx: sqlite_moves.record(tx, events))

    async def events(self, after: int = 0, limit: int = 1000, task_id: TaskId | None = None) -> list[Event]:
        return await self._engine.read(reads.events(after, limit, task_id))

    async def task(self, task_id: TaskId) -> Task | None:
        return await self._engine.read(reads.task(task_id))

    async def tasks(self, query: TaskQuery) -> list[Task]:
        return await self._engine.read(reads.tasks(query))

    async def runs(self, task_id: TaskId) -> list[Run]:
        return await self._engine.read(reads.runs(task_id))

    async def needs(self, task_id: TaskId) -> list[TaskId]:
        return await self._engine.read(reads.needs(task_id))

    async def counts(self) -> Counts:
        return await self._engine.read(reads.counts())

    async def ledger(self) -> list[BatchTotals]:
        return await self._engine.read(reads.ledger())

    async def prune(self, before_ms: int, budget: int) -> int:
        return await self._engine.write(lambda tx: writes.prune(tx, before_ms, budget))

    async def close(self) -> None:
        await self._engine.close()
