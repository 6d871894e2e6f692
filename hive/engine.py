"""Starting an engine: which form it takes here, how many shards, one per queue; and how its run came out.

Does no work itself: `supervisor` runs the forked form, `sync` the one-process form.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hive.api import SyncHive, open_sync
from hive.clock import SystemClock
from hive.config import Settings
from hive.ending import Ending, Watcher
from hive.errors import StoreUnsupported
from hive.lock import EngineLock
from hive.model import FINAL, NewTask, State, TaskId
from hive.store import Steer, TaskQuery
from hive.workspace import Workspaces

AGENTS_PER_SHARD = 32
_LOOK_S = 0.25
_FINAL_KINDS: Mapping[str, State] = {f"task.{state}": state for state in FINAL}


@dataclass(frozen=True, slots=True)
class Form:
    """What the engine will be: `why` says what forced it away from what was asked, in one line, or is empty."""

    sync: bool
    shards: int
    agents: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run of the engine came out.

    Attributes:
        by_state: Number of tasks by state: of those that were given, or else of all that ended meanwhile or still
            have something before them.
        cost_usd: What the runs that ended meanwhile cost.
        recovered: Runs of dead processes that were taken up again.
    """

    by_state: Mapping[State, int]
    wall_s: float
    cost_usd: float
    recovered: int
    ending: Ending


def work(settings: Settings, tasks: Sequence[NewTask], *, watcher: Callable[[int], Watcher] | None) -> Report:
    """Add tasks, run the engine until nothing is left, and say how it came out.

    Call it from a process with one thread and no open store.

    Args:
        tasks: Added first, all or none; those that are there already are taken up where they stand.
        watcher: Makes what prints progress, from the sequence number it starts after.

    Raises:
        UsageError: The tasks do not fit together; nothing was added.
        NotReady: Another engine works this queue, or the store cannot be used.
    """
    clock = SystemClock()
    began_s = clock.monotonic_s()
    if settings.repo is not None:
        Workspaces(settings.state_dir, clock, settings.environ).exclude_state_dir_blocking(settings.repo)
    with closing(EngineLock(_lock_path(settings))) as lock:
        with open_sync(settings.db) as hive:
            database = _identity(settings)
            was = hive.steering()
            if was.stop != "no" or was.agents is not None:
                hive.control(Steer(stop="no", agents=0))  # what was said to an engine before is not meant for this one
            first_seq = hive.counts().last_seq
            ids = [added.id for added in hive.add(tasks)]
        ending = _run(settings, lock, None if watcher is None else lambda: watcher(first_seq))
    if _identity(settings) != database:
        raise StoreUnsupported(
            "the queue's file was removed or replaced while the engine ran",
            code="H310",
            where=settings.db.removeprefix("sqlite:///"),
            why="what the engine recorded went into the file that is gone",
            fix="put a backup in its place; branches and worktrees are as the agents left them",
        )
    with open_sync(settings.db) as hive:
        return _report(hive, ids, first_seq, clock.monotonic_s() - began_s, ending)


def _report(hive: SyncHive, ids: Sequence[TaskId], first_seq: int, wall_s: float, ending: Ending) -> Report:
    cost_usd, recovered, ended = 0.0, 0, {}
    after = first_seq
    while page := hive.past_events(after):
        after = page[-1].seq
        for event in page:
            if event.kind == "run.finished":
                cost_usd += float(str(event.data["cost_usd"]))
            elif event.kind == "engine.recovered":
                recovered += int(str(event.data["runs"]))
            elif event.kind in _FINAL_KINDS:
                ended[event.task_id] = _FINAL_KINDS[event.kind]
    if ids:
        by_state = Counter(task.state for task in hive.tasks(TaskQuery(ids=tuple(ids), limit=len(ids))))
    else:
        standing = hive.counts().by_state
        by_state = Counter(ended.values()) + Counter({s: n for s, n in standing.items() if s not in FINAL})
    return Report({state: by_state[state] for state in State}, wall_s, cost_usd, recovered, ending)


def form(settings: Settings) -> Form:
    """Choose the engine's form: forked where the parts are there, else one process."""
    missing = _missing()
    if settings.sync or missing:
        return Form(True, 1, 1, f"{missing}: running one task at a time" if missing and not settings.sync else "")
    cores = os.cpu_count() or 1
    shards = settings.cores or min(cores, -(-settings.agents // AGENTS_PER_SHARD))
    why = "" if importlib.util.find_spec("uvloop") else "uvloop is not installed: using the standard event loop"
    return Form(False, min(shards, settings.agents), settings.agents, why)


def _run(settings: Settings, lock: EngineLock, watcher: Callable[[], Watcher] | None) -> Ending:
    chosen = form(settings)
    host = socket.gethostname()
    if chosen.sync:
        from hive import sync

        return sync.run(settings, host=host, watcher=watcher)
    from hive import supervisor

    return supervisor.run(
        settings,
        host=host,
        shards=chosen.shards,
        agents=chosen.agents,
        lock=lock,
        watcher=None if watcher is None else lambda: _watch(watcher),
    )


def _identity(settings: Settings) -> tuple[int, int] | None:
    """Return what tells the queue's file from another at the same path."""
    try:
        found = Path(settings.db.removeprefix("sqlite:///")).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _lock_path(settings: Settings) -> Path:
    database = Path(settings.db.removeprefix("sqlite:///"))
    return database.with_name(database.name + ".engine")


def _missing() -> str:
    if not hasattr(os, "fork"):
        return "this system cannot fork"
    if importlib.util.find_spec("aiosqlite") is None:
        return "aiosqlite is not installed"
    return ""


def _watch(make: Callable[[], Watcher]) -> None:
    """Print progress in a process of its own until told to stop or the engine is gone."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    parent = os.getppid()
    watcher = make()
    while not told and os.getppid() == parent:
        watcher.poll()
        time.sleep(_LOOK_S)
    watcher.close()
