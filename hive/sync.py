"""The engine in one process: one standard event loop, one run at a time, no fork, no uvloop, no aiosqlite.

The same queen, shard and worker as in the forked engine, joined by plain calls instead of pipes. It is the baseline
that the forked engine is measured against, and what works where the parts for that are missing. Without a guardian,
agents of a killed process are stopped by the next start.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from hive import bus
from hive.agent import proctable
from hive.channel import Frame
from hive.clock import Clock, SystemClock
from hive.config import Settings
from hive.ending import Ending, Watcher, meaning
from hive.model import RunId
from hive.queen import Queen
from hive.shard import Place, Shard
from hive.store import open_store

_POLL_S = 0.25


class _DirectDealer:
    """Hands frames to the shard in the same loop."""

    def __init__(self) -> None:
        self.shard: Shard | None = None

    def send(self, kind: str, run_ids: Sequence[RunId] = ()) -> bool:
        if self.shard is not None:
            self.shard.hear(Frame(kind, tuple(run_ids)))
        return True


def run(settings: Settings, *, host: str, watcher: Callable[[], Watcher] | None) -> Ending:
    """Work the queue one run at a time until nothing is left or somebody stops it."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(_Solo(replace(settings, agents=1), host).run(watcher))


class _Solo:
    """One engine run: who was told to stop, and by what."""

    def __init__(self, settings: Settings, host: str) -> None:
        self._settings = settings
        self._host = host
        self._name = f"{host}.sync.{uuid.uuid4().hex[:8]}"
        self._clock: Clock = SystemClock()
        self._stopping = asyncio.Event()
        self._severity = 0
        self._signal: int | None = None
        self._stopped = False
        self._shard: Shard | None = None
        self._feeding: asyncio.Task[None] | None = None

    async def run(self, watcher: Callable[[], Watcher] | None) -> Ending:
        store = await open_store(self._settings.db, clock=self._clock, boot_id=proctable.boot_id(), inline=True)
        dealer = _DirectDealer()
        queen = Queen(
            self._settings,
            store,
            {self._name: dealer},
            host=self._host,
            agents=1,
            clock=self._clock,
            asked_to_stop=self._asked,
            fell_silent=lambda _: None,  # queen and shard share a loop: who beats renews
            most=1,
        )
        place = Place(self._name, self._host, 0, lambda *_: None, lambda _: None, lambda: None)
        shard = Shard(self._settings, store, place, clock=self._clock, ended=lambda _: queen.wake())
        self._shard = dealer.shard = shard
        self._catch_signals()
        view = watcher() if watcher is not None else None
        feeding = self._feeding = asyncio.create_task(queen.run())
        feeding.add_done_callback(lambda _: self._stopping.set())
        looking = asyncio.create_task(self._look(view))
        try:
            await shard.run(self._stopping)
        finally:
            for task in (feeding, looking):
                task.cancel()
            results = await asyncio.gather(feeding, looking, return_exceptions=True)
            await store.close()
            if view is not None:
                view.close()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return Ending(self._signal, "", self._stopped)

    async def _look(self, view: Watcher | None) -> None:
        while view is not None:
            view.poll()
            await self._clock.sleep(_POLL_S)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._caught, number)
            except NotImplementedError:  # Windows: asyncio turns Ctrl-C into a cancellation of the whole run
                return

    def _caught(self, number: int) -> None:
        self._signal = number
        bus.tell(meaning(self._severity + 1, self._settings.drain_s))
        if self._severity == 2:
            self._kill(number)
        self._rise(self._severity + 1)

    def _kill(self, number: int) -> None:
        """Kill every agent and end at once; the next start takes up what is recorded as open."""
        proctable.stop_blocking([], [], shards=[self._name], grace_s=0.0, clock=self._clock)
        os._exit(128 + number)

    def _asked(self, how: str) -> None:
        self._stopped = True
        self._rise(1 if how == "drain" else 2)

    def _rise(self, severity: int) -> None:
        if severity <= self._severity:
            return
        self._severity = min(severity, 2)
        self._stopping.set()
        if self._feeding is not None:
            self._feeding.cancel()  # or it would claim again what the draining shard gives back
        if self._severity == 2 and self._shard is not None:
            self._shard.interrupt()
