"""A worktree of the task's own, whatever the last process left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.errors import HiveError, WorkspaceError
from hive.model import WorkspaceKind
from hive.workspace import Workspaces
from tests.workspace.conftest import Checkout, a_task, fresh_task


def test_a_task_gets_a_worktree_and_branch_of_its_own(workspaces: Workspaces, user: Checkout, state_dir: Path) -> None:
    """The worktree lies under the state directory, on a branch named after the task, with the base's files."""
    workspace = workspaces.open_blocking(a_task(7, "Fix the parser!"), user.path)
    agent = user.at(workspace.path)
    assert workspace.kind is WorkspaceKind.REPO
    assert workspace.path == state_dir / "worktrees" / "7-fix-the-parser"
    assert workspace.branch == agent.git("symbolic-ref", "--short", "HEAD") == "hive/7-fix-the-parser"
    assert workspace.base_commit == agent.git("rev-parse", "HEAD") == user.git("rev-parse", "main")
    assert (workspace.path / "src/b.txt").read_text() == "two\n"
    assert agent.git("status", "--porcelain") == ""


def test_the_base_of_the_task_is_where_its_branch_starts(workspaces: Workspaces, user: Checkout) -> None:
    """A base other than HEAD is resolved when the worktree is made."""
    first = user.git("rev-parse", "HEAD")
    user.write("a.txt", "later\n")
    user.commit()
    workspace = workspaces.open_blocking(a_task(base="main~1"), user.path)
    assert workspace.base_commit == first
    assert (workspace.path / "a.txt").read_text() == "one\n"


def test_a_branch_from_a_remote_base_tracks_nothing(workspaces: Workspaces, user: Checkout) -> None:
    """Tracking would write to the shared configuration, where concurrent openings fail on its lock."""
    user.git("remote", "add", "origin", "/nowhere")
    user.git("update-ref", "refs/remotes/origin/main", "HEAD")
    user.git("config", "branch.autoSetupMerge", "always")
    before = (user.path / ".git/config").read_bytes()
    workspaces.open_blocking(a_task(base="origin/main"), user.path)
    assert (user.path / ".git/config").read_bytes() == before


def test_the_repository_named_by_the_task_wins(workspaces: Workspaces, user: Checkout, tmp_path: Path) -> None:
    """A task that names a repository is not worked in the one Hive was started in."""
    other = user.at(tmp_path / "other")
    other.path.mkdir()
    other.git("init", "-q", "-b", "trunk")
    other.write("other.txt", "x\n")
    other.commit()
    workspace = workspaces.open_blocking(a_task(repo=str(other.path)), user.path)
    assert (workspace.path / "other.txt").exists()
    assert other.git("branch", "--list", "hive/*") != ""
    assert user.git("branch", "--list", "hive/*") == ""


def test_opening_again_keeps_what_the_agent_did(workspaces: Workspaces, user: Checkout) -> None:
    """A second opening returns the same worktree, uncommitted work included, even after the base moved on."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    agent.write("new.txt", "draft\n")
    agent.write("a.txt", "changed\n")
    user.write("a.txt", "the base moves\n")
    user.commit()
    assert workspaces.open_blocking(a_task(), user.path) == workspace
    assert (workspace.path / "new.txt").read_text() == "draft\n"
    assert (workspace.path / "a.txt").read_text() == "changed\n"


def test_opening_needs_three_git_commands_and_again_none(state_dir: Path, user: Checkout, counted: Path) -> None:
    """Five hundred tasks may start at once: resolve, register, fill; and nothing where the worktree is ready."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    workspaces.open_blocking(a_task(), user.path)
    assert len(counted.read_text().splitlines()) == 3
    workspaces.open_blocking(a_task(), user.path)
    assert len(counted.read_text().splitlines()) == 3


@pytest.fixture
def counted(user: Checkout, tmp_path: Path) -> Path:
    """A git that writes a line for each time it is started by Hive."""
    log = tmp_path / "calls"
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    user.env["PATH"] = f"{program.parent}:{user.env['PATH']}"
    return log


def test_a_branch_of_somebody_else_is_left_alone(workspaces: Workspaces, user: Checkout) -> None:
    """A branch of the same name that holds other work is not taken over; the task gets the next name."""
    user.git("checkout", "-qb", "hive/1-fix-the-parser")
    theirs = _commit_file(user, "theirs.txt")
    user.git("checkout", "-q", "main")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert workspace.branch == "hive/1-fix-the-parser-2"
    assert workspace.path.name == "1-fix-the-parser-2"
    assert user.git("rev-parse", "hive/1-fix-the-parser") == theirs
    assert workspaces.open_blocking(a_task(), user.path) == workspace


