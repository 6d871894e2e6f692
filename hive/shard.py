"""One event loop that carries many runs: inbox, slots, lease renewal, drain.

The queen says which runs to carry; a shard never chooses. What it is told may be late, doubled or missing: it skips
runs it holds already, and asks the store for everything it needs to know of the others.
"""

from __future__ import annotations

import asyncio
import heapq
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom
from typing import TypeVar

from hive import bus
from hive.agent import Agent, proctable
from hive.agent.process import Launcher
from hive.bus import Chatter
from hive.channel import Channel, Frame
from hive.clock import Clock, SystemClock
from hive.config import Settings
from hive.errors import ConfigError, StoreUnavailable
from hive.guardian import GuardClient
from hive.model import Cancelled, Interrupted, Lost, ProcessRecord, RunId
from hive.store import Assignment, Store, open_store
from hive.worker import Tools, Worker
from hive.workspace import Workspaces

T = TypeVar("T")
_GIT_THREADS = 4
_SWEEP_S = 1.0
_STORE_RETRY_S = 1.0
_RECORD_PATIENCE_S = 3.0  # after an interrupt, for a queue that takes no writes
_SLOTS_PER_SHARD = 10_000  # slots are numbered per machine: no two agents share a configuration directory


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard stands: its incarnation's name, its machine, its number there, and who hears of its processes."""

    shard: str
    host: str
    index: int
    registered: Callable[[ProcessRecord, str], None]
    forgotten: Callable[[int], None]
    renewed: Callable[[], None]


