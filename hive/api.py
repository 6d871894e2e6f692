"""Hive from Python: `open` for asyncio, `open_sync` for plain code, with the same verbs.

Both read and change the queue directly. `run` starts the engine as a process of its own, because an engine forks and
a program with threads or an event loop must not; it is the same engine that `hive run` starts.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hive.clock import Clock, SystemClock
from hive.errors import HiveError, UsageError
from hive.model import FINAL, Event, NewTask, Phase, Run, State, Task, TaskId
from hive.store import (
    Added,
    BatchTotals,
    Cancel,
    Command,
    Counts,
    Receipt,
    Retry,
    Steering,
    Store,
    TaskQuery,
    open_store,
)

if TYPE_CHECKING:
    import asyncio
    import subprocess

T = TypeVar("T")
_TAIL_S = 0.25
# How long an engine may take after the first TERM, which drains, and after the second, which stops agents: these get
# `grace` (5 s unless set otherwise), and the guardian has to see to the last of them.
_STOP_PATIENCE_S = (1.0, 20.0)


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run of the engine ended.

    Attributes:
        states: Number of tasks by state, over the tasks this run was about.
        wall_s: Seconds from start to end.
        exit_code: As `hive run` would exit; 0 when all are completed.
        reason: The exit code in a word: ``completed``, ``failed``, ``needs_you``, ``stopped``, ...
    """

    states: dict[str, int]
    wall_s: float
    exit_code: int
    reason: str


