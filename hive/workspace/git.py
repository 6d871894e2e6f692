"""The one place that runs git: environment from nothing, hardened, with a deadline; and the locks around it.

Knows no tasks. What a repository contains is hostile: no hook, monitor, pager, editor, signer, external diff or text
converter runs, and a worktree's own ``.git`` file is never believed (callers name the git directory). Filters that the
*user* configured (git-lfs) do run, since without them files would be wrong.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import IO

from hive.clock import Clock
from hive.errors import NotReady, WorkspaceError

_LOCK_PATIENCE_S = 300.0
_LOCK_POLL_S = 0.02
_KEPT_NAMES = ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR")

# System and user configuration stay in force (identity, excludes, safe.directory, git-lfs); these come on top.
_HARDENED = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "core.filesRefLockTimeout=5000",  # git's own bounded retry on *.lock of references
    "core.packedRefsTimeout=10000",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "protocol.ext.allow=never",
    "worktree.useRelativePaths=false",
)
_PREFIX = (
    "git",
    "--no-pager",
    "--no-optional-locks",
    *(part for setting in _HARDENED for part in ("-c", setting)),
)
# git's default leaves new objects out: after a power cut a branch may name an empty file. Paid only where work is kept.
_DURABLE = ("-c", "core.fsync=committed", "-c", "core.fsyncMethod=batch")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended. Bytes that are not UTF-8 are kept as surrogates."""

    code: int
    out: str
    err: str


