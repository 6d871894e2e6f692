"""Whether an engine works a queue right now, seen from outside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hive.cli.context import database_path

if TYPE_CHECKING:
    from hive.config import Settings


def engine_pid(settings: Settings) -> int | None:
    """Return the process that holds the engine's lock, 0 when it holds it without a name, or None."""
    try:
        import fcntl
    except ImportError:  # without locks of this kind there is no forked engine to find
        return None
    path = database_path(settings)
    try:
        descriptor = os.open(path.with_name(path.name + ".engine"), os.O_RDONLY)
    except OSError:  # no engine ever ran here
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        return int(owner) if owner.isdigit() else 0
    finally:
        os.close(descriptor)
    return None
