"""A child in a session of its own: spawn it, capture it to files, watch it, stop it with all it started.

Knows nothing of what the child does. One spawn costs the loop two hops to a thread; one ending costs it one `killpg`,
one `waitpid` and one `close`. Looking through all processes happens only when something is stopped, in a thread,
many runs at a look (`hive.agent.sweeper`).

How an agent uses it::

    process = await launcher.start(argv, directory, child_env(...), brief.files, stdin=prompt)   # or SpawnFailed
    ending = await supervise(process, brief, clock, on_bytes=framer_and_parser, emit=emit)
    if ending.stopped: return ending.stopped            # TimedOut or Errored(output_limit)
    ... ending.exit_code, ending.duration_s ...
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hive.agent.environment import child_env
from hive.agent.output import LineFramer, output_file
from hive.agent.proctable import has_pidfds, this_machine
from hive.agent.supervise import Ending, Sweep, supervise
from hive.agent.sweeper import Sweeper, to_the_end
from hive.clock import Clock
from hive.model import Errored, ProcessRecord

__all__ = [
    "EXIT_UNKNOWN",
    "Ending",
    "Launcher",
    "LineFramer",
    "Process",
    "SpawnFailed",
    "Sweep",
    "child_env",
    "output_file",
    "supervise",
]

EXIT_UNKNOWN = 255
"""Exit code of a child that somebody else reaped; never 0, because nobody saw it succeed."""

_STRAY_GRACE_S = 1.0  # what outlived its leader has had its TERM or has nobody left to finish for
_KILL_WAIT_S = 10.0  # longest wait for a killed process: it can hang in the kernel (a dead network disk)


class SpawnFailed(Exception):
    """The child could not be started; nothing of it is left.

    Args:
        reason: What went wrong, for people.
        retryable: The machine was short of something (processes, descriptors, memory, disk).
    """

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable

    def outcome(self) -> Errored:
        """Return the failure as the ending of a run."""
        return Errored(code="spawn", reason=self.reason, retryable=self.retryable)


@dataclass(frozen=True, slots=True)
class _Order:
    """What a spawn thread needs to know."""

    argv: tuple[str, ...]
    directory: Path
    env: Mapping[str, str]
    files: Path
    stdin: bytes | None


@dataclass(frozen=True, slots=True)
class _Child:
    """What a spawn thread hands back; `pidfd` is None where the kernel has none."""

    record: ProcessRecord
    pidfd: int | None


class Launcher:
    """Starts children from a few long-lived threads, because a spawn blocks its thread until the child has a core.

    Make it where its loop runs, on the main thread: it turns signals that Hive ignores into signals that Hive heeds by
    doing nothing, since children inherit the former. `close` it when no child is left.

    Args:
        threads: Spawns at the same moment. Source: six kept 1,315 tasks/s on busy cores, one thread 803.
        pidfds: Watch children through the kernel's process descriptors, or by one thread a child; None: what there is.
    """

    def __init__(self, clock: Clock, threads: int = 6, *, pidfds: bool | None = None) -> None:
        _heed_ignored_signals()
        self.sweeper = Sweeper(clock)
        self._table = this_machine()
        self._boot_id = self._table.boot_id()
        self._pidfds = has_pidfds() if pidfds is None else pidfds
        self._spawners = ThreadPoolExecutor(threads, "hive-spawn", initializer=_unblock_signals)

    async def start(
        self,
        argv: Sequence[str],
        directory: Path,
        env: Mapping[str, str],
        files: Path,
        stdin: bytes | None = None,
    ) -> Process:
        """Start a program in a session of its own, with stdout and stderr in files only its user can read.

        Cancelling stops and reaps the child before the cancellation goes on, however far the spawn had come.

        Args:
            argv: Program and arguments; the program is looked up in the PATH of `env`.
            directory: Where it starts; must exist.
            env: The whole environment (`child_env`).
            files: ``<files>.out`` and ``<files>.err`` are made anew, and ``<files>.in`` if there is `stdin`.
            stdin: What the program reads before end-of-file; None: ``/dev/null``.

        Raises:
            SpawnFailed: Program or directory is missing or refused, or the machine is short of something.
        """
        if not argv:
            raise SpawnFailed("cannot start a program: the argument list is empty")
        job = self._spawners.submit(self._spawn_blocking, _Order(tuple(argv), directory, env, files, stdin))
        interrupted = await to_the_end(job)
        if interrupted is None:
            return Process(job.result(), env.get("HIVE_RUN_ID", ""), files, self.sweeper)
        if job.exception() is None:
            await Process(job.result(), env.get("HIVE_RUN_ID", ""), files, self.sweeper).stop(0.0)
        raise interrupted

    def close(self) -> None:
        """End the threads. Children still alive are not stopped; marks not swept yet are forgotten."""
        self._spawners.shutdown(wait=True, cancel_futures=True)
        self.sweeper.close()

    def _spawn_blocking(self, order: _Order) -> _Child:
        """Do everything about a spawn that can block: files, fork and exec, descriptor, start time."""
        try:
            pid = _popen_blocking(order)
        except (OSError, ValueError) as error:
            raise _spawn_failed(error, order) from error
        try:
            pidfd = os.pidfd_open(pid) if self._pidfds else None
        except OSError as error:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise _spawn_failed(error, order) from error
        row = self._table.row(pid)
        return _Child(ProcessRecord(pid, row.started if row else 0, self._boot_id), pidfd)


def _heed_ignored_signals() -> None:
    """Replace SIG_IGN by a handler that does nothing: exec resets handlers, but children inherit what is ignored.

    With SIGCHLD ignored the kernel would also throw exit codes away. Popen itself restores SIGPIPE and SIGXFSZ.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers; the owner of this process made its loop elsewhere on purpose
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, _do_nothing)