class Hive:
    """A queue, opened for asyncio. Made by `hive.open`."""

    def __init__(self, store: Store, clock: Clock, url: str) -> None:
        self._store = store
        self._clock = clock
        self._url = url

    @property
    def store_id(self) -> str:
        """Return the store's name; ``HIVE_RUN_ID`` of its agents' processes is this, a dot and the run's id."""
        return self._store.store_id

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        """Add tasks, all or none; an existing key answers with the task that is there.

        Raises:
            UsageError: A need is unknown, needs form a cycle, or a task asks for nothing that an engine could do;
                nothing was added.
        """
        from hive.preflight import check_shape

        check_shape(tasks)
        return await self._store.add(tasks)

    async def task(self, task_id: int) -> Task | None:
        """Return one task, or None."""
        return await self._store.task(TaskId(task_id))

    async def tasks(self, query: TaskQuery | None = None) -> list[Task]:
        """Return the tasks a query selects; without one the first 1,000."""
        return await self._store.tasks(query or TaskQuery())

    async def runs(self, task_id: int) -> list[Run]:
        """Return a task's runs, oldest first."""
        return await self._store.runs(TaskId(task_id))

    async def needs(self, task_id: int) -> list[TaskId]:
        """Return what a task needs."""
        return await self._store.needs(TaskId(task_id))

    async def counts(self) -> Counts:
        """Return how the queue stands."""
        return await self._store.counts()

    async def ledger(self) -> list[BatchTotals]:
        """Return sums per batch."""
        return await self._store.ledger()

    async def steering(self) -> Steering:
        """Return what people asked of the engine."""
        return await self._store.steering()

    async def past_events(self, after: int = 0, limit: int = 1000, task_id: int | None = None) -> list[Event]:
        """Return events that are there, in order."""
        return await self._store.events(after, limit, TaskId(task_id) if task_id is not None else None)

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield every event with a greater sequence number, then each new one as it is committed; never ends.

        Durable and resumable: go on after a crash by passing the last `seq` that was dealt with.
        """
        while True:
            page = await self._store.events(after)
            for event in page:
                after = event.seq
                yield event
            if not page:
                await self._clock.sleep(_TAIL_S)

    async def control(self, command: Command) -> Receipt:
        """Hold, release, reprioritise or steer."""
        return await self._store.control(command)

    async def cancel(self, *task_ids: int) -> Receipt:
        """Cancel tasks; running agents are stopped first."""
        return await self._store.control(Cancel(tuple(TaskId(task_id) for task_id in task_ids)))

    async def retry(self, *task_ids: int, phase: Phase | None = None, note: str = "") -> Receipt:
        """Queue failed, cancelled or stuck tasks again."""
        return await self._store.control(Retry(tuple(TaskId(task_id) for task_id in task_ids), phase, note))

    async def wait(self, *task_ids: int, timeout_s: float | None = None) -> list[Task]:
        """Return the tasks once each is final or needs a person.

        Raises:
            TimeoutError: They were not after `timeout_s`; nothing is changed by that.
            UsageError: There is no such task.
        """
        deadline_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        while True:
            tasks = [await self._known(task_id) for task_id in task_ids]
            if all(settled(task) for task in tasks):
                return tasks
            if deadline_s is not None and self._clock.monotonic_s() >= deadline_s:
                raise TimeoutError(f"not settled after {timeout_s:g} s")
            await self._clock.sleep(_TAIL_S)

    async def run(self, *arguments: str) -> Summary:
        """Work the queue until nothing is left; `arguments` are those of `hive run`.

        When this is cancelled the engine is stopped first; its running agents are given a moment to end.

        Raises:
            HiveError: The engine could not start; the message is its own.
        """
        import asyncio

        process = await asyncio.create_subprocess_exec(
            *engine_argv(self._url, arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
        ended = asyncio.ensure_future(process.communicate())
        try:
            out, err = await asyncio.shield(ended)
        except asyncio.CancelledError:
            await _stop(process, ended)
            raise
        return summary_of(out, err, process.returncode)

    async def close(self) -> None:
        """Let go of the store; twice is harmless."""
        await self._store.close()

    async def _known(self, task_id: int) -> Task:
        task = await self.task(task_id)
        if task is None:
            raise UsageError(f"there is no task {task_id}", code="H130", fix="list tasks with: hive ls")
        return task


class SyncHive:
    """A queue, opened for plain code. Made by `hive.open_sync`. Every verb is that of `Hive`, done at once.

    Closed by `close`, or by the end of the ``with`` statement it is used in.
    """

    def __init__(self, hive: Hive, clock: Clock, url: str) -> None:
        self._hive = hive
        self._clock = clock
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def store_id(self) -> str:
        """See `Hive.store_id`."""
        return self._hive.store_id

    def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        """See `Hive.add`."""
        return drive(self._hive.add(tasks))

    def task(self, task_id: int) -> Task | None:
        """See `Hive.task`."""
        return drive(self._hive.task(task_id))

    def tasks(self, query: TaskQuery | None = None) -> list[Task]:
        """See `Hive.tasks`."""
        return drive(self._hive.tasks(query))

    def runs(self, task_id: int) -> list[Run]:
        """See `Hive.runs`."""
        return drive(self._hive.runs(task_id))

    def needs(self, task_id: int) -> list[TaskId]:
        """See `Hive.needs`."""
        return drive(self._hive.needs(task_id))

    def counts(self) -> Counts:
        """See `Hive.counts`."""
        return drive(self._hive.counts())

    def ledger(self) -> list[BatchTotals]:
        """See `Hive.ledger`."""
        return drive(self._hive.ledger())

    def steering(self) -> Steering:
        """See `Hive.steering`."""
        return drive(self._hive.steering())

    def past_events(self, after: int = 0, limit: int = 1000, task_id: int | None = None) -> list[Event]:
        """See `Hive.past_events`."""
        return drive(self._hive.past_events(after, limit, task_id))

    def events(self, after: int = 0) -> Iterator[Event]:
        """Yield events and go on waiting for new ones; see `Hive.events`."""
        while True:
            page = self.past_events(after)
            for event in page:
                after = event.seq
                yield event
            if not page:
                self._pause()

    def control(self, command: Command) -> Receipt:
        """See `Hive.control`."""
        return drive(self._hive.control(command))

    def cancel(self, *task_ids: int) -> Receipt:
        """See `Hive.cancel`."""
        return drive(self._hive.cancel(*task_ids))

    def retry(self, *task_ids: int, phase: Phase | None = None, note: str = "") -> Receipt:
        """See `Hive.retry`."""
        return drive(self._hive.retry(*task_ids, phase=phase, note=note))

    def wait(self, *task_ids: int, timeout_s: float | None = None) -> list[Task]:
        """See `Hive.wait`."""
        deadline_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        while True:
            try:
                return drive(self._hive.wait(*task_ids, timeout_s=0))
            except TimeoutError:
                if deadline_s is not None and self._clock.monotonic_s() >= deadline_s:
                    raise TimeoutError(f"not settled after {timeout_s:g} s") from None
            self._pause()

    def run(self, *arguments: str) -> Summary:
        """See `Hive.run`; what cancels here is an exception out of a signal handler, such as `KeyboardInterrupt`."""
        import subprocess

        argv = engine_argv(self._url, arguments)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as process:
            try:
                out, err = process.communicate()
            except BaseException:
                _stop_blocking(process)
                raise
        return summary_of(out, err, process.returncode)

    def close(self) -> None:
        """See `Hive.close`."""
        drive(self._hive.close())

    def _pause(self) -> None:
        import time

        time.sleep(_TAIL_S)


@asynccontextmanager
async def open(url: str, *, clock: Clock | None = None) -> AsyncIterator[Hive]:  # noqa: A001 - hive.open, like os.open
    """Open or create a queue for asyncio: ``async with hive.open("sqlite:///.hive/hive.db") as h``.

    Raises:
        StoreError: It cannot be opened.
    """
    from hive.agent.proctable import boot_id

    clock = clock or SystemClock()
    hive = Hive(await open_store(url, clock=clock, boot_id=boot_id()), clock, url)
    try:
        yield hive
    finally:
        await hive.close()


def open_sync(url: str, *, clock: Clock | None = None) -> SyncHive:
    """Open or create a queue for plain code: ``with hive.open_sync("sqlite:///.hive/hive.db") as h``.

    Raises:
        StoreError: It cannot be opened.
    """
    from hive.agent.proctable import boot_id

    clock = clock or SystemClock()
    store = drive(open_store(url, clock=clock, boot_id=boot_id(), inline=True))
    return SyncHive(Hive(store, clock, url), clock, url)


def settled(task: Task) -> bool:
    """Return whether nothing more happens to a task without a person."""
    return task.state in FINAL or task.state is State.NEEDS_YOU


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, without an event loop; those of an inline store are such."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # a coroutine's return value is untyped here
    coroutine.close()
    raise RuntimeError("a verb of an inline store waited")


def engine_argv(url: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that starts an engine on a queue: this very binary, or this Python.

    Without ``-P`` a directory `hive` where the program happens to stand would be run instead.
    """
    frozen = getattr(sys, "frozen", False)
    start = [sys.executable] if frozen else [sys.executable, "-P", "-m", "hive"]
    return [*start, "--db", url, "run", "--json", "--progress", "none", *arguments]