def test_a_branch_the_user_has_checked_out_is_left_alone(workspaces: Workspaces, user: Checkout) -> None:
    """Even a branch without work of its own is not shared with the user's checkout."""
    user.git("checkout", "-qb", "hive/1-fix-the-parser")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert workspace.branch == "hive/1-fix-the-parser-2"
    assert user.git("symbolic-ref", "--short", "HEAD") == "hive/1-fix-the-parser"


def _commit_file(checkout: Checkout, name: str) -> str:
    checkout.write(name, name)
    return checkout.commit()


def test_git_knows_the_worktree_as_one_of_its_own(workspaces: Workspaces, user: Checkout) -> None:
    """What Hive registers without `git worktree add` is listed, not pruned, and can be moved and removed by git."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    listed = user.git("worktree", "list", "--porcelain").split("\n\n")
    assert listed[1].split("\n") == [
        f"worktree {workspace.path}",
        f"HEAD {workspace.base_commit}",
        f"branch refs/heads/{workspace.branch}",
    ]
    assert user.git("worktree", "prune", "--dry-run", "--expire=now") == ""
    user.git("branch", "-D", str(workspace.branch), code=1)
    user.git("worktree", "move", str(workspace.path), f"{workspace.path}-moved")
    user.git("worktree", "remove", f"{workspace.path}-moved")
    assert user.git("fsck") == ""


def test_a_worktree_of_the_user_with_the_same_name_is_left_alone(
    workspaces: Workspaces, user: Checkout, tmp_path: Path
) -> None:
    """Names of worktrees are shared by all who use the repository."""
    theirs = tmp_path / "1-fix-the-parser"
    user.git("worktree", "add", "-q", "-b", "theirs", str(theirs))
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert user.at(theirs).git("symbolic-ref", "--short", "HEAD") == "theirs"
    assert user.at(workspace.path).git("symbolic-ref", "--short", "HEAD") == workspace.branch
    assert user.git("worktree", "list", "--porcelain").count("worktree ") == 3


def test_a_repository_with_settings_per_worktree_is_left_to_git(workspaces: Workspaces, user: Checkout) -> None:
    """Such settings, a sparse checkout among them, are copied for a new worktree by git itself."""
    user.git("sparse-checkout", "set", "--cone", "src")
    assert (user.path / ".git/config.worktree").exists()
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    assert agent.git("status", "--porcelain") == ""
    assert agent.git("sparse-checkout", "list") == "src"
    agent.write("src/new.txt", "n\n")
    assert workspaces.seal_blocking(workspace, a_task(), "").files == 1
    assert workspaces.remove_blocking(workspace, a_task()).removed


def test_a_deleted_state_directory_is_no_obstacle(workspaces: Workspaces, user: Checkout, state_dir: Path) -> None:
    """After `rm -rf .hive` task numbers start again; git's memory of the old worktrees does not get in the way."""
    old = workspaces.open_blocking(a_task(1), user.path)
    empty = workspaces.open_blocking(a_task(2), user.path)
    work = _commit_file(user.at(old.path), "old.txt")
    shutil.rmtree(state_dir)
    again = Workspaces(state_dir, SystemClock(), user.env)
    assert again.open_blocking(a_task(1, created_at_ms=2_000), user.path).branch == "hive/1-fix-the-parser-2"
    assert again.open_blocking(a_task(2, created_at_ms=2_000), user.path).branch == empty.branch
    assert user.git("rev-parse", str(old.branch)) == work


def test_a_task_of_another_store_with_the_same_number_gets_its_own_worktree(
    workspaces: Workspaces, user: Checkout
) -> None:
    """A worktree belongs to a task, not to a number: the time the task was added tells them apart."""
    first = workspaces.open_blocking(a_task(created_at_ms=1_000), user.path)
    user.at(first.path).write("first.txt", "keep\n")
    second = workspaces.open_blocking(a_task(created_at_ms=2_000), user.path)
    assert second.path != first.path
    assert second.branch != first.branch
    assert not (second.path / "first.txt").exists()
    assert (first.path / "first.txt").read_text() == "keep\n"


def _git_file_deleted(agent: Checkout, user: Checkout) -> None:
    (agent.path / ".git").unlink()


def _pruned(agent: Checkout, user: Checkout) -> None:
    shutil.rmtree(user.path / ".git/worktrees")


def _pruned_after_deletion_of_the_link(agent: Checkout, user: Checkout) -> None:
    (agent.path / ".git").unlink()
    user.git("worktree", "prune")


