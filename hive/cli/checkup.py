"""What Hive needs on a machine, looked at piece by piece. Changes nothing but in `mend`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hive.cli.context import Context, database_path
from hive.cli.engine_state import engine_pid
from hive.cli.output import lines_of, several
from hive.config import Settings
from hive.errors import HiveError
from hive.model import State, Task
from hive.preflight import find_claude
from hive.store import TaskQuery

LOGIN_NAMES = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
)
_LEAST_FREE_BYTES = 1 << 30
_GOOD_FREE_BYTES = 10 << 30
_AGENT_BYTES = 300 << 20
"""Peak of one claude CLI without what its tools start. Source: 40 of version 2.1.330 measured at once."""
_AGENT_DESCRIPTORS = 16
_OWN_DESCRIPTORS = 128
_PATIENCE_S = 20.0
_PAGE = 1000


class Level(StrEnum):
    """How well a piece stands."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One piece: what was found, and what to do when it is not ok."""

    name: str
    level: Level
    found: str
    fix: str = ""


def checkup(ctx: Context, settings: Settings) -> list[Check]:
    """Look at everything."""
    return [
        _python(),
        _git(settings),
        *_repository(ctx, settings),
        _claude(settings),
        _login(settings),
        _sqlite(),
        _module("uvloop", "the standard event loop is used, which is slower"),
        _module("aiosqlite", "one task at a time is worked"),
        _disk(settings),
        _memory(settings),
        _descriptors(settings),
        _file_system(settings),
        *_queue(ctx, settings),
    ]


def mend(ctx: Context, settings: Settings) -> list[str]:
    """Mend what loses nothing, and say what was done."""
    from hive.workspace import Workspaces

    done: list[str] = []
    workspaces = Workspaces(settings.state_dir, ctx.clock, settings.environ, settings.branch_prefix)
    if settings.repo is not None and workspaces.exclude_state_dir_blocking(settings.repo):
        done.append(f"git ignores {settings.state_dir}")
    if not database_path(settings).exists() or engine_pid(settings) is not None:
        return done
    left = [task for task in _tasks(ctx, settings) if task.workspace and task.state is State.COMPLETED]
    for task in left:
        workspace = workspaces.open_blocking(task, settings.root)
        removal = workspaces.remove_blocking(workspace, task)
        if removal.removed:
            done.append(f"removed the worktree of task {task.id}, which is completed")
    return done


def _python() -> Check:
    return Check("python", Level.OK, f"{platform.python_version()} at {sys.executable}")


def _git(settings: Settings) -> Check:
    said = _said(["git", "--version"], settings)
    if said is None:
        return Check("git", Level.MISSING, "not found", "install git 2.31 or newer")
    version = tuple(int(part) for part in said.removeprefix("git version ").split(".")[:2] if part.isdecimal())
    if version < (2, 31):
        return Check("git", Level.MISSING, f"{said}, too old", "install git 2.31 or newer")
    return Check("git", Level.OK, said)


def _repository(ctx: Context, settings: Settings) -> Iterator[Check]:
    from hive.workspace import Workspaces
    from hive.workspace.git import Git, Place

    if settings.repo is None:
        yield Check("repository", Level.WARNING, f"{ctx.directory} is in none", "cd into one, or use -C DIR")
        return
    workspaces = Workspaces(settings.state_dir, ctx.clock, settings.environ, settings.branch_prefix)
    try:
        found = workspaces.check_repo_blocking(settings.repo, settings.base)
    except HiveError as error:
        yield _broken("repository", error)
        return
    branch = found.branch or f"no branch, at {found.head[:12]}"
    if found.dirty:
        yield Check(
            "repository",
            Level.WARNING,
            f"{found.root} ({branch}), changes not committed: agents do not see them",
            "git commit, or git stash",
        )
    else:
        yield Check("repository", Level.OK, f"{found.root} ({branch})")
    if settings.state_dir.is_relative_to(found.root) and settings.state_dir.is_dir():
        listing = ("ls-files", "--others", "--exclude-standard", "--directory", "--")
        if Place(Git(settings.environ), found.root).run(*listing, str(settings.state_dir)):
            yield Check("ignored", Level.WARNING, f"git does not ignore {settings.state_dir}", "hive doctor --fix")


def _claude(settings: Settings) -> Check:
    level = Level.MISSING if settings.agent == "claude" else Level.WARNING
    path = find_claude(settings)
    if path is None:
        return Check("claude", level, f"`{settings.claude}` is not on PATH", "npm install -g @anthropic-ai/claude-code")
    said = _said([path, "--version"], settings)
    if said is None:
        return Check("claude", level, f"{path} --version fails", f"{path} --version, then install it again")
    return Check("claude", Level.OK, f"{said} at {path}")


def _login(settings: Settings) -> Check:
    """Name where a login could come from; values are never looked at."""
    names = [name for name in LOGIN_NAMES if settings.environ.get(name)]
    home = settings.environ.get("CLAUDE_CONFIG_DIR") or f"{settings.environ.get('HOME', '')}/.claude"
    names += ["a login of the claude CLI"] if Path(home, ".credentials.json").is_file() else []
    if names:
        return Check("login", Level.OK, ", ".join(names))
    level = Level.WARNING  # some systems keep logins where no other program can see them
    return Check("login", level, "none found", "run claude once and log in, or set ANTHROPIC_API_KEY")


