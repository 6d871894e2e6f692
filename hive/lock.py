"""One engine per queue and machine: a lock file that all processes of an engine share.

The descriptor is inherited by every process of the engine, so the lock lasts until the last of them, the guardian
included, is gone: the next engine starts only when no agent of this one is left.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hive.errors import NotReady

try:
    import fcntl
except ImportError:  # without forks there is one process, and nobody to keep out but a second start by hand
    fcntl = None  # type: ignore[assignment]

_PATIENCE_S = 30.0
_POLL_S = 0.1


class EngineLock:
    """The lock of one queue's engine.

    Raises:
        NotReady: A living engine holds it, or what is left of a dead one does not end.
    """

    def __init__(self, path: Path) -> None:
        self._fd = _opened(path)
        waited_s = 0.0
        while not self._try():
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            if (owner.isdigit() and _alive(int(owner))) or waited_s > _PATIENCE_S:
                os.close(self._fd)
                raise NotReady(
                    "another engine works this queue",
                    code="H220",
                    where=str(path),
                    why=f"process {owner} holds the lock",
                    fix="watch it with `hive wait`, or stop it with `hive stop`",
                )
            time.sleep(_POLL_S)  # the processes of a killed engine are stopping their agents
            waited_s += _POLL_S
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        """Let go of this process's share, which is the last: whoever looks at the file finds nobody named."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _try(self) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise NotReady(
            "the queue cannot be written",
            code="H305",
            where=str(path.parent),
            why=error.strerror or str(error),
            fix="make the directory writable, or name another with --db sqlite:///PATH",
        ) from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie whose parent does not collect it is dead for us.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return True
