"""A clock that stands still, and every store there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hive.clock import ManualClock
from hive.store import Store
from hive.store.memory import MemoryStore
from hive.store.sqlite import SqliteStore


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that moves only when the test says so."""
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "sqlite-inline"])
async def store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Store]:
    """Yield each kind of store, empty; closed afterwards."""
    opened: Store
    match request.param:
        case "memory":
            opened = MemoryStore(clock)
        case "sqlite":
            opened = await SqliteStore.open(tmp_path / "hive.db", clock=clock, boot_id="boot-1")
        case _:
            opened = await SqliteStore.open_inline(tmp_path / "hive.db", clock=clock, boot_id="boot-1")
    yield opened
    await opened.close()
