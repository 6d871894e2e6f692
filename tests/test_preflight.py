from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hive.config import Settings, load
from hive.errors import HiveError
from hive.model import NewTask, Phase, WorkspaceKind
from hive.preflight import check, find_claude

ENV = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent"}
SCRIPTED = NewTask("t", agent="scripted", script="say hi")


def git(directory: Path, *words: str) -> None:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.invalid")
    subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True, env=ENV)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings in a repository with one commit and a claude on PATH."""
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    git(repo, "commit", "-q", "--allow-empty", "-m", "start")
    return load(repo, {**ENV, "PATH": f"{program.parent}:{ENV['PATH']}"}, {})


def refused(task: NewTask, settings: Settings) -> HiveError:
    with pytest.raises(HiveError) as caught:
        check([SCRIPTED, task], settings)
    return caught.value


def test_what_is_in_order_passes_and_changes_nothing(settings: Settings) -> None:
    """Good tasks pass without a note, and no file is made."""
    tasks = [SCRIPTED, NewTask("c", prompt="p"), NewTask("m", agent="command", command=("make",))]
    assert check(tasks, settings) == []
    assert not settings.state_dir.exists()


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (NewTask("t", prompt=" "), "H138"),
        (NewTask("t", prompt="p", agent="command"), "H138"),
        (NewTask("t", prompt="p", agent="scripted"), "H138"),
        (NewTask("t", agent="scripted", script="dance"), "H139"),
        (replace(SCRIPTED, phases=(Phase.APPLY, Phase.TEST)), "H137"),
        (replace(SCRIPTED, base="nowhere"), "H212"),
        (replace(SCRIPTED, repo="/nonexistent/repo"), "H210"),
    ],
)
def test_what_cannot_be_worked_is_refused_with_its_code(settings: Settings, task: NewTask, code: str) -> None:
    """One bad task among good ones is found, each kind with a code of its own."""
    assert refused(task, settings).code == code


def test_a_missing_claude_matters_only_for_its_tasks(settings: Settings) -> None:
    """Tasks of other agents, and tasks that are only tested, need no claude."""
    without = replace(settings, environ=ENV | {"PATH": "/usr/bin:/bin"}, claude="no-such-claude")
    assert refused(NewTask("t", prompt="p"), without).code == "H201"
    only_test = NewTask("t", phases=(Phase.TEST,), test=("true",))
    assert check([SCRIPTED, only_test], without) == []
    assert find_claude(settings) == str(Path(settings.environ["PATH"].split(":")[0], "claude"))


def test_the_settings_fill_what_a_task_leaves_open(settings: Settings) -> None:
    """Agent, base and test command of the settings count where a task names none."""
    assert refused(NewTask("t", prompt="p"), replace(settings, agent="scripted")).code == "H138"
    assert refused(SCRIPTED, replace(settings, base="nowhere")).code == "H212"
    assert check([replace(SCRIPTED, phases=(Phase.APPLY, Phase.TEST))], replace(settings, test=("true",))) == []


def test_tasks_without_a_repository_need_none(tmp_path: Path) -> None:
    """Outside of a repository only tasks with a workspace of another kind pass."""
    settings = load(tmp_path, ENV, {})
    assert check([replace(SCRIPTED, workspace=WorkspaceKind.FRESH)], settings) == []
    assert refused(SCRIPTED, settings).code == "H210"


def test_changes_that_agents_will_not_see_are_noted(settings: Settings) -> None:
    """A tracked file with changes gives a note, not an error."""
    assert settings.repo is not None
    (settings.repo / "f").write_text("1")
    git(settings.repo, "add", "f")
    assert check([SCRIPTED], settings) == [
        f"changes in {settings.repo} that are not committed will not be seen by agents"
    ]
