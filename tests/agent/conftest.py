"""Both event loops for what watches processes, and the marks by which a test finds what it started."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
import pytest_asyncio

from hive.agent import AgentEvent, Brief
from hive.agent.process import Launcher
from hive.agent.proctable import carriers, stop_blocking
from hive.clock import SystemClock
from tests.conftest import ROOT, missing_part
from tests.doubles.messages_api import MessagesApi
from tests.doubles.scenario import JsonObject

_ON_BOTH_LOOPS = ("test_process.py", "test_command.py", "test_sweeper.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what touches the loop's descriptors on the standard loop and on uvloop."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in _ON_BOTH_LOOPS and importlib.util.find_spec("uvloop"):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A mark of this test alone; whatever still carries it at the end is a failure, and stopped."""
    name = f"test.{os.getpid()}.{tmp_path.parent.name}.{tmp_path.name}"
    yield name
    left = carriers([name])
    stop_blocking((), [name], grace_s=0.0, clock=SystemClock())
    assert left == [], "the test left processes behind"


@pytest.fixture
def brief(tmp_path: Path, mark: str) -> Brief:
    """A brief with real directories; tests replace what they care about."""
    directory = tmp_path / "work"
    directory.mkdir()
    return Brief(mark=mark, shard="host.0.test", directory=directory, files=tmp_path / "runs" / "1", state_dir=tmp_path)


@pytest_asyncio.fixture
async def launcher() -> AsyncIterator[Launcher]:
    """A launcher; at the end no child may be left, not even a zombie."""
    launcher = Launcher(SystemClock())
    yield launcher
    launcher.close()
    _no_child_left()


def _no_child_left() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def base_env() -> Mapping[str, str]:
    """Hive's environment as the settings would give it."""
    return dict(os.environ)


@pytest.fixture
def events() -> list[AgentEvent]:
    """Collect what an agent emits: pass its `append` as `emit`."""
    return []


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until a condition holds; fail after the deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - files and processes wake nobody
            await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def claude_cli() -> str:
    """The real claude CLI: from HIVE_TEST_CLAUDE, where `scripts/test` puts it, or from PATH."""
    cached = ROOT / ".cache" / "claude" / "node_modules" / ".bin" / "claude"
    found = os.environ.get("HIVE_TEST_CLAUDE") or (str(cached) if cached.exists() else shutil.which("claude"))
    return found or missing_part("no claude CLI; run scripts/test, which installs one, or set HIVE_TEST_CLAUDE")


ApiStarter: TypeAlias = Callable[[JsonObject], Awaitable[MessagesApi]]


@pytest_asyncio.fixture
async def messages_api() -> AsyncIterator[ApiStarter]:
    """Starts doubles of the Messages API, each on a free port with a scenario of its own."""
    async with AsyncExitStack() as stack:

        async def start(script: JsonObject) -> MessagesApi:
            return await stack.enter_async_context(MessagesApi(script, log_bodies=True))

        yield start