class Git:
    """The program with its environment: PATH, HOME, XDG_CONFIG_HOME and TMPDIR of `base_env`, nothing else of it."""

    def __init__(self, base_env: Mapping[str, str]) -> None:
        self._env = {name: base_env[name] for name in _KEPT_NAMES if name in base_env}
        self._env.setdefault("PATH", os.defpath)
        self._env |= {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"}

    def start(self, place: Place, args: Sequence[str], *, stdin: int, stdout: int | IO[bytes]) -> Popen[bytes]:
        """Start a command in a process group of its own: Ctrl-C is for Hive and never cuts a git command in half."""
        try:
            return Popen(
                (*_PREFIX, *(_DURABLE if place.durable else ()), *args),
                cwd=place.cwd,
                env=self._env | place.location(),
                stdin=stdin,
                stdout=stdout,
                stderr=PIPE,
                process_group=0,
                pass_fds=place.held,
            )
        except OSError as error:
            raise _not_started(error, place) from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where git works, and the way to run it there.

    Attributes:
        cwd: Directory the command starts in.
        git_dir: A repository's common directory, or a worktree's own directory in it; None: found from `cwd`.
        work_tree: Top of the files; None: found from `cwd`, or not needed.
        index: Index file to use instead of the worktree's own.
        held: Descriptors of locks that last until the command ends, even if Hive dies before it.
        durable: Objects and references are on disk before git ends.
        timeout_s: When a command is stopped.
    """

    git: Git
    cwd: Path
    git_dir: Path | None = None
    work_tree: Path | None = None
    index: Path | None = None
    held: tuple[int, ...] = ()
    durable: bool = False
    timeout_s: float = 120.0

    def run(self, *args: str, stdin: str = "") -> str:
        """Return what git printed.

        Raises:
            NotReady: H213, git is not installed.
            WorkspaceError: H215, git failed; H214, it took longer than `timeout_s`.
        """
        answer = self.ask(*args, stdin=stdin)
        if answer.code != 0:
            raise failed(answer, *args, where=self.cwd)
        return answer.out

    def ask(self, *args: str, stdin: str = "") -> Answer:
        """Return how git ended, whatever its exit code.

        Raises:
            NotReady: H213, git is not installed.
            WorkspaceError: H214, git took longer than `timeout_s` and was killed with all it had started.
        """
        code, out, err = self._call(args, stdin.encode("utf-8", "surrogateescape"), PIPE)
        return Answer(code, _text(out), _text(err))

    def run_capped(self, *args: str, limit_bytes: int) -> str:
        """Return what git printed, cut at `limit_bytes` with a last line that says so; raises as `run`."""
        with tempfile.TemporaryFile() as sink:
            code, _, err = self._call(args, b"", sink)
            if code != 0:
                raise failed(Answer(code, "", _text(err)), *args, where=self.cwd)
            size = sink.seek(0, os.SEEK_END)
            sink.seek(0)
            text = sink.read(limit_bytes).decode("utf-8", "replace")
        return text if size <= limit_bytes else f"{text}\n[cut: {limit_bytes} of {size} bytes shown]\n"

    def location(self) -> dict[str, str]:
        """Return the variables that tell git where to work."""
        named = {"GIT_DIR": self.git_dir, "GIT_WORK_TREE": self.work_tree, "GIT_INDEX_FILE": self.index}
        return {name: str(path) for name, path in named.items() if path is not None}

    def _call(self, args: tuple[str, ...], stdin: bytes, sink: int | IO[bytes]) -> tuple[int, bytes, bytes]:
        with self.git.start(self, args, stdin=PIPE if stdin else DEVNULL, stdout=sink) as child:
            try:
                out, err = child.communicate(stdin or None, timeout=self.timeout_s)
            except BaseException as error:
                os.killpg(child.pid, signal.SIGKILL)
                child.communicate()
                if isinstance(error, TimeoutExpired):
                    raise _timed_out(args, self) from error
                raise
        return child.returncode, out or b"", err


def failed(answer: Answer, *args: str, where: Path) -> WorkspaceError:
    """Return the error for a git command that ended badly."""
    lines = [line.strip() for line in answer.err.splitlines() if line.strip() and not line.startswith("hint:")]
    why = "; ".join(lines)[-500:].encode("utf-8", "replace").decode()
    return WorkspaceError(
        f"`git {_verb(args)}` failed with exit code {answer.code}",
        code="H215",
        why=why,
        where=str(where),
        fix="put that right, then `hive retry` the task; nothing was removed",
    )


@contextmanager
def locked(path: Path, clock: Clock) -> Iterator[int]:
    """Hold an exclusive lock on a file, made if absent; yields its descriptor, to be passed on as `Place.held`.

    The lock ends with the last process that has the descriptor, so a git command that outlives a killed Hive still
    keeps others out. The file itself stays: removing it would let two processes hold "the" lock.

    Raises:
        WorkspaceError: H216, others held it longer than `_LOCK_PATIENCE_S`.
    """
    # Opened per use: a descriptor kept from before a fork would share its lock with all children.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for_lock(descriptor, path, clock)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, clock: Clock) -> None:
    import fcntl  # absent on Windows, where this package can be imported but not used

    deadline_s = clock.monotonic_s() + _LOCK_PATIENCE_S
    pause_s = 0.001
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic_s() > deadline_s:
                raise _busy(path) from None
        time.sleep(pause_s)  # on a worker's thread; a blocking flock could not have a deadline
        pause_s = min(_LOCK_POLL_S, pause_s * 2)


def _verb(args: tuple[str, ...]) -> str:
    """Return the command's name, which may stand behind ``-c name=value``."""
    return next(arg for arg in args if not arg.startswith("-") and "=" not in arg)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _not_started(error: OSError, place: Place) -> NotReady:
    if error.filename == "git":
        return NotReady("git is not installed", code="H213", why=str(error.strerror), fix="install git 2.31 or newer")
    return WorkspaceError(
        f"git cannot start in {place.cwd}",
        code="H215",
        why=str(error.strerror),
        where=str(place.cwd),
        fix="check that the directory exists and may be entered",
    )


def _timed_out(args: tuple[str, ...], place: Place) -> WorkspaceError:
    return WorkspaceError(
        f"`git {_verb(args)}` took longer than {place.timeout_s:g} s and was stopped",
        code="H214",
        why="a slow disk, or a filter such as git-lfs that waits for the network",
        where=str(place.cwd),
        fix="run the same git command by hand to see what it waits for",
    )


def _busy(path: Path) -> WorkspaceError:
    return WorkspaceError(
        f"another Hive process has held {path} for more than {_LOCK_PATIENCE_S:g} s",
        code="H216",
        where=str(path),
        fix=f"find it with `fuser {path}`; the lock ends when that process does",
    )
