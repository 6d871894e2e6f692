"""What runs next: release what was lost, claim, deal, notice the end.

Plain code without a memory worth saving: every beat starts from the store, so a queen may be killed and replaced at
any moment without any agent noticing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from secrets import SystemRandom
from typing import Protocol

from hive import bus
from hive.agent import proctable
from hive.channel import Channel
from hive.clock import Clock, SystemClock
from hive.config import Settings
from hive.errors import StoreUnavailable
from hive.model import Interrupted, Lost, NewEvent, RunId, State
from hive.shard import new_loop
from hive.store import Assignment, Counts, Limits, Steering, Store, open_store

_STEER_S = 0.25


class Dealer(Protocol):
    """How a shard is told: the sending half of `channel.Channel`."""

    def send(self, kind: str, run_ids: Sequence[RunId] = ()) -> bool: ...


class Queen:
    """Feeds the shards of one machine until nothing is left to do.

    Args:
        dealers: The living shard incarnations by name.
        agents: Most runs at once, as the engine was started; steering may change it.
        most: What steering cannot exceed.
        fell_silent: Told the name of a living shard whose lease ran out.
        asked_to_stop: Told ``drain`` or ``now`` when a person asked for it through the store.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        dealers: Mapping[str, Dealer],
        *,
        host: str,
        agents: int,
        clock: Clock,
        asked_to_stop: Callable[[str], None],
        fell_silent: Callable[[str], None],
        most: int = 1_000_000,
    ) -> None:
        self._settings = settings
        self._store = store
        self._dealers = dealers
        self._host = host
        self._agents = agents
        self._clock = clock
        self._asked_to_stop = asked_to_stop
        self._fell_silent = fell_silent
        self._most = most
        self._jitter = SystemRandom().random
        self._wake = asyncio.Event()
        self._steering = Steering()
        self._steered_at_s = float("-inf")
        self._changes_seen = 0
        self._dealt_again_at_s = float("-inf")

    def wake(self) -> None:
        """Beat soon: a slot is free or something changed."""
        self._wake.set()

    async def run(self) -> None:
        """Beat until no task can move any more without a person."""
        while True:
            self._wake.clear()
            try:
                if await self._beat():
                    return
            except StoreUnavailable as error:
                # Paused, not lost: whatever was claimed is dealt again by the next beat that works.
                await self._clock.sleep(self._settings.beat_s)
                bus.tell(" ".join(error.lines()))

    async def _look_after(self) -> None:
        """Take over what nobody carries, and deal again what is open. The first act of every queen."""
        living = list(self._dealers)
        lost = await self._store.lost(self._host, living)
        for name in {assignment.run.shard for assignment in lost} & self._dealers.keys():
            self._fell_silent(name)  # it lives, but not by its lease: once it is killed the next queen takes over
        await self._take_over([assignment for assignment in lost if assignment.run.shard not in self._dealers])
        await self._deal_again()

    async def _take_over(self, lost: Sequence[Assignment]) -> None:
        """Release runs after their agents, and whatever they left behind, were stopped."""
        # Also what runs that ended well left behind, if their shard died before it had looked for that.
        marks = await asyncio.to_thread(proctable.strays, f"{self._store.store_id}.", list(self._dealers))
        records = [assignment.run.process for assignment in lost if assignment.run.process is not None]
        if lost or marks:
            await asyncio.to_thread(
                proctable.stop_blocking, records, marks, grace_s=self._settings.grace_s, clock=self._clock
            )
        for assignment in lost:
            # What never started has spent no attempt.
            why = Interrupted() if assignment.run.started_at_ms is None else Lost()
            rules = self._settings.rules(self._clock.now_ms(), self._jitter())
            await self._store.release([assignment.run.id], why, rules)
        if lost:
            await self._store.append([NewEvent("engine.recovered", data={"runs": len(lost)})])

    async def _deal_again(self) -> None:
        """Deal every open run once more: a frame may have been dropped, and shards skip what they carry."""
        self._dealt_again_at_s = self._clock.monotonic_s()
        still_open: dict[str, list[RunId]] = defaultdict(list)
        for run in await self._store.open_runs(self._host):
            still_open[run.shard].append(run.id)
        self._deal(still_open)

    async def _beat(self) -> bool:
        """Start what may start; True when nothing is left to wait for."""
        await self._steer()
        if self._clock.monotonic_s() - self._dealt_again_at_s > self._settings.renew_s:
            await self._look_after()
        if not self._steering.paused and self._steering.stop == "no":
            agents = min(self._steering.agents or self._agents, self._most)
            slots = dict.fromkeys(self._dealers, -(-agents // len(self._dealers)))
            limits = Limits(agents, self._settings.role_limits)
            claimed = await self._store.claim(self._host, slots, limits)
            by_shard: dict[str, list[RunId]] = defaultdict(list)
            for claim in claimed:
                by_shard[claim.shard].append(claim.run_id)
            self._deal(by_shard)
            if claimed:
                return False
        counts = await self._store.counts()
        if finished(counts, paused=self._steering.paused):
            return True
        await self._nap(counts)
        return False

    async def _steer(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._steered_at_s < _STEER_S:
            return
        self._steered_at_s = now_s
        self._steering = await self._store.steering()
        if self._steering.stop != "no":
            self._asked_to_stop(self._steering.stop)
        if self._steering.changes != self._changes_seen:
            self._changes_seen = self._steering.changes
            for dealer in self._dealers.values():
                dealer.send("renew")

    def _deal(self, by_shard: Mapping[str, Sequence[RunId]]) -> None:
        for shard, run_ids in by_shard.items():
            if shard in self._dealers and not self._dealers[shard].send("run", run_ids):
                self._dealt_again_at_s = float("-inf")  # its pipe is full: the next beat deals again

    async def _nap(self, counts: Counts) -> None:
        """Wait for a hint, a beat, or the moment the next parked task becomes startable."""
        nap_s = min(self._settings.beat_s, _STEER_S)
        if counts.next_due_at_ms is not None and not self._steering.paused:
            nap_s = min(nap_s, max(0.0, (counts.next_due_at_ms - self._clock.now_ms()) / 1000))
        try:
            async with asyncio.timeout(nap_s):
                await self._wake.wait()
        except TimeoutError:
            return


def finished(counts: Counts, *, paused: bool) -> bool:
    """Return whether nothing can move without a person: nothing runs, and nothing will become startable."""
    if counts.by_state[State.IN_PROGRESS] or counts.parked:
        return False
    return paused is False and counts.startable == 0


def main(settings: Settings, host: str, agents: int, *, shards: Mapping[str, Channel], up: int, lifeline: int) -> None:
    """Run the queen in a freshly forked process.

    Args:
        shards: The pipe to each living incarnation.
        up: Write end of a pipe to the supervisor; gets lines: ``done``, ``drain``, ``now`` or ``silent:SHARD``.
        lifeline: Read end of a pipe only the supervisor holds open for writing.
    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_main(settings, host, agents, shards=shards, up=up, lifeline=lifeline))


async def _main(
    settings: Settings, host: str, agents: int, *, shards: Mapping[str, Channel], up: int, lifeline: int
) -> None:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    store = await open_store(settings.db, clock=clock, boot_id=proctable.boot_id())
    queen = Queen(
        settings,
        store,
        shards,
        host=host,
        agents=agents,
        clock=clock,
        asked_to_stop=lambda how: _say(up, how),
        fell_silent=lambda name: _say(up, f"silent:{name}"),
    )

    def hear(shard: str) -> None:
        try:
            for _ in shards[shard].receive():
                queen.wake()
        except EOFError:
            loop.remove_reader(shards[shard].fileno())

    for name, pipe in shards.items():
        loop.add_reader(pipe.fileno(), hear, name)
    work = asyncio.create_task(queen.run())
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_reader(lifeline, work.cancel)
    try:
        await work
        os.write(up, b"done\n")
    except asyncio.CancelledError:
        return
    finally:
        await store.close()


def _say(up: int, word: str) -> None:
    os.write(up, f"{word}\n".encode())
