"""Hive: a durable queue of coding tasks, worked by many headless coding agents at once.

From Python: `hive.open(url)` for asyncio, `hive.open_sync(url)` for plain code, `hive.NewTask` for what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hive.api import Hive, Summary, SyncHive, open, open_sync
    from hive.errors import HiveError
    from hive.model import Event, NewTask, Phase, State, Task, WorkspaceKind
    from hive.store import TaskQuery

__version__ = "0.1.0"

__all__ = [
    "Event",
    "Hive",
    "HiveError",
    "NewTask",
    "Phase",
    "State",
    "Summary",
    "SyncHive",
    "Task",
    "TaskQuery",
    "WorkspaceKind",
    "open",
    "open_sync",
]

_HOMES = {
    "hive.api": ("Hive", "Summary", "SyncHive", "open", "open_sync"),
    "hive.errors": ("HiveError",),
    "hive.model": ("Event", "NewTask", "Phase", "State", "Task", "WorkspaceKind"),
    "hive.store": ("TaskQuery",),
}


def __getattr__(name: str) -> object:
    # Names are looked up when used, so that `hive --version` does not load the store.
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module `hive` has no attribute `{name}`")
