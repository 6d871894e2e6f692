"""Killed anywhere, used by many at once."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hive.clock import Clock, ManualClock, SystemClock
from hive.errors import WorkspaceError
from hive.workspace import Workspaces
from hive.workspace.git import Git, Place, locked
from tests.conftest import ROOT
from tests.system.harness import until
from tests.workspace.conftest import Checkout, a_task

# argv: state directory, repository, what to do with which tasks
PROGRAM = """
import os, sys
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from hive.clock import SystemClock
from hive.workspace import Workspaces
from tests.workspace.conftest import a_task
state_dir, repo, verb, *numbers = sys.argv[1:]
workspaces = Workspaces(Path(state_dir), SystemClock(), os.environ)
def act(number):
    workspace = workspaces.open_blocking(a_task(int(number)), Path(repo))
    if verb == "seal":
        workspaces.seal_blocking(workspace, a_task(int(number)), "")
    if verb == "remove":
        workspaces.remove_blocking(workspace, a_task(int(number)))
with ThreadPoolExecutor(4) as threads:
    list(threads.map(act, numbers))
"""


def _start(user: Checkout, state_dir: Path, verb: str, *numbers: int) -> subprocess.Popen[bytes]:
    arguments = (str(state_dir), str(user.path), verb, *map(str, numbers))
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, env=user.env, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    with process:
        _, err = process.communicate(timeout=50)
    return process.returncode, err


@pytest.fixture
def fatal_git(user: Checkout, tmp_path: Path) -> Callable[[int, str], None]:
    """Arm a git whose n-th start kills the Hive process that started it, before or after the real command."""

    def arm(number: int, when: str) -> None:
        directory = tmp_path / f"fatal-{when}-{number}"
        directory.mkdir()
        program = directory / "git"
        kill, real = "kill -9 $PPID", f'{shutil.which("git")} "$@"'
        work = f"{kill}; {real}" if when == "before" else f"{real}; {kill}"
        program.write_text(
            f"#!/bin/sh\necho x >> {directory}/n\n"
            f"if [ $(wc -l < {directory}/n) -eq {number} ]; then {work}; else exec {real}; fi\n"
        )
        program.chmod(0o755)
        user.env["PATH"] = f"{directory}:{os.environ['PATH']}"

    return arm


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_while_opening_leaves_nothing_in_the_way(
    user: Checkout, state_dir: Path, fatal_git: Callable[[int, str], None], number: int, when: str
) -> None:
    """Killed around any of its git commands, which itself goes on, opening leads to the same complete worktree."""
    fatal_git(number, when)
    code, _ = _finish(_start(user, state_dir, "open", 1))
    assert code == -signal.SIGKILL
    user.env["PATH"] = os.environ["PATH"]
    workspace = Workspaces(state_dir, SystemClock(), user.env).open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    assert workspace.branch == agent.git("symbolic-ref", "--short", "HEAD") == "hive/1-fix-the-parser"
    assert agent.git("status", "--porcelain") == ""
    assert (workspace.path / "src/b.txt").exists()
    assert user.git("branch", "--list", "hive/*").split() == ["+", "hive/1-fix-the-parser"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_kill_while_sealing_loses_nothing(
    user: Checkout, state_dir: Path, fatal_git: Callable[[int, str], None], number: int, when: str
) -> None:
    """The next seal has the same evidence, with one commit, whatever the first got done."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    workspace = workspaces.open_blocking(a_task(), user.path)
    (workspace.path / "new.txt").write_text("new\n")
    fatal_git(number, when)
    code, _ = _finish(_start(user, state_dir, "seal", 1))
    assert code == -signal.SIGKILL
    user.env["PATH"] = os.environ["PATH"]
    evidence = workspaces.seal_blocking(workspaces.open_blocking(a_task(), user.path), a_task(), "")
    assert (evidence.files, evidence.insertions) == (1, 1)
    assert user.git("rev-list", "--count", f"{workspace.base_commit}..{evidence.commit}") == "1"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 14))