async def _stop(process: asyncio.subprocess.Process, ended: asyncio.Future[tuple[bytes, bytes]]) -> None:
    """Stop an engine: drain, interrupt, kill. Cancelled once more, kill and wait for the last of it only."""
    import asyncio

    try:
        for patience_s in _STOP_PATIENCE_S:
            with suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait([ended], timeout=patience_s)
            if ended.done():
                return
    finally:
        ended.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


def _stop_blocking(process: subprocess.Popen[bytes]) -> None:
    """See `_stop`."""
    import subprocess

    try:
        for patience_s in _STOP_PATIENCE_S:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=patience_s)
                return
    finally:
        process.kill()  # nothing to a process that ended and was waited for


def summary_of(out: bytes, err: bytes, code: int | None) -> Summary:
    """Read what `hive run --json` printed: in its last line, where events come before it.

    Raises:
        HiveError: It printed no summary; its own words are the message.
    """
    import orjson

    try:
        data = orjson.loads(out.rstrip().rpartition(b"\n")[2])
        return Summary(data["counts"], data["wall_s"], data["exit"]["code"], data["exit"]["reason"])
    except (orjson.JSONDecodeError, KeyError):
        words = err.decode("utf-8", "replace").strip() or f"exit code {code}"
        raise HiveError(f"the engine did not start: {words}", code="H221") from None


__all__ = ["Hive", "Summary", "SyncHive", "open", "open_sync"]
