"""A real repository with one commit, and workspaces of it, for tests that act as agent and as user."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.model import NewTask, Phase, State, Task, TaskId, WorkspaceKind
from hive.workspace import Workspaces


class Checkout:
    """A directory git works in, driven as a person or an agent would."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}

    def git(self, *args: str, code: int = 0) -> str:
        done = subprocess.run(
            ["git", *args],
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        assert done.returncode == code, f"git {args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, message: str = "work") -> str:
        self.git("add", "-A")
        self.git("-c", "user.name=Agent", "-c", "user.email=agent@example.org", "commit", "-qm", message)
        return self.git("rev-parse", "HEAD")

    def files_of(self, commit: str) -> list[str]:
        return self.git("ls-tree", "-r", "-z", "--name-only", commit).strip("\0").split("\0")

    def at(self, path: Path) -> Checkout:
        return Checkout(path, Path(self.env["HOME"]))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory of the test's own, so that nobody's git configuration decides a test."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def user(tmp_path: Path, home: Path) -> Checkout:
    """The user's repository: three files, one commit on main, an identity."""
    path = tmp_path / "repo"
    path.mkdir()
    checkout = Checkout(path, home)
    checkout.git("init", "-q", "-b", "main")
    checkout.git("config", "user.name", "Ada")
    checkout.git("config", "user.email", "ada@example.org")
    checkout.write("a.txt", "one\n")
    checkout.write("src/b.txt", "two\n")
    checkout.write(".gitignore", "*.log\n.env\n")
    checkout.git("add", "-A")
    checkout.git("commit", "-qm", "Start")
    return checkout


@pytest.fixture
def state_dir(user: Checkout) -> Path:
    """The state directory, inside of the checkout as it is by default."""
    return user.path / ".hive"


@pytest.fixture
def workspaces(state_dir: Path, user: Checkout) -> Workspaces:
    """The workspaces of one Hive."""
    found = Workspaces(state_dir, SystemClock(), user.env)
    found.exclude_state_dir_blocking(user.path)
    return found


def a_task(number: int = 1, title: str = "Fix the parser", *, created_at_ms: int = 1_000, **spec: object) -> Task:
    return Task(
        id=TaskId(number),
        spec=NewTask(title, **spec),  # type: ignore[arg-type]
        state=State.IN_PROGRESS,
        phase=Phase.APPLY,
        created_at_ms=created_at_ms,
    )


def fresh_task(number: int = 1, **spec: object) -> Task:
    task = a_task(number)
    return replace(task, spec=replace(task.spec, workspace=WorkspaceKind.FRESH, **spec))  # type: ignore[arg-type]
