"""Carries one process from its start to its end within the limits of a brief: time, silence, size of the output.

Does not start it, and knows nothing of what its output means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from hive.agent import Brief, Emit, Spawned
from hive.agent.output import Tail, output_file, size_bytes
from hive.clock import Clock
from hive.model import Errored, TimedOut, Usage

if TYPE_CHECKING:
    from hive.agent.process import Process

_READ_TICK_S = 0.2
_TICK_S = (0.1, 1.0)  # shortest and longest look at the output's size when nobody reads it
_READ_TURN_BYTES = 4 << 20  # read per tick, so that a flood leaves the loop to others


class Sweep(StrEnum):
    """When to look for processes that carry the run's mark after the leader ended by itself."""

    NOW = "now"  # before `supervise` returns
    LATER = "later"  # with the next `launcher.sweeper.sweep()`, together with those of other runs
    NOT_YET = "not_yet"  # more children of this run follow; the caller hands the mark over at its end


@dataclass(frozen=True, slots=True)
class Ending:
    """How a supervised process ended.

    Attributes:
        exit_code: As the program gave it; negative: the signal that ended it; None: killed, but it would not die.
        duration_s: From the call of `supervise` to the end.
        stopped: Why Hive stopped it, with usage and exit code filled in; None when it ended by itself or `stop_when`
            said so.
    """

    exit_code: int | None
    duration_s: float
    stopped: TimedOut | Errored | None = None


async def supervise(
    process: Process,
    brief: Brief,
    clock: Clock,
    on_bytes: Callable[[bytes], None] | None = None,
    *,
    emit: Emit | None = None,
    stop_when: Callable[[], bool] | None = None,
    sweep: Sweep = Sweep.LATER,
) -> Ending:
    """Carry a process to its end within the limits of the brief.

    Stops it, and everything it started, after `timeout_s`, after `idle_timeout_s` without growth of its two output
    files, and when one of them exceeds `output_limit_bytes`. Stops it as well when cancelled or when `on_bytes`
    raises, before that goes on.

    Args:
        process: As `Launcher.start` returned it.
        brief: Its limits and grace count; nothing else does.
        clock: Measures durations; looks happen in real time.
        on_bytes: Gets stdout in order, in chunks of any split, about every 0.2 s and once more after the end; at most
            `output_limit_bytes` in all. Never called after this returned.
        emit: Told first that the process exists (`Spawned`); what it raises stops the process too.
        stop_when: Asked at every look (about every 0.2 s with `on_bytes`, else up to 1 s); true stops the process
            although nothing is wrong: `Ending.stopped` is None then.
        sweep: When to look for what the run left behind after it ended by itself.
    """
    watch = _Watch(process, brief, clock, on_bytes)
    try:
        if emit is not None:
            emit(Spawned(process.record))
        watch.open()
        over = await watch.until_over(stop_when)
        if over is not None or process.exit_code is None or sweep is Sweep.NOW:
            await process.stop(brief.grace_s)
        elif sweep is Sweep.LATER:
            process.sweeper.later(process.mark)
        await watch.drain()
    except (Exception, asyncio.CancelledError):
        await process.stop(brief.grace_s)
        raise
    finally:
        watch.close()
    return watch.ending(over)


class _Watch:
    """The clock, sizes and position in the output of one supervised process."""

    def __init__(self, process: Process, brief: Brief, clock: Clock, on_bytes: Callable[[bytes], None] | None) -> None:
        self._process = process
        self._brief = brief
        self._clock = clock
        self._on_bytes = on_bytes
        self._paths = (output_file(process.files, "out"), output_file(process.files, "err"))
        self._tail: Tail | None = None
        self._passed_bytes = 0
        self._sizes = (0, 0)
        self._began_s = self._grew_s = clock.monotonic_s()
        self._tick_s = _READ_TICK_S if on_bytes else _TICK_S[0]

    def open(self) -> None:
        """Open the output, if anybody reads it; apart from the constructor, so that a failure stops the process."""
        if self._on_bytes is not None:
            self._tail = Tail(self._paths[0])

    async def until_over(self, stop_when: Callable[[], bool] | None) -> TimedOut | Errored | None:
        """Return why the process must be stopped, or None when it ended or `stop_when` said so."""
        while await self._process.wait(self._next_look_s()) is None:
            self._pass_on(_READ_TURN_BYTES)
            over = self._look()
            if over is not None:
                return over
            if stop_when is not None and stop_when():
                return None
        self._measure()
        return self._too_much()  # whether it ended just before or after a look must not matter

    async def drain(self) -> None:
        """Hand over what is still unread."""
        while self._pass_on(_READ_TURN_BYTES):
            await self._clock.sleep(0)  # others get their turn during a flood

    def ending(self, over: TimedOut | Errored | None) -> Ending:
        """Return the ending with durations filled in."""
        duration_s = self._clock.monotonic_s() - self._began_s
        code = self._process.exit_code
        if over is not None:
            over = replace(over, usage=Usage(duration_s=duration_s), exit_code=code)
        return Ending(code, duration_s, over)

    def close(self) -> None:
        if self._tail is not None:
            self._tail.close()

    def _next_look_s(self) -> float:
        """Return seconds until the next look: soon while much is written, else seldom, but never past a deadline."""
        now_s = self._clock.monotonic_s()
        looks = [self._tick_s]
        if self._brief.timeout_s is not None:
            looks.append(self._began_s + self._brief.timeout_s - now_s)
        if self._brief.idle_timeout_s is not None:
            looks.append(self._grew_s + self._brief.idle_timeout_s - now_s)
        return max(0.001, min(looks))

    def _look(self) -> TimedOut | Errored | None:
        before_bytes = max(self._sizes)
        self._measure()
        self._pace(max(self._sizes) - before_bytes, self._brief.output_limit_bytes - max(self._sizes))
        return self._too_much() or self._too_late(self._clock.monotonic_s())

    def _measure(self) -> None:
        sizes = (size_bytes(self._paths[0]), size_bytes(self._paths[1]))
        if sizes != self._sizes:
            self._sizes, self._grew_s = sizes, self._clock.monotonic_s()

    def _pace(self, grown_bytes: int, left_bytes: int) -> None:
        if self._on_bytes is None:
            shortest_s, longest_s = _TICK_S
            self._tick_s = shortest_s if grown_bytes * 8 > left_bytes else min(longest_s, self._tick_s * 2)

    def _too_much(self) -> Errored | None:
        if max(self._sizes) <= self._brief.output_limit_bytes:
            return None
        limit = f"output of {max(self._sizes)} bytes exceeds the limit of {self._brief.output_limit_bytes} bytes"
        return Errored(code="output_limit", reason=limit)

    def _too_late(self, now_s: float) -> TimedOut | None:
        brief = self._brief
        if brief.timeout_s is not None and now_s - self._began_s >= brief.timeout_s:
            return TimedOut(which="total", after_s=now_s - self._began_s)
        if brief.idle_timeout_s is not None and now_s - self._grew_s >= brief.idle_timeout_s:
            return TimedOut(which="idle", after_s=now_s - self._grew_s)
        return None

    def _pass_on(self, most_bytes: int) -> bool:
        """Hand unread bytes to the consumer; True when there may be more."""
        if self._tail is None or self._on_bytes is None:
            return False
        most_bytes = min(most_bytes, self._brief.output_limit_bytes - self._passed_bytes)
        while most_bytes > 0:
            data = self._tail.read()[:most_bytes]
            if not data:
                return False
            most_bytes -= len(data)
            self._passed_bytes += len(data)
            self._on_bytes(data)
        return self._passed_bytes < self._brief.output_limit_bytes
