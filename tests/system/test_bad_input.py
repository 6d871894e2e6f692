"""Bad input gets a clear error that says what, where, why and the fix; nothing is queued and nothing is lost."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.harness import Project

GOOD = '{"key": "a", "command": ["true"], "workspace": "none", "phases": ["apply"]}\n'
CLAUDE = '{"key": "a", "prompt": "do it"}\n'


def line(text: str) -> str:
    """Return a task of kind command with more keys."""
    return GOOD.replace("}\n", f", {text}}}\n")


FILES = {
    "unknown key": (GOOD + line('"promt": "x"').replace('"a"', '"b"'), "H111", "tasks.jsonl:2:", "prompt"),
    "cycle": (
        line('"after": ["b"]') + line('"after": ["a"]').replace('"key": "a"', '"key": "b"'),
        "H113",
        "tasks.jsonl:",
        "a",
    ),
    "duplicate key": (GOOD + GOOD, "H115", "tasks.jsonl:2:", "a"),
    "missing after": (GOOD + line('"after": ["aa"]').replace('"key": "a"', '"key": "b"'), "H112", ":2:", "`a`"),
    "wrong type": (line('"retries": "many"'), "H114", "tasks.jsonl:1:", "retries"),
    "phase of another version": (GOOD.replace("apply", "merge"), "H120", "tasks.jsonl:1:", "apply"),
    "binary rubbish": (bytes(range(256)).decode("latin-1"), "H110", "tasks.jsonl", ""),
}


@pytest.mark.parametrize(("text", "code", "where", "said"), FILES.values(), ids=FILES.keys())
def test_wrong_task_file(project: Project, text: str, code: str, where: str, said: str) -> None:
    """A wrong task file is refused whole, with its place."""
    (project.directory / "tasks.jsonl").write_bytes(text.encode("latin-1"))
    done = project.hive("run", "tasks.jsonl")
    assert done.returncode == 2
    assert f"error[{code}]" in done.stderr
    assert where in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project.directory / ".hive" / "hive.db").exists()


def test_not_a_git_repository(project: Project) -> None:
    """A task that needs a repository is refused where there is none."""
    project.write("tasks.jsonl", CLAUDE.replace('"prompt"', '"agent": "scripted", "script": "say hi", "prompt"'))
    refused(project, "H210", 5)


def test_missing_base(project: Project) -> None:
    """A base that does not exist is refused before anything is queued."""
    repository(project.directory)
    project.write("tasks.jsonl", line('"base": "no-such-branch"').replace("none", "repo"))
    refused(project, "H212", 2)


def test_repository_without_a_commit(project: Project) -> None:
    """A repository without a commit has nothing to start from."""
    subprocess.run(["git", "init", "-q", project.directory], check=True)
    project.write("tasks.jsonl", GOOD.replace("none", "repo"))
    refused(project, "H211", 5)


def test_dirty_base_is_said_and_not_used(project: Project) -> None:
    """Changes that are not committed are named, stay as they are, and no agent sees them."""
    repository(project.directory)
    (project.directory / "file").write_text("not committed\n")
    task = '{"key": "a", "command": ["cat", "file"], "allow_no_change": true, "phases": ["apply"]}'
    project.write("tasks.jsonl", task + "\n")
    done = project.hive("run", "tasks.jsonl")
    assert done.returncode == 0, done.stderr
    assert "not committed" in done.stderr
    assert project.hive("logs", "1", "--raw").stdout == "one\n"
    assert (project.directory / "file").read_text() == "not committed\n"


def test_no_claude_on_path(project: Project) -> None:
    """Without the claude CLI its tasks are refused, with how to get it."""
    repository(project.directory)
    project.write("tasks.jsonl", CLAUDE)
    project.environ = {**project.environ, "HIVE_CLAUDE": "claude-that-is-not-there"}
    assert "npm install" in refused(project, "H201", 5)


def test_directory_that_cannot_be_written(project: Project) -> None:
    """A store where nothing can be written is an error of the environment, not a traceback."""
    project.write("tasks.jsonl", GOOD)
    refused(project, "H305", 5, "--db", "sqlite:////proc/hive/hive.db")


def seeded(project: Project, spoil: Callable[[Path], None]) -> Path:
    """Make a queue with a task, then spoil its file."""
    project.write("tasks.jsonl", GOOD)
    assert project.hive("add", "tasks.jsonl").returncode == 0
    database = project.directory / ".hive" / "hive.db"
    spoil(database)
    return database


def test_store_of_a_newer_schema(project: Project) -> None:
    """A store written by a newer Hive is left as it is."""

    def newer(database: Path) -> None:
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA user_version=99")
        connection.close()

    database = seeded(project, newer)
    before = database.read_bytes()
    for arguments in (("run", "tasks.jsonl"), ("status",), ("ls",)):
        done = project.hive(*arguments)
        assert (done.returncode, "error[H302]" in done.stderr) == (5, True), done.stderr
    assert database.read_bytes() == before


@pytest.mark.parametrize(("first", "last"), [(0, 3000), (4096, 20 * 4096)], ids=["header", "pages"])
def test_damaged_store(project: Project, first: int, last: int) -> None:
    """A damaged store is named as such, with what to do; it is not written to or thrown away."""

    def damage(database: Path) -> None:
        data = bytearray(database.read_bytes())
        data[first:last] = b"x" * (last - first)
        database.write_bytes(data)
        for left in ("-wal", "-shm"):
            database.with_name(database.name + left).unlink(missing_ok=True)

    database = seeded(project, damage)
    done = project.hive("run", "tasks.jsonl")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "error[H306]" in done.stderr
    assert "Traceback" not in done.stderr
    assert database.exists()


def test_file_of_100_000_lines(project: Project) -> None:
    """A file of 100,000 tasks is read, judged and queued in one go; one wrong line keeps all of it out."""
    rows = [GOOD.replace('"a"', f'"t{number}"') for number in range(100_000)]
    project.write("tasks.jsonl", "".join([*rows, line('"nope": 1').replace('"a"', '"last"')]))
    done = project.hive("add", "tasks.jsonl")
    assert (done.returncode, "tasks.jsonl:100001:" in done.stderr) == (2, True), done.stderr
    project.write("tasks.jsonl", "".join(rows))
    done = project.hive("add", "tasks.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    with project.open() as hive:
        assert hive.counts().startable == 100_000


def test_prompt_of_a_megabyte(project: Project) -> None:
    """A prompt of 1 MB reaches its agent whole, over stdin."""
    prompt = "x" * 1_000_000
    project.write("tasks.jsonl", line(f'"prompt": "{prompt}"').replace('["true"]', '["wc", "-c"]'))
    assert project.hive("run", "tasks.jsonl", "--progress", "none").returncode == 0
    assert int(project.hive("logs", "1", "--raw").stdout) >= 1_000_000


def refused(project: Project, code: str, exit_code: int, *arguments: str) -> str:
    """Check that the task file is refused and nothing was queued; returns what was said."""
    done = project.hive(*arguments, "run", "tasks.jsonl")
    assert f"error[{code}]" in done.stderr, done.stderr
    assert done.returncode == exit_code
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    if (project.directory / ".hive" / "hive.db").exists():
        with project.open() as hive:
            assert not hive.tasks()
    return done.stderr


def repository(directory: Path) -> None:
    """Make a git repository with one commit."""
    (directory / "file").write_text("one\n")
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "file"],
        ["-c", "user.name=T", "-c", "user.email=t@example.invalid", "commit", "-qm", "start"],
    ):
        subprocess.run(["git", *command], cwd=directory, check=True)
