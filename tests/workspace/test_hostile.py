"""An agent that may only write files in its worktree gets nothing run by Hive's own git commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.workspace import Workspace, Workspaces
from tests.workspace.conftest import Checkout, a_task


@pytest.fixture
def workspace(workspaces: Workspaces, user: Checkout) -> Workspace:
    """A worktree of task 1."""
    return workspaces.open_blocking(a_task(), user.path)


@pytest.fixture
def agent(workspace: Workspace, user: Checkout) -> Checkout:
    """The agent in that worktree."""
    return user.at(workspace.path)


@pytest.fixture
def alarm(tmp_path: Path) -> Path:
    """A program that leaves `ran` beside it; whatever starts it has been tricked."""
    path = tmp_path / "alarm"
    path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    path.chmod(0o755)
    return path


def _ran(alarm: Path) -> bool:
    return (alarm.parent / "ran").exists()


def _hostile_settings(alarm: Path) -> str:
    return f"""
[core]
    repositoryformatversion = 0
    bare = false
    fsmonitor = {alarm}
    hooksPath = {alarm.parent}
[filter "x"]
    clean = {alarm}
    smudge = {alarm}
    required = true
[diff "x"]
    textconv = {alarm}
    command = {alarm}
[diff]
    external = {alarm}
[gpg]
    program = {alarm}
[commit]
    gpgSign = true
"""


def _everything(workspaces: Workspaces, workspace: Workspace, user: Checkout) -> None:
    evidence = workspaces.seal_blocking(workspace, a_task(), "x")
    workspaces.diff_blocking(user.path, str(workspace.base_commit), str(evidence.commit))
    workspaces.diff_blocking(user.path, str(workspace.base_commit), str(evidence.commit), stat=True)
    (workspace.path / "a.txt").write_text("by a test")
    workspaces.restore_blocking(workspace, a_task())
    (workspace.path / "later.txt").write_text("later")
    workspaces.salvage_blocking(workspace, a_task())
    workspaces.remove_blocking(workspace, a_task())
    workspaces.open_blocking(a_task(), user.path)


def test_a_rewritten_link_to_a_hostile_repository_runs_nothing(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, user: Checkout, alarm: Path
) -> None:
    """A `.git` file that names a directory with settings of the agent is never followed."""
    evil = user.at(workspace.path / "evil")
    evil.path.mkdir()
    evil.git("init", "-q", ".")
    (evil.path / ".git/config").write_text(_hostile_settings(alarm))
    (workspace.path / ".git").write_text("gitdir: ./evil/.git\n")
    agent.write(".gitattributes", "* filter=x diff=x\n")
    agent.write("a.txt", "changed\n")
    _everything(workspaces, workspace, user)
    assert not _ran(alarm)


def test_a_hostile_submodule_runs_nothing(workspaces: Workspaces, user: Checkout, alarm: Path, tmp_path: Path) -> None:
    """`git status` and `git add` run git inside of submodules, where the agent owns the settings; Hive does not."""
    library = user.at(tmp_path / "library")
    library.path.mkdir()
    library.git("init", "-q")
    library.write("x", "1")
    library.commit()
    user.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library.path), "lib")
    user.commit("submodule")
    task = a_task(5)
    workspace = workspaces.open_blocking(task, user.path)
    inner = user.at(workspace.path / "lib")
    inner.git("init", "-q", ".")
    inner.write("x", "1")
    inner.commit()
    (inner.path / ".git/config").write_text(_hostile_settings(alarm))
    (inner.path / ".gitattributes").write_text("* filter=x diff=x\n")
    (inner.path / "x").write_text("22")
    workspaces.seal_blocking(workspace, task, "x")
    (inner.path / "x").write_text("333")
    (workspace.path / "a.txt").write_text("by a test")
    workspaces.restore_blocking(workspace, task)
    workspaces.salvage_blocking(workspace, task)
    workspaces.check_repo_blocking(workspace.path)
    workspaces.remove_blocking(workspace, task)
    assert not _ran(alarm)
    user.at(workspace.path).git("status")
    assert _ran(alarm), "the trap works: plain git falls into it"


def test_hooks_and_monitors_of_the_repository_do_not_run(workspaces: Workspaces, user: Checkout, alarm: Path) -> None:
    """Hooks may have been written by an agent, and would run for each of hundreds of worktrees."""
    hooks = user.path / ".git/hooks"
    for name in ("post-checkout", "pre-commit", "commit-msg", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(alarm.read_text())
        (hooks / name).chmod(0o755)
    user.git("config", "core.fsmonitor", str(alarm))
    user.git("config", "diff.external", str(alarm))
    user.git("config", "diff.x.textconv", str(alarm))
    user.git("config", "commit.gpgSign", "true")
    user.git("config", "gpg.program", str(alarm))
    workspace = workspaces.open_blocking(a_task(), user.path)
    (workspace.path / ".gitattributes").write_text("* diff=x\n")
    (workspace.path / "a.txt").write_text("changed\n")
    _everything(workspaces, workspace, user)
    workspaces.check_repo_blocking(user.path)
    assert not _ran(alarm)


def test_the_environment_of_hive_does_not_reach_git(state_dir: Path, user: Checkout, tmp_path: Path) -> None:
    """`GIT_DIR` and the like, set by a hook or a shell Hive was started from, must not lead it to another place."""
    from hive.clock import SystemClock

    strange = {"GIT_DIR": str(tmp_path), "GIT_WORK_TREE": "/", "GIT_INDEX_FILE": "/x", "GIT_CONFIG_COUNT": "junk"}
    workspaces = Workspaces(state_dir, SystemClock(), user.env | strange)
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert (workspace.path / "a.txt").exists()


def test_the_users_checkout_is_not_touched(workspaces: Workspaces, user: Checkout) -> None:
    """HEAD, index, files, settings, stash and every branch but Hive's are the same bytes after all of it."""
    user.write("stashed.txt", "stashed\n")
    user.git("stash", "-q", "-u")
    user.write("a.txt", "dirty\n")
    user.write("staged.txt", "staged\n")
    user.git("add", "staged.txt")
    user.write("untracked.txt", "untracked\n")
    before = _user_state(user)
    workspace = workspaces.open_blocking(a_task(), user.path)
    (workspace.path / "new.txt").write_text("new")
    _everything(workspaces, workspace, user)
    workspaces.check_repo_blocking(user.path)
    workspaces.exclude_state_dir_blocking(user.path)
    assert _user_state(user) == before


def _user_state(user: Checkout) -> dict[str, bytes]:
    git_dir = user.path / ".git"
    kept = [git_dir / name for name in ("HEAD", "index", "config", "ORIG_HEAD", "logs/HEAD", "info/exclude")]
    files = [path for path in user.path.iterdir() if path.is_file()] + [path for path in kept if path.exists()]
    state = {str(path): path.read_bytes() for path in files}
    references = user.git("for-each-ref", "--format=%(refname) %(objectname)").split("\n")
    state["references"] = "\n".join(line for line in references if "/hive/" not in line).encode()
    state["status"] = user.git("status", "--porcelain").encode()
    return state
