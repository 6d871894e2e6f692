from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive.config import Settings, load
from hive.errors import HiveError
from hive.model import NewTask, Phase, State, Task, TaskId, WorkspaceKind
from hive.preflight import check, check_queued, find_claude

ENV = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent"}
SCRIPTED = NewTask("t", agent="scripted", script="say hi")
REFUSED = "/nonexistent is not in a git repository"


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


# --- what is queued already


def queued(task: NewTask, **fields: Any) -> Task:
    return Task(
        **{"id": TaskId(1), "spec": task, "state": State.QUEUED, "phase": task.phases[0], "created_at_ms": 0, **fields}
    )


def test_what_is_wrong_with_single_queued_tasks_is_noted(settings: Settings) -> None:
    """Each problem is a note with its code; a repository and base are told once for all tasks that start there."""
    gone = replace(SCRIPTED, base="gone")
    tasks = [NewTask("idle", prompt=" "), gone, gone, replace(SCRIPTED, repo="/nonexistent"), SCRIPTED]
    here = settings.repo
    notes = check_queued([queued(task) for task in tasks], settings)
    assert notes == [
        "task `idle` has nothing to do (hive help H138): it cannot run",
        f"{REFUSED} (hive help H210): queued tasks that start in /nonexistent cannot run",
        f"base 'gone' is no commit of this repository (hive help H212): queued tasks that start in {here} cannot run",
    ]


def test_many_problems_of_queued_tasks_are_summed_up(settings: Settings) -> None:
    """A hundred tasks that cannot run do not fill the screen."""
    notes = check_queued([queued(NewTask(f"idle {number}")) for number in range(100)], settings)
    assert (len(notes), notes[-1]) == (6, "and 95 more that cannot run")


def test_what_concerns_all_queued_tasks_is_an_error(settings: Settings) -> None:
    """Without the claude CLI, or without git, the engine need not start."""
    nothing = replace(settings, environ={**settings.environ, "PATH": "/nonexistent"})
    with pytest.raises(HiveError) as caught:
        check_queued([queued(NewTask("c", prompt="p"))], nothing)
    assert caught.value.code == "H201"
    with pytest.raises(HiveError) as caught:
        check_queued([queued(SCRIPTED)], nothing)
    assert caught.value.code == "H213"


def test_a_workspace_that_is_open_needs_no_base(settings: Settings) -> None:
    """A task that has its branch goes on though its base is gone; one in phase test needs no agent."""
    gone = replace(SCRIPTED, base="gone")
    assert check_queued([queued(gone, base_commit="c" * 40)], settings) == []
    tested = NewTask("c", phases=(Phase.APPLY, Phase.TEST), test=("true",))
    assert check_queued([queued(tested, phase=Phase.TEST)], settings) == []
