"""Time as something passed in, so that tests own it.

Does not know boot ids, time zones or formats.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time and the only way to wait."""

    def now_ms(self) -> int:
        """Return wall-clock time, milliseconds since 1970 UTC; may jump. For schedules and records."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back, the same in all processes of one boot. For leases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds`; zero or less only yields."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        # Imported here because plain commands read the clock without ever waiting, and asyncio costs 80 ms.
        import asyncio

        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to; `sleep` returns once the clock has been moved far enough."""

    def __init__(self, now_ms: int = 1_800_000_000_000, monotonic_s: float = 1_000.0) -> None:
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._sleepers: list[tuple[float, object]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, seconds: float) -> None:
        import asyncio

        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic_s + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        """Move both clocks forward and wake who has waited long enough."""
        import asyncio

        self._monotonic_s += seconds
        self._now_ms += round(seconds * 1000)
        due = [entry for entry in self._sleepers if entry[0] <= self._monotonic_s]
        self._sleepers = [entry for entry in self._sleepers if entry[0] > self._monotonic_s]
        for _, future in due:
            assert isinstance(future, asyncio.Future)
            if not future.done():
                future.set_result(None)