class Shard:
    """The runs of one event loop. Made and used inside that loop.

    Args:
        ended: Told the ids of runs whose ending is recorded; must not block.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        place: Place,
        *,
        clock: Clock,
        ended: Callable[[Sequence[RunId]], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._place = place
        self._clock = clock
        self._ended = ended
        self._just_ended: list[RunId] = []
        self._workers: dict[RunId, tuple[Worker, asyncio.Task[None]]] = {}
        self._coming: set[RunId] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._slots: list[int] = []
        self._slots_made = 0
        self._draining = False
        self._interrupted = False
        self._abandoned = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._threads = ThreadPoolExecutor(_GIT_THREADS, thread_name_prefix="hive-blocking")
        self._launcher = Launcher(clock)
        self._agents: dict[str, Agent] = {}
        self._chatter = Chatter()
        self._tools = Tools(
            store=store,
            settings=settings,
            clock=clock,
            agents=self._agent,
            workspaces=Workspaces(settings.state_dir, clock, settings.environ, branch_prefix=settings.branch_prefix),
            blocking=self._blocking,
            jitter=SystemRandom().random,
            publish=self._chatter.publish,
            registered=place.registered,
            forgotten=place.forgotten,
            host=place.host,
            shard=place.shard,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Renew the lease and pass on chatter until `stopping` is set and every run has ended."""
        keepers = [
            asyncio.create_task(self._every(self._settings.renew_s, self._renew)),
            asyncio.create_task(self._every(_SWEEP_S, self._sweep)),
            asyncio.create_task(self._every(_SWEEP_S, self._flush)),
        ]
        try:
            await self._first_of(stopping, keepers)
            self._draining = True
            await self._drain()
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._sweep()
            await self._flush()
            self._launcher.close()
            self._threads.shutdown(wait=False)

    def accept(self, run_ids: Sequence[RunId]) -> None:
        """Start carrying runs; those already carried, and all while draining, are left alone."""
        new = [run_id for run_id in run_ids if run_id not in self._workers and run_id not in self._coming]
        if self._draining or not new:
            return
        self._coming.update(new)
        self._empty.clear()
        self._own(self._start(new))

    def hear(self, frame: Frame) -> None:
        """Do what the queen says: carry runs, or look at once for cancelled and lost ones."""
        if frame.kind == "run":
            self.accept(frame.run_ids)
        elif frame.kind == "renew":
            self._own(self._renew_now())

    def interrupt(self) -> None:
        """Stop every agent now; their runs end as Interrupted. What is loading never starts."""
        if not self._interrupted:
            patience_s = self._settings.grace_s + _RECORD_PATIENCE_S
            asyncio.get_running_loop().call_later(patience_s, self._abandon)
        self._interrupted = True
        for worker, _ in list(self._workers.values()):
            worker.stop(Interrupted())

    def _own(self, work: Coroutine[object, object, None]) -> None:
        """Do something beside the runs; kept until it is done, since nobody else refers to it."""
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._done)

    def _done(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and (error := errand.exception()) is not None:
            bus.tell(f"a bug in Hive, the run it was for is taken up again: {error!r}")

    async def _renew_now(self) -> None:
        try:
            await self._renew()
        except StoreUnavailable as error:
            bus.tell(" ".join(error.lines()))  # the next renewal is due anyway

    async def _first_of(self, stopping: asyncio.Event, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Wait for the order to stop; a keeper that fails is a bug that must end the process, not be forgotten."""
        waiter = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([waiter, *keepers], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        for task in done:
            if task is not waiter:
                task.result()

    async def _drain(self) -> None:
        """Let runs end by themselves for a while, then interrupt them, then give back what was never started."""
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._empty.wait()
        except TimeoutError:
            self.interrupt()
            await self._empty.wait()
        try:
            still_open = await self._insist(lambda: self._store.open_runs(self._place.host))
            mine = [run.id for run in still_open if run.shard == self._place.shard]
            if mine:
                await self._release(mine, Interrupted())
        except StoreUnavailable:
            bus.tell("the queue cannot be written: the next start takes up what is still open")

    async def _release(self, run_ids: Sequence[RunId], why: Interrupted | Lost) -> None:
        rules = self._settings.rules(self._clock.now_ms(), self._tools.jitter())
        await self._insist(lambda: self._store.release(run_ids, why, rules))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                bus.tell(" ".join(error.lines()))
                if self._abandoned:
                    raise
                await self._clock.sleep(_STORE_RETRY_S)

    def _abandon(self) -> None:
        """Stop waiting for a queue that takes no writes; agents are stopped, and the next start takes up open runs."""
        self._abandoned = True
        for _, task in list(self._workers.values()):
            task.cancel()

    async def _start(self, run_ids: Sequence[RunId]) -> None:
        try:
            for assignment in await self._load(run_ids):
                if not self._interrupted:
                    self._carry(assignment)
        finally:
            self._coming.difference_update(run_ids)
            self._note_if_empty()

    async def _load(self, run_ids: Sequence[RunId]) -> list[Assignment]:
        return await self._insist(lambda: self._store.load(run_ids))

    def _carry(self, assignment: Assignment) -> None:
        slot = self._take_slot()
        worker = Worker(assignment, self._tools, slot=self._place.index * _SLOTS_PER_SHARD + slot)
        task = asyncio.create_task(worker.carry())
        self._workers[worker.run_id] = worker, task
        task.add_done_callback(lambda done: self._close(worker, slot, done))
        if assignment.task.cancel_requested:
            worker.stop(Cancelled())

    def _close(self, worker: Worker, slot: int, task: asyncio.Task[None]) -> None:
        del self._workers[worker.run_id]
        heapq.heappush(self._slots, slot)
        if not task.cancelled() and (error := task.exception()) is not None:
            bus.tell(f"run {worker.run_id} ended without a record: {error!r}")
            self._own(self._release([worker.run_id], Lost()))
        if not self._just_ended:
            asyncio.get_running_loop().call_soon(self._tell)
        self._just_ended.append(worker.run_id)
        self._note_if_empty()

    def _tell(self) -> None:
        ended, self._just_ended = self._just_ended, []
        self._ended(ended)

    def _note_if_empty(self) -> None:
        if not self._workers and not self._coming:
            self._empty.set()

    def _take_slot(self) -> int:
        if not self._slots:
            self._slots_made += 1
            return self._slots_made - 1
        # The lowest free one, so that a quiet engine uses few configuration directories.
        return heapq.heappop(self._slots)

    def _agent(self, name: str) -> Agent:
        if name not in self._agents:
            self._agents[name] = open_agent(name, self._settings, self._launcher, self._clock)
        return self._agents[name]

    async def _blocking(self, work: Callable[[], object]) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _every(self, interval_s: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except StoreUnavailable as error:
                bus.tell(" ".join(error.lines()))
            await self._clock.sleep(interval_s)

    async def _renew(self) -> None:
        self._place.renewed()
        carried = list(self._workers)
        renewal = await self._store.renew(self._place.shard, self._place.host, carried, self._settings.lease_s)
        for run_id in renewal.lost & self._workers.keys():
            self._workers[run_id][0].stop(Lost())
        for run_id in renewal.cancelled & self._workers.keys():
            self._workers[run_id][0].stop(Cancelled())

    async def _sweep(self) -> None:
        """Stop what ended runs left behind in sessions of their own: daemons, background commands."""
        await self._launcher.sweeper.sweep()

    async def _flush(self) -> None:
        events = self._chatter.take()
        if events:
            try:
                await self._store.append(events)
            except StoreUnavailable:
                self._chatter.put_back(events)
                raise


def open_agent(name: str, settings: Settings, launcher: Launcher, clock: Clock) -> Agent:
    """Return the agent of that name, as the settings describe it."""
    match name:
        case "claude":
            from hive.agent.claude import ClaudeAgent

            return ClaudeAgent(
                launcher, settings.environ, clock, executable=settings.claude, pass_env=settings.pass_env
            )
        case "command":
            from hive.agent.command import CommandAgent

            return CommandAgent(launcher, settings.environ, clock, pass_env=settings.pass_env)
        case "scripted":
            from hive.agent.scripted import ScriptedAgent

            return ScriptedAgent(launcher, settings.environ, clock)
        case _:
            raise ConfigError(f"there is no agent `{name}`", code="H121", fix="use one of: claude, command, scripted")


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop where it is installed, else the standard loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main(
    settings: Settings, shard: str, host: str, index: int, *, pipe: Channel, lifeline: int, guardian: Path
) -> None:
    """Run a shard in a freshly forked process until it is told to stop or the supervisor dies.

    Args:
        shard: Name of this incarnation.
        lifeline: Read end of a pipe only the supervisor holds open for writing.
        guardian: Path of the guardian's socket.
    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_main(settings, shard, host, index, pipe=pipe, lifeline=lifeline, guardian=guardian))


async def _main(
    settings: Settings, name: str, host: str, index: int, *, pipe: Channel, lifeline: int, guardian: Path
) -> None:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    store = await open_store(settings.db, clock=clock, boot_id=proctable.boot_id())
    guard = GuardClient(guardian, name)
    place = Place(name, host, index, guard.register, guard.forget, guard.check)
    shard = Shard(settings, store, place, clock=clock, ended=lambda ids: _tell(pipe, ids))
    stopping = asyncio.Event()

    def interrupt() -> None:
        stopping.set()
        shard.interrupt()

    def orphaned() -> None:
        loop.remove_reader(lifeline)
        interrupt()

    def hear() -> None:
        try:
            for frame in pipe.receive():
                shard.hear(frame)
        except EOFError:
            loop.remove_reader(pipe.fileno())

    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR2, interrupt)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # a handler, not SIG_IGN: children would inherit that
    loop.add_signal_handler(signal.SIGUSR1, guard.check)  # the guardian was replaced: register everything again
    loop.add_reader(lifeline, orphaned)
    loop.add_reader(pipe.fileno(), hear)
    try:
        await shard.run(stopping)
        guard.close()  # only in good order: without a goodbye the guardian stops what a failed shard left behind
    finally:
        await store.close()


def _tell(pipe: Channel, run_ids: Sequence[RunId]) -> None:
    pipe.send("ended", run_ids)