def _hostile_link(agent: Checkout, user: Checkout) -> None:
    (agent.path / ".git").write_text("gitdir: ./evil\n")


def _a_repository_in_its_place(agent: Checkout, user: Checkout) -> None:
    (agent.path / ".git").unlink()
    agent.git("init", "-q")


def _cut_short_before_git_knows(agent: Checkout, user: Checkout) -> None:
    shutil.rmtree(user.path / ".git/worktrees")
    agent.path.rename(f"{agent.path}.aside")


def _cut_short_after_git_knows(agent: Checkout, user: Checkout) -> None:
    _cut_short_before_git_knows(agent, user)
    user.git("worktree", "add", "-q", "--no-checkout", str(agent.path), f"hive/{agent.path.name}")


def _cut_short_after_the_link_moved(agent: Checkout, user: Checkout) -> None:
    _cut_short_after_git_knows(agent, user)
    (agent.path / ".git").rename(Path(f"{agent.path}.aside") / ".git")


@pytest.mark.parametrize(
    "damage",
    [
        _git_file_deleted,
        _pruned,
        _pruned_after_deletion_of_the_link,
        _hostile_link,
        _a_repository_in_its_place,
        _cut_short_before_git_knows,
        _cut_short_after_git_knows,
        _cut_short_after_the_link_moved,
    ],
)
def test_a_detached_worktree_is_put_back_with_its_files(
    workspaces: Workspaces, user: Checkout, damage: Callable[[Checkout, Checkout], None]
) -> None:
    """Whatever cut the tie between worktree and repository, or the mending of it, no file and no commit is lost."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    work = _commit_file(agent, "committed.txt")
    agent.write("draft.txt", "draft\n")
    agent.write("a.txt", "changed\n")
    damage(agent, user)
    assert workspaces.open_blocking(a_task(), user.path) == workspace
    assert agent.git("rev-parse", "--git-common-dir") == str(user.path / ".git")
    assert agent.git("rev-parse", "HEAD") == work
    assert agent.git("status", "--porcelain").split("\n") == ["M a.txt", "?? draft.txt"]
    assert not Path(f"{workspace.path}.aside").exists()
    assert workspaces.seal_blocking(workspace, a_task(), "").files == 3


def test_files_outlive_their_branch(workspaces: Workspaces, user: Checkout) -> None:
    """Even when git has forgotten the worktree and its branch was deleted, the files are there, as changes."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    agent.write("draft.txt", "draft\n")
    _pruned(agent, user)
    user.git("branch", "-D", str(workspace.branch))
    assert workspaces.open_blocking(a_task(), user.path) == workspace
    assert agent.git("rev-parse", str(workspace.branch)) == workspace.base_commit
    assert agent.git("status", "--porcelain") == "?? draft.txt"


def test_a_repository_an_agent_made_in_place_of_the_link_is_kept(workspaces: Workspaces, user: Checkout) -> None:
    """`rm .git && git init` by an agent is undone, and its repository moved out, beside the worktree."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    _a_repository_in_its_place(agent, user)
    theirs = _commit_file(agent, "x.txt")
    workspaces.open_blocking(a_task(), user.path)
    found = Path(f"{workspace.path}.git-found-1")
    assert user.git("--git-dir", str(found), "rev-parse", "HEAD") == theirs


def test_a_worktree_whose_directory_was_deleted_is_made_again_with_its_commits(
    workspaces: Workspaces, user: Checkout
) -> None:
    """A user who deletes the directory loses what was not committed, and nothing else; a lock does not prevent it."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    work = _commit_file(agent, "done.txt")
    user.git("worktree", "lock", str(workspace.path))
    shutil.rmtree(workspace.path)
    assert workspaces.open_blocking(a_task(), user.path) == workspace
    assert agent.git("rev-parse", "HEAD") == work
    assert (workspace.path / "done.txt").exists()
    assert agent.git("status", "--porcelain") == ""