def _sqlite() -> Check:
    from hive.store.sqlite_library import has_wal_reset_bug, sqlite3

    version = sqlite3.sqlite_version_info
    if has_wal_reset_bug((version[0], version[1], version[2])):
        found = f"{sqlite3.sqlite_version} can lose commits in rare cases (write-ahead-log reset)"
        return Check("sqlite", Level.WARNING, found, "pip install pysqlite3, or a Python with SQLite 3.51.3 or newer")
    return Check("sqlite", Level.OK, f"{sqlite3.sqlite_version} ({sqlite3.__name__})")


def _module(name: str, without: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    if importlib.util.find_spec(name) is None:
        return Check(name, Level.WARNING, f"not installed: {without}", f"pip install {name}")
    try:
        return Check(name, Level.OK, version(name))
    except PackageNotFoundError:  # inside the single binary packages have no metadata
        return Check(name, Level.OK, "built in")


def _disk(settings: Settings) -> Check:
    place = next(one for one in (settings.state_dir, *settings.state_dir.parents) if one.exists())
    free_bytes = shutil.disk_usage(place).free
    found = f"{free_bytes / (1 << 30):.1f} GiB free at {place}"
    if free_bytes < _LEAST_FREE_BYTES:
        return Check("disk", Level.MISSING, found, "free some space, or move the queue with `db` in hive.toml")
    if free_bytes < _GOOD_FREE_BYTES:
        return Check("disk", Level.WARNING, found, "every task has a checkout of its own: free some space")
    return Check("disk", Level.OK, found)


def _memory(settings: Settings) -> Check:
    import psutil

    free_bytes = psutil.virtual_memory().available
    room = max(1, free_bytes // _AGENT_BYTES)
    found = f"{free_bytes / (1 << 30):.1f} GiB available: room for about {room:,} of claude, {settings.agents} wanted"
    if room < settings.agents:
        return Check("memory", Level.WARNING, found, f"hive run --agents {room}")
    return Check("memory", Level.OK, found)


def _descriptors(settings: Settings) -> Check:
    try:
        import resource
    except ImportError:
        return Check("descriptors", Level.OK, "no limit on this system")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.agents * _AGENT_DESCRIPTORS + _OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        return Check("descriptors", Level.WARNING, f"at most {soft:,} open files", f"ulimit -n {wanted}")
    return Check(
        "descriptors", Level.OK, "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft:,} open files"
    )


def _file_system(settings: Settings) -> Check:
    from hive.store.sqlite_database import refuse_network

    try:
        refuse_network(database_path(settings))
    except HiveError as error:
        return _broken("file system", error)
    return Check("file system", Level.OK, f"local, at {database_path(settings).parent}")


def _queue(ctx: Context, settings: Settings) -> Iterator[Check]:
    path = database_path(settings)
    if not path.exists():
        yield Check("queue", Level.OK, f"none yet; it will be {path}")
        return
    try:
        with ctx.queue(settings) as hive:
            counts = hive.counts()
            total = sum(counts.by_state.values())
    except HiveError as error:
        yield _broken("queue", error)
        return
    yield Check("queue", Level.OK, f"{path}, schema {_schema()}, {several(total, 'task')}")
    pid = engine_pid(settings)
    open_runs = sum(counts.open_runs.values())
    if open_runs and pid is None:
        found = f"{several(open_runs, 'run')} of an engine that is gone"
        yield Check("leftovers", Level.WARNING, found, "hive run, which stops what is left of them and goes on")
    if pid is None:
        yield from _worktrees(ctx, settings)


def _worktrees(ctx: Context, settings: Settings) -> Iterator[Check]:
    """Find worktrees whose task is completed, or that no task knows."""
    directory = settings.state_dir / "worktrees"
    there = {str(path) for path in directory.iterdir()} if directory.is_dir() else set()
    if not there:
        return
    tasks = {task.workspace: task for task in _tasks(ctx, settings) if task.workspace}
    done = [path for path in there if path in tasks and tasks[path].state is State.COMPLETED]
    unknown = sorted(there - tasks.keys())
    if done:
        yield Check("worktrees", Level.WARNING, f"{len(done)} of completed tasks", "hive doctor --fix")
    if unknown:
        found = f"{len(unknown)} that no task knows, such as {unknown[0]}"
        yield Check("worktrees", Level.WARNING, found, f"look at it, then: git worktree remove {unknown[0]}")


def _tasks(ctx: Context, settings: Settings) -> Iterator[Task]:
    with ctx.queue(settings) as hive:
        after = 0
        while page := hive.tasks(TaskQuery(after_id=after, limit=_PAGE)):
            yield from page
            after = page[-1].id


def _schema() -> int:
    """Return the newest schema: a queue that could be opened has it."""
    from hive.store.sqlite_database import SQL

    return len(list((SQL / "migrations").glob("*.sql")))


def _broken(name: str, error: HiveError) -> Check:
    found = f"{error.message} [{error.code}]{f': {error.why}' if error.why else ''}"
    return Check(name, Level.MISSING, " ".join(lines_of(found).split()), error.fix)


def _said(argv: list[str], settings: Settings) -> str | None:
    """Return the first line a program prints in a clean environment, or None when it fails."""
    env = {name: settings.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in settings.environ}
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = lines_of(done.stdout.decode("utf-8", "replace")).strip().splitlines()
    return lines[0][:200] if done.returncode == 0 and lines else None
