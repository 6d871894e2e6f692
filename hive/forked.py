"""What the process that forks must be, and what a forked child does first.

Knows nothing of what the children are for.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from hive import bus

_PR_SET_CHILD_SUBREAPER = 36  # Source: linux/prctl.h
_PR_SET_NAME = 15
# What a parent is sent itself or sends to a child that may still be starting.
FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2})


def fork(name: str, keep: Collection[int], child: Callable[[], None]) -> int:
    """Fork a child that runs `child` and exits; return its pid.

    Args:
        name: What ``ps`` shows, after ``hive-``; at most 10 characters.
        keep: Descriptors the child keeps beside the standard ones; it closes all others.
    """
    assert threading.active_count() == 1, "forking with threads breaks the children"
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked until the child has handlers of its own: one that runs its parent's would lose the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    pid = os.fork()
    if pid == 0:
        _live_as_child(name, keep, child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    return pid


def become_subreaper() -> None:
    """Have orphans of dead children come to us, where they are waited for; other kernels leave them to init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            bus.tell(f"at most {soft} open files; many agents may need more")


def _live_as_child(name: str, keep: Collection[int], child: Callable[[], None]) -> None:
    """Be a child: nothing of the parent's but the descriptors it was given; never returns."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)  # the terminal sends it to all; only the supervisor decides
        signal.signal(signal.SIGUSR1, lambda *_: None)  # to a shard still starting: the guardian was replaced
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        _close_all_but({0, 1, 2, *keep})
        _prctl(_PR_SET_NAME, f"hive-{name}".encode())
        child()
        code = 0
    except BaseException:  # noqa: BLE001 - a child must end here, whatever happened
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _close_all_but(keep: Collection[int]) -> None:
    linux = Path("/proc/self/fd")
    for entry in list((linux if linux.is_dir() else Path("/dev/fd")).iterdir()):
        if int(entry.name) not in keep:
            with suppress(OSError):  # the descriptor of the listing itself is closed by now
                os.close(int(entry.name))


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
