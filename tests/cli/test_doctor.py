from __future__ import annotations

from pathlib import Path

import pytest

from hive.api import drive
from hive.clock import SystemClock
from hive.model import NewTask
from hive.workspace import Workspaces
from tests.cli.conftest import CLEAN, Cli, Seed, Zoo, done

SECRET = "sk-this-must-not-be-shown"


@pytest.fixture
def claude(tmp_path: Path) -> dict[str, str]:
    """An environment with a claude that prints its version and what it was given."""
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "2.1.330 (Claude Code) ${ANTHROPIC_API_KEY:-no key}"\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{CLEAN['PATH']}", "ANTHROPIC_API_KEY": SECRET}


def checks(cli: Cli, **options: object) -> dict[str, dict[str, str]]:
    found = cli("doctor", "--json", **options).data["checks"]
    return {row["name"]: row for row in found}


def test_a_good_machine_exits_with_0(cli: Cli, repo: Path, claude: dict[str, str]) -> None:
    """Each piece has a line that begins with ok, ! or x."""
    answer = cli("doctor", environ=claude)
    assert answer.code == 0
    for line in answer.lines:
        assert line[:3] in {"ok ", " ! ", " x ", "   "}
    names = {line[3:15].strip() for line in answer.lines}
    assert {"python", "git", "repository", "claude", "login", "sqlite", "uvloop", "disk", "memory", "queue"} <= names


def test_no_secret_is_shown_or_passed_on(cli: Cli, repo: Path, claude: dict[str, str]) -> None:
    """Logins are named by variable; their values are neither printed nor handed to claude."""
    answer = cli("doctor", environ=claude)
    assert SECRET not in answer.out + answer.err
    assert "ANTHROPIC_API_KEY" in answer.out
    assert "(Claude Code) no key" in answer.out


def test_what_is_missing_exits_with_5_and_says_the_fix(cli: Cli, repo: Path) -> None:
    """Without claude there is an x with the command that installs it; without need of it only a warning."""
    answer = cli("doctor")
    assert answer.code == 5
    assert " x claude       `claude` is not on PATH" in answer.lines
    assert cli("doctor", environ={"HIVE_AGENT": "scripted"}).code == 0
    assert cli("doctor", "--json").data["exit"] == {"code": 5, "reason": "not_ready"}


def test_a_broken_queue_is_one_of_the_findings(cli: Cli, repo: Path, seed: Seed, claude: dict[str, str]) -> None:
    """A damaged store does not end the checks."""
    seed.path.parent.mkdir()
    seed.path.write_bytes(b"garbage " * 500)
    found = checks(cli, environ=claude)
    assert found["queue"]["level"] == "missing"
    assert "[H306]" in found["queue"]["found"]


def test_leftovers_are_named(cli: Cli, zoo: Zoo, repo: Path, claude: dict[str, str]) -> None:
    """Open runs without an engine and worktrees without a task are warnings."""
    (repo / ".hive" / "worktrees" / "99-unknown").mkdir(parents=True)
    found = checks(cli, environ=claude)
    assert "1 run of an engine that is gone" in found["leftovers"]["found"]
    assert "99-unknown" in found["worktrees"]["found"]


def test_fix_makes_git_ignore_the_queue(cli: Cli, repo: Path, seed: Seed, claude: dict[str, str]) -> None:
    """--fix writes only to info/exclude, and the warning is gone."""
    seed.add(NewTask("t"))
    assert checks(cli, environ=claude)["ignored"]["level"] == "warning"
    answer = cli("doctor", "--fix", environ=claude)
    assert answer.lines[0].startswith("mended: git ignores ")
    assert "ignored" not in checks(cli, environ=claude)


def test_fix_removes_only_worktrees_of_completed_tasks(
    cli: Cli, repo: Path, seed: Seed, claude: dict[str, str]
) -> None:
    """A completed task's worktree goes after what it holds is kept; that of a failed one stays."""
    seed.add(NewTask("one"), NewTask("two"))
    workspaces = Workspaces(repo / ".hive", SystemClock(), {**CLEAN, "HOME": str(repo)})
    for claimed in seed.claim():
        store = seed.store()
        (assignment,) = drive(store.load([claimed.run_id]))
        drive(store.close())
        place = workspaces.open_blocking(assignment.task, repo)
        seed.place(claimed.task_id, str(place.path), place.branch, place.base_commit)
        if claimed.task_id == 1:
            seed.end(claimed.run_id, done())
    (repo / ".hive" / "worktrees" / "1-one" / "unsaved.txt").write_text("work")
    assert checks(cli, environ=claude)["worktrees"]["found"] == "1 of completed tasks"
    answer = cli("doctor", "--fix", environ=claude)
    assert "mended: removed the worktree of task 1, which is completed" in answer.lines
    assert [path.name for path in (repo / ".hive" / "worktrees").iterdir()] == ["2-two"]
    refs = (repo / ".git" / "refs" / "hive" / "salvage").rglob("*")
    assert any(path.is_file() for path in refs)
