from __future__ import annotations

import asyncio
import time

import pytest

from hive.clock import Clock, ManualClock, SystemClock


def test_system_now_is_milliseconds_since_1970() -> None:
    """The wall clock is in milliseconds, not seconds or nanoseconds."""
    before = time.time()
    now_ms = SystemClock().now_ms()
    assert int(before * 1000) - 1 <= now_ms <= time.time() * 1000 + 1


def test_system_monotonic_is_the_clock_all_processes_share() -> None:
    """Leases written by one process are read by another, so the seconds must be those of the machine."""
    before = time.monotonic()
    assert before <= SystemClock().monotonic_s() <= time.monotonic()


async def test_system_sleep_waits_at_least_as_long_as_asked() -> None:
    """A sleep does not end early."""
    clock = SystemClock()
    before_s = clock.monotonic_s()
    await clock.sleep(0.02)
    assert clock.monotonic_s() - before_s >= 0.019


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["system", "manual"])
@pytest.mark.parametrize("seconds", [0, -1.0])
async def test_sleeping_for_nothing_only_yields(clock: Clock, seconds: float) -> None:
    """Zero or less lets others run once and comes back."""
    others: list[str] = []
    other = asyncio.create_task(_note(others))
    await asyncio.wait_for(clock.sleep(seconds), 5)
    assert others == ["ran"]
    await other


def test_manual_clock_stands_still() -> None:
    """Time does not pass by itself in tests."""
    clock = ManualClock(now_ms=5, monotonic_s=7.0)
    assert (clock.now_ms(), clock.now_ms(), clock.monotonic_s()) == (5, 5, 7.0)


def test_manual_advance_moves_both_clocks() -> None:
    """Wall clock and monotonic clock move by the same span, in their own units."""
    clock = ManualClock(now_ms=1_000, monotonic_s=10.0)
    clock.advance(2.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (3_500, 12.5)


async def test_manual_sleepers_wake_when_their_time_has_come() -> None:
    """Advancing wakes exactly those who have waited long enough."""
    clock = ManualClock()
    woken: list[str] = []
    short = asyncio.create_task(_sleep_then_note(clock, 1.0, "short", woken))
    long = asyncio.create_task(_sleep_then_note(clock, 3.0, "long", woken))
    await asyncio.sleep(0)

    clock.advance(0.9)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(0.1)
    await short
    assert woken == ["short"]
    clock.advance(10.0)
    await long
    assert woken == ["short", "long"]


async def test_manual_advance_passes_over_a_cancelled_sleeper() -> None:
    """A sleeper that was cancelled meanwhile does not break the clock for others."""
    clock = ManualClock()
    woken: list[str] = []
    gone = asyncio.create_task(_sleep_then_note(clock, 1.0, "gone", woken))
    stays = asyncio.create_task(_sleep_then_note(clock, 1.0, "stays", woken))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    clock.advance(1.0)
    await stays
    assert gone.cancelled()
    assert woken == ["stays"]


async def _note(others: list[str]) -> None:
    others.append("ran")


async def _sleep_then_note(clock: Clock, seconds: float, name: str, woken: list[str]) -> None:
    await clock.sleep(seconds)
    woken.append(name)