def _do_nothing(_signum: int, _frame: object) -> None:
    pass


def _unblock_signals() -> None:
    """Children inherit the mask of the thread that spawns them; a blocked TERM could not stop them."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _popen_blocking(order: _Order) -> int:
    fds: list[int] = []
    try:
        fds.append(_stdin_blocking(order))
        for kind in ("out", "err"):
            # Appending, because a child that opens /dev/stdout anew truncates the file and then writes at its start.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            fds.append(os.open(output_file(order.files, kind), flags, 0o600))
        popen = subprocess.Popen(
            order.argv,
            stdin=fds[0],
            stdout=fds[1],
            stderr=fds[2],
            cwd=order.directory,
            env=order.env,
            start_new_session=True,
        )
    finally:
        for fd in fds:
            os.close(fd)
    popen.returncode = EXIT_UNKNOWN  # reaped by `Process`, which needs the zombie to hold the group's number
    return popen.pid


def _stdin_blocking(order: _Order) -> int:
    order.files.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if order.stdin is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    path = output_file(order.files, "in")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(order.stdin)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


_SHORTAGES = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ETXTBSY}
)


def _spawn_failed(error: OSError | ValueError, order: _Order) -> SpawnFailed:
    program = order.argv[0] if order.argv else ""
    if not isinstance(error, OSError):
        return SpawnFailed(f"cannot start {program!r}: {error}")
    if not order.directory.is_dir():
        return SpawnFailed(f"cannot start {program!r}: directory {str(order.directory)!r} does not exist")
    if isinstance(error, FileNotFoundError) and error.filename == program:
        return SpawnFailed(f"program {program!r}, or the interpreter it names, does not exist")
    where = f" ({error.filename})" if error.filename not in (None, program) else ""
    text = f"cannot start {program!r}: {error.strerror}{where}"
    return SpawnFailed(text, retryable=error.errno in _SHORTAGES)


class Process:
    """A child that runs or ran. Made by `Launcher.start`, used from that loop only.

    The leader stays a zombie until its group was killed, so that the group's number cannot belong to a stranger.

    Attributes:
        record: For the run row; enough to stop the group from another process.
        mark: Its ``HIVE_RUN_ID``.
        files: As given to `Launcher.start`.
        exit_code: None while it runs; negative: the signal that ended it.
    """

    def __init__(self, child: _Child, mark: str, files: Path, sweeper: Sweeper) -> None:
        self.record = child.record
        self.mark = mark
        self.files = files
        self.exit_code: int | None = None
        self.sweeper = sweeper
        self._pidfd = child.pidfd
        self._loop = asyncio.get_running_loop()
        self._leader: asyncio.Future[None] = self._loop.create_future()  # done: it ended, perhaps not yet reaped
        self._over: asyncio.Future[None] = self._loop.create_future()  # done: reaped
        self._stopping = False
        self._watch()

    async def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit code, or None when the process still runs after `timeout_s`.

        When the leader ends by itself, the rest of its group is killed at once.
        """
        if self.exit_code is None:
            await asyncio.wait({self._over}, timeout=timeout_s)
        return self.exit_code

    def signal(self, signum: int) -> None:
        """Send a signal to the whole group; nothing happens once the process was reaped."""
        if self.exit_code is not None:
            return
        # Not permitted: all who are left changed user, or (macOS) only the zombie is left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.record.pid, signum)

    async def stop(self, grace_s: float) -> list[int]:
        """Stop everything: TERM to the group, KILL after the grace, then what is left of group, session and mark.

        What outlives the leader gets what is left of the grace, at most 1 s. Runs to the end even when cancelled; a
        cancellation ends the grace and is raised afterwards. After the process ended by itself only the mark is looked
        for.

        Returns:
            Process ids that would not die, of all runs stopped in the same look.
        """
        began_s = self._loop.time()
        interrupted = await self._stop_leader(grace_s)
        left_s = 0.0 if interrupted else max(0.0, grace_s - (self._loop.time() - began_s))
        if self._leader.done():
            left_s = min(left_s, _STRAY_GRACE_S)
        records = [self.record] if self.exit_code is None else []
        job = self.sweeper.stop(records, [self.mark] if self.mark else [], left_s)
        interrupted = await to_the_end(job) or interrupted
        self._stopping = False
        if self._leader.done():
            self._bury()
        if interrupted is not None:
            raise interrupted
        return job.result()

    async def _stop_leader(self, grace_s: float) -> asyncio.CancelledError | None:
        self._stopping = True
        self.signal(signal.SIGTERM)
        interrupted = await self._leader_within(grace_s)
        if not self._leader.done() or interrupted:
            self.signal(signal.SIGKILL)
        while not self._leader.done():
            again = await self._leader_within(_KILL_WAIT_S)
            if again is None:
                break
            interrupted = again
        return interrupted

    async def _leader_within(self, timeout_s: float) -> asyncio.CancelledError | None:
        if self._leader.done():
            return None
        try:
            await asyncio.wait({self._leader}, timeout=timeout_s)
        except asyncio.CancelledError as error:
            return error
        return None

    def _watch(self) -> None:
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._leader_ended)
        else:
            threading.Thread(target=self._watch_blocking, name="hive-wait", daemon=True).start()

    def _watch_blocking(self) -> None:
        _await_end_blocking(self.record.pid)
        with suppress(RuntimeError):  # the loop was closed before its child ended
            self._loop.call_soon_threadsafe(self._leader_ended)

    def _leader_ended(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)  # before close: the event of a closed descriptor still arrives
            os.close(self._pidfd)
            self._pidfd = None
        self._leader.set_result(None)
        if not self._stopping:  # a stop in progress gives the rest of the group its grace first
            self._bury()

    def _bury(self) -> None:
        if self.exit_code is None:
            self.signal(signal.SIGKILL)
            self.exit_code = _reap(self.record.pid)
            self._over.set_result(None)


def _await_end_blocking(pid: int) -> None:
    """Wait until a child ended, and leave it a zombie."""
    if sys.platform == "darwin":
        import select

        # os.waitid came to macOS with Python 3.13 only.
        watch = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        with suppress(ProcessLookupError):  # already a zombie
            select.kqueue().control([watch], 1)
    else:
        with suppress(ChildProcessError):  # reaped by somebody else
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _reap(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return EXIT_UNKNOWN
    return os.waitstatus_to_exitcode(status)
