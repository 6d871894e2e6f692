"""Two queues in one repository know nothing of each other, and one queue is the same from every directory."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from tests.system.harness import Project


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.invalid")
    done = subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout


def repository(directory: Path) -> None:
    git(directory, "init", "-q", "-b", "main")
    git(directory, "commit", "-q", "--allow-empty", "-m", "start")


def hive(project: Project, *arguments: str) -> str:
    done = project.hive(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_queues_in_one_repository_one_after_the_other(project: Project) -> None:
    """Tasks and runs with the same numbers in two queues keep their own output, branch and session directories."""
    repository(project.directory)
    for name in ("one", "two"):
        command = ["sh", "-c", f"echo said {name}; echo {name} > note.txt"]
        path = project.tasks([{"title": "note", "agent": "command", "command": command}])
        hive(project, "--db", f"{name}.db", "run", str(path))
    for name in ("one", "two"):
        assert f"said {name}" in hive(project, "--db", f"{name}.db", "logs", "1")
        assert (project.directory / f"{name}.db.d" / "runs" / "0" / "1.out").read_text() == f"said {name}\n"
        patch = hive(project, "--db", f"{name}.db", "diff", "1")
        assert [line for line in patch.splitlines() if line.startswith("+") and "note.txt" not in line] == [f"+{name}"]
    assert not (project.directory / ".hive").exists()
    branches = git(project.directory, "branch", "--list", "hive/*", "--format=%(refname:short)").split()
    assert sorted(branches) == ["hive/1-note", "hive/1-note-2"]
    untracked = git(project.directory, "status", "--porcelain", "--untracked-files=normal")
    assert ".db.d/" not in untracked


def test_one_queue_from_two_directories(project: Project) -> None:
    """What one directory queued another one works on, and both read the same output; work is done where `run` was."""
    other = replace(project, directory=project.directory.parent / "other")
    other.directory.mkdir()
    url = f"sqlite:///{project.directory.parent}/q.db"
    hive(project, "--db", url, "add", "--agent", "command", "--workspace", "none", "pwd")
    hive(other, "--db", url, "run")
    for one in (project, other):
        assert hive(one, "--db", url, "logs", "1", "--raw") == f"{other.directory}\n"
    assert not (project.directory / ".hive").exists()
    assert not (other.directory / ".hive").exists()


def test_the_default_queue_by_name_from_elsewhere(project: Project) -> None:
    """Naming the default queue of a repository with --db finds what that queue keeps in .hive."""
    other = replace(project, directory=project.directory.parent / "other")
    other.directory.mkdir()
    hive(project, "add", "--agent", "command", "--workspace", "none", "echo hello")
    hive(project, "run")
    assert hive(other, "--db", project.url, "logs", "1", "--raw") == "hello\n"


def test_a_repository_task_worked_from_outside_of_any_repository(project: Project) -> None:
    """Its failure says which directory is no repository; tried again from the repository it is completed."""
    repository(project.directory)
    other = replace(project, directory=project.directory.parent / "other")
    other.directory.mkdir()
    hive(project, "add", "--agent", "command", "touch made.txt")
    assert other.hive("--db", project.url, "run").returncode == 1
    [task] = project.all_tasks()
    assert task.failure is not None
    assert (task.failure.code, str(other.directory) in task.failure.message) == ("H210", True)
    hive(project, "retry", "1")
    hive(project, "run")
    assert [task.state for task in project.all_tasks()] == ["completed"]