def test_a_kill_while_removing_loses_nothing(
    user: Checkout, state_dir: Path, fatal_git: Callable[[int, str], None], number: int, when: str
) -> None:
    """Commits stay on the branch and uncommitted work in the worktree or under a salvage reference."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    agent.write("done.txt", "done\n")
    tip = agent.commit()
    agent.write("draft.txt", "draft\n")
    fatal_git(number, when)
    code, _ = _finish(_start(user, state_dir, "remove", 1))
    user.env["PATH"] = os.environ["PATH"]
    assert code == -signal.SIGKILL
    assert workspaces.remove_blocking(workspace, a_task()).removed
    assert not workspace.path.exists()
    assert user.git("show", "refs/hive/salvage/1/1:draft.txt") == "draft"
    assert user.git("rev-parse", str(workspace.branch)) == tip
    assert user.git("worktree", "list", "--porcelain").count("worktree ") == 1


def test_many_processes_open_worktrees_of_one_repository(user: Checkout, state_dir: Path) -> None:
    """Twenty openings from four processes at once all succeed, each with its own branch."""
    processes = [_start(user, state_dir, "open", *range(first, 21, 4)) for first in range(1, 5)]
    assert [_finish(process) for process in processes] == [(0, b"")] * 4
    branches = user.git("for-each-ref", "--format=%(refname:short)", "refs/heads/hive").split()
    assert sorted(branches) == sorted(f"hive/{number}-fix-the-parser" for number in range(1, 21))
    assert len(list((state_dir / "worktrees").glob("*/src/b.txt"))) == 20


def test_many_processes_open_the_same_worktree(user: Checkout, state_dir: Path) -> None:
    """Should two ever work on one task, they get one worktree, and removals in between do no harm."""
    verbs = ("open", "remove", "open", "remove")
    processes = [_start(user, state_dir, verb, 1, 1, 1, 1) for verb in verbs]
    assert [_finish(process) for process in processes] == [(0, b"")] * 4
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    assert workspaces.open_blocking(a_task(), user.path).branch == "hive/1-fix-the-parser"


def test_threads_of_one_process_keep_each_other_out(tmp_path: Path) -> None:
    """The lock is not only one between processes: threads of a shard share the process."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with locked(tmp_path / "lock", SystemClock()):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(200)))
    assert (len(most), max(most)) == (200, 1)


def test_a_lock_lasts_until_the_git_it_was_taken_for_ends(tmp_path: Path) -> None:
    """A command that outlives a killed Hive still keeps others out of what it is changing."""
    with locked(tmp_path / "lock", SystemClock()) as descriptor:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    with child, (tmp_path / "lock").open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate(timeout=10)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_is_never_given_back_is_an_error(tmp_path: Path) -> None:
    """Waiting has an end, by Hive's clock, and the error names the file."""
    clock = ManualClock()
    with locked(tmp_path / "lock", clock), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_enter, tmp_path / "lock", clock)
        while not waiting.done():
            clock.advance(400)
        with pytest.raises(WorkspaceError) as caught:
            waiting.result()
    assert (caught.value.code, caught.value.where) == ("H216", str(tmp_path / "lock"))


def _enter(path: Path, clock: Clock) -> None:
    with locked(path, clock):
        pass


def test_a_git_that_does_not_end_is_stopped_with_all_it_started(user: Checkout, tmp_path: Path) -> None:
    """A filter that waits for ever must not take a thread of the shard with it."""
    program = tmp_path / "git"
    program.write_text(f"#!/bin/sh\nsleep 987 & echo $! > {tmp_path}/child\nwait\n")
    program.chmod(0o755)
    git = Git(user.env | {"PATH": f"{tmp_path}:{user.env['PATH']}"})
    with pytest.raises(WorkspaceError) as caught:
        Place(git, user.path, timeout_s=0.5).run("status")
    assert caught.value.code == "H214"
    child = int((tmp_path / "child").read_text())
    until(lambda: not _runs(child), "what git had started was left running", 5.0)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