def test_a_task_whose_branch_and_directory_are_gone_starts_anew(workspaces: Workspaces, user: Checkout) -> None:
    """With nothing left to continue, the worktree starts from the base as it is now."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    user.git("worktree", "remove", "--force", str(workspace.path))
    user.git("branch", "-D", str(workspace.branch))
    user.write("a.txt", "moved on\n")
    now = user.commit()
    again = workspaces.open_blocking(a_task(), user.path)
    assert (again.path, again.branch, again.base_commit) == (workspace.path, workspace.branch, now)


def test_a_record_cut_short_by_a_crash_counts_as_not_written(
    workspaces: Workspaces, user: Checkout, state_dir: Path
) -> None:
    """Half a line at the end of the record neither hides the line before it nor spoils the one after it."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    record = state_dir / "workspaces" / "1.jsonl"
    whole = [json.loads(line) for line in record.read_text().split("\n") if line]
    with record.open("a") as file:
        file.write('{"stage":"vo')
    user.at(workspace.path).write("draft.txt", "draft\n")
    assert workspaces.open_blocking(a_task(), user.path) == workspace
    assert (workspace.path / "draft.txt").exists()
    assert workspaces.remove_blocking(workspace, a_task()).removed
    assert workspaces.open_blocking(a_task(), user.path).branch == workspace.branch
    assert [entry["stage"] for entry in whole] == ["planned", "ready"]


def test_a_link_in_place_of_the_worktree_is_refused(workspaces: Workspaces, user: Checkout, tmp_path: Path) -> None:
    """A symbolic link must not lead Hive's git commands to files elsewhere."""
    workspace = workspaces.open_blocking(a_task(), user.path)
    workspace.path.rename(tmp_path / "elsewhere")
    workspace.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError) as caught:
        workspaces.open_blocking(a_task(), user.path)
    assert caught.value.code == "H215"


def test_what_git_says_reaches_the_person(workspaces: Workspaces, user: Checkout) -> None:
    """A branch named `hive` makes every `hive/...` impossible, and the error says so in git's words."""
    user.git("branch", "hive")
    with pytest.raises(WorkspaceError) as caught:
        workspaces.open_blocking(a_task(), user.path)
    assert caught.value.code == "H215"
    assert "refs/heads/hive" in caught.value.why
    assert "hint:" not in caught.value.why


def test_a_state_directory_that_cannot_be_written_is_a_workspace_error(user: Checkout, tmp_path: Path) -> None:
    """What the file system refuses is reported as a person can act on it, with the path."""
    (tmp_path / "file").write_text("")
    workspaces = Workspaces(tmp_path / "file" / "state", SystemClock(), user.env)
    with pytest.raises(WorkspaceError) as caught:
        workspaces.open_blocking(a_task(), user.path)
    assert caught.value.where.startswith(str(tmp_path / "file"))


def test_without_any_repository_a_repo_task_cannot_start(workspaces: Workspaces, tmp_path: Path) -> None:
    """Neither the task nor the place Hive was started in names a repository: the error names that place."""
    with pytest.raises(HiveError) as caught:
        workspaces.open_blocking(a_task(), tmp_path)
    assert (caught.value.code, caught.value.where) == ("H210", str(tmp_path))


def test_a_fresh_workspace_holds_the_task_and_nothing_else(
    workspaces: Workspaces, state_dir: Path, tmp_path: Path
) -> None:
    """A directory of the task's own with `task.json`; opening again keeps what was made there."""
    task = fresh_task(4, key="k", prompt="Write a poem", env={"A": "b"})
    workspace = workspaces.open_blocking(task, tmp_path)
    assert (workspace.path, workspace.branch) == (state_dir / "fresh" / "4-fix-the-parser", None)
    assert [entry.name for entry in workspace.path.iterdir()] == ["task.json"]
    told = json.loads((workspace.path / "task.json").read_text())
    assert (told["id"], told["key"], told["title"]) == (4, "k", "Fix the parser")
    assert (told["prompt"], told["env"]) == ("Write a poem", {"A": "b"})
    (workspace.path / "poem.txt").write_text("roses")
    assert workspaces.open_blocking(task, tmp_path) == workspace
    assert (workspace.path / "poem.txt").read_text() == "roses"


def test_git_in_a_workspace_does_not_find_the_repository_around_it(workspaces: Workspaces, user: Checkout) -> None:
    """An agent that commits in a fresh directory inside of the user's checkout would commit the user's files."""
    workspace = workspaces.open_blocking(fresh_task(), user.path)
    agent = user.at(workspace.path)
    assert agent.git("rev-parse", "--show-toplevel") == str(user.path)
    agent.env |= workspace.env
    agent.git("rev-parse", "--show-toplevel", code=128)


def test_a_task_without_a_workspace_works_where_hive_was_started(
    workspaces: Workspaces, user: Checkout, state_dir: Path
) -> None:
    """Kind none is the directory given; nothing is made."""
    task = a_task(workspace=WorkspaceKind.NONE)
    assert workspaces.open_blocking(task, user.path / "src").path == user.path / "src"
    assert not state_dir.exists()
