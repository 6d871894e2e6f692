"""Parts of an engine, put together by hand: a store, settings, a repository, and workers that really work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from hive.agent import Agent
from hive.agent.process import Launcher
from hive.agent.proctable import boot_id, start_ticks
from hive.clock import Clock, SystemClock
from hive.config import Settings
from hive.errors import StoreUnavailable
from hive.model import NewEvent, NewTask, ProcessRecord, RunId, Task, TaskId, WorkspaceKind
from hive.shard import open_agent
from hive.store import Limits, Store
from hive.store.memory import MemoryStore
from hive.store.sqlite import SqliteStore
from hive.store.sqlite_inline import InlineEngine
from hive.worker import Tools, Worker
from hive.workspace import Workspaces
from tests.workspace.conftest import Checkout

HOST = "here"
SHARD = "here.0.test"
PATIENCE_S = 20.0


def make_repo(directory: Path) -> Checkout:
    """Make a repository with one commit and a home of its own beside it."""
    home = directory / "home"
    home.mkdir()
    path = directory / "repo"
    path.mkdir()
    user = Checkout(path, home)
    user.git("init", "-q", "-b", "main")
    user.git("config", "user.name", "Ada")
    user.git("config", "user.email", "ada@example.org")
    user.write("a.txt", "one\n")
    user.git("add", "-A")
    user.git("commit", "-qm", "Start")
    return user


def settings_for(directory: Path, **changes: Any) -> Settings:
    """Return settings with short times and everything below one directory; no repository unless given."""
    values: dict[str, Any] = {
        "repo": None,
        "directory": directory,
        "db": f"sqlite:///{directory}/.hive/hive.db",
        "agents": 4,
        "agent": "scripted",
        "grace_s": 0.5,
        "drain_s": 10.0,
        "backoff_base_s": 0.0,
        "backoff_cap_s": 0.0,
        "beat_s": 0.05,
        "environ": {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"},
    }
    return Settings(**{**values, **changes})


def scripted(script: str, **fields: Any) -> NewTask:
    """Return a task that plays a script, without a workspace unless told."""
    return NewTask(
        **{"title": "a task", "agent": "scripted", "script": script, "workspace": WorkspaceKind.NONE, **fields}
    )


def command(*argv: str, **fields: Any) -> NewTask:
    """Return a task that runs a program, without a workspace unless told."""
    return NewTask(
        **{"title": "a task", "agent": "command", "command": argv, "workspace": WorkspaceKind.NONE, **fields}
    )


def memory(clock: Clock | None = None) -> MemoryStore:
    """Return a store with a name of its own: two tests at once must not stop each other's agents."""
    return MemoryStore(clock or SystemClock(), store_id=uuid4().hex[:12])


class Rig:
    """A store and what a shard gives its workers; records what they say and register."""

    def __init__(self, settings: Settings, store: Store, launcher: Launcher, clock: Clock | None = None) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock or SystemClock()
        self.launcher = launcher
        self.said: list[NewEvent] = []
        self.registered: list[ProcessRecord] = []
        self.forgotten: list[int] = []
        self.more_agents: dict[str, Agent] = {}
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        self.tools = Tools(
            store=store,
            settings=settings,
            clock=self.clock,
            agents=self._agent,
            workspaces=Workspaces(settings.state_dir, SystemClock(), settings.environ),
            blocking=_blocking,
            jitter=lambda: 0.0,
            publish=self.said.append,
            registered=lambda process, _: self.registered.append(process),
            forgotten=self.forgotten.append,
            host=HOST,
            shard=SHARD,
        )

    async def add(self, task: NewTask) -> TaskId:
        """Add one task."""
        [added] = await self.store.add([task])
        return added.id

    async def claim(self) -> Worker:
        """Open a run for the best task and return its worker, not yet at work."""
        [claimed] = await self.store.claim(HOST, {SHARD: 1}, Limits(agents=1000))
        return await self.worker(claimed.run_id)

    async def worker(self, run_id: RunId) -> Worker:
        """Return a worker for an open run."""
        [assignment] = await self.store.load([run_id])
        return Worker(assignment, self.tools, slot=0)

    async def carry(self, task_id: TaskId) -> Task:
        """Claim a task, carry its run to the end and return where the task stands."""
        worker = await self.claim()
        await worker.carry()
        return await self.task(task_id)

    async def task(self, task_id: TaskId) -> Task:
        """Return a task that must exist."""
        task = await self.store.task(task_id)
        assert task is not None
        return task

    def kinds(self) -> list[str]:
        """Return the kinds of what was said."""
        return [event.kind for event in self.said]

    def _agent(self, name: str) -> Agent:
        return self.more_agents.get(name) or open_agent(name, self.settings, self.launcher, self.clock)


async def until(
    condition: Callable[[], object], complaint: str = "it never happened", within_s: float = PATIENCE_S
) -> None:
    """Wait until a condition holds; fail after the deadline."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, complaint
        await asyncio.sleep(0.005)


async def until_awaited(
    condition: Callable[[], Awaitable[object]], complaint: str = "it never happened", within_s: float = PATIENCE_S
) -> None:
    """Wait until a question to the store is answered with something true."""
    deadline_s = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline_s, complaint
        await asyncio.sleep(0.005)


def until_blocking(
    condition: Callable[[], object], complaint: str = "it never happened", within_s: float = PATIENCE_S
) -> None:
    """Wait, without an event loop, until a condition holds."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, complaint
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def agent_process(mark: str, script: str, shard: str) -> Iterator[ProcessRecord]:
    """Start a shell script as a shard would start an agent; its whole group is killed at the end."""
    environ = {"PATH": os.environ["PATH"], "HIVE_RUN_ID": mark, "HIVE_SHARD": shard}
    argv = ["sh", "-c", f"echo started; {script}"]
    with subprocess.Popen(argv, env=environ, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield ProcessRecord(process.pid, start_ticks(process.pid) or 0, boot_id())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def fill_disk(store: SqliteStore) -> Callable[[], object]:
    """Let an inline store use up all the space SQLite may take; returns what gives it more."""
    engine = store._engine
    assert isinstance(engine, InlineEngine)
    assert engine._database is not None
    connection = engine._database.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    while await _has_room(store):
        pass
    return lambda: connection.execute("PRAGMA max_page_count=1000000")


async def _has_room(store: SqliteStore) -> bool:
    try:
        await store.append([NewEvent("filler.written", data={"x": "x" * 50})])
    except StoreUnavailable:
        return False
    return True


async def _blocking(work: Callable[[], object]) -> object:
    return await asyncio.get_running_loop().run_in_executor(None, work)
