"""Nothing an agent made is lost when its workspace goes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from hive.errors import WorkspaceError
from hive.model import WorkspaceKind
from hive.workspace import Workspace, Workspaces
from tests.workspace.conftest import Checkout, a_task, fresh_task

AS_AGENT = ("-c", "user.name=Agent", "-c", "user.email=agent@example.org")


@pytest.fixture
def workspace(workspaces: Workspaces, user: Checkout) -> Workspace:
    """A worktree of task 1."""
    return workspaces.open_blocking(a_task(), user.path)


@pytest.fixture
def agent(workspace: Workspace, user: Checkout) -> Checkout:
    """The agent in that worktree."""
    return user.at(workspace.path)


def _state(agent: Checkout) -> tuple[str, ...]:
    """Return all that a salvage must leave alone."""
    git_dir = Path(agent.git("rev-parse", "--absolute-git-dir"))
    index = hashlib.sha256((git_dir / "index").read_bytes()).hexdigest()
    return (index, (git_dir / "HEAD").read_text(), agent.git("for-each-ref", "refs/heads"), *sorted(_names(git_dir)))


def _names(git_dir: Path) -> list[str]:
    return [path.name for path in git_dir.iterdir()]


def test_uncommitted_work_is_kept_without_touching_anything(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """Changed, new and deleted files are in the commit; index, HEAD, branches and files are as before."""
    agent.write("a.txt", "changed\n")
    agent.write("new.txt", "new\n")
    agent.write("noise.log", "ignored\n")
    (agent.path / "src/b.txt").unlink()
    before = _state(agent)
    assert workspaces.salvage_blocking(workspace, a_task()) == "refs/hive/salvage/1/1"
    assert _state(agent) == before
    assert agent.files_of("refs/hive/salvage/1/1") == [".gitignore", "a.txt", "new.txt"]
    assert agent.git("show", "refs/hive/salvage/1/1:a.txt") == "changed"
    assert agent.git("rev-parse", "refs/hive/salvage/1/1^") == workspace.base_commit
    assert "Hive-Task: 1" in agent.git("log", "-1", "--format=%B", "refs/hive/salvage/1/1")


def test_salvages_are_numbered_and_the_same_is_kept_once(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """A salvage never replaces an older one, and repeating one makes none."""
    agent.write("a.txt", "first\n")
    assert workspaces.salvage_blocking(workspace, a_task()) == "refs/hive/salvage/1/1"
    assert workspaces.salvage_blocking(workspace, a_task()) == "refs/hive/salvage/1/1"
    agent.write("a.txt", "second\n")
    assert workspaces.salvage_blocking(workspace, a_task()) == "refs/hive/salvage/1/2"
    assert agent.git("show", "refs/hive/salvage/1/1:a.txt") == "first"


def test_a_clean_worktree_needs_no_salvage(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """Commits on the task's branch, or a detached HEAD that a branch contains, are kept already."""
    assert workspaces.salvage_blocking(workspace, a_task()) is None
    agent.write("new.txt", "new\n")
    agent.commit()
    assert workspaces.salvage_blocking(workspace, a_task()) is None
    agent.git("checkout", "-q", "--detach", "HEAD~1")
    assert workspaces.salvage_blocking(workspace, a_task()) is None
    assert agent.git("for-each-ref", "refs/hive") == ""


def test_commits_no_branch_has_are_kept(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """Work committed on a detached HEAD is named by the salvage itself."""
    agent.git("checkout", "-q", "--detach")
    agent.write("new.txt", "new\n")
    stray = agent.commit()
    assert workspaces.salvage_blocking(workspace, a_task()) == "refs/hive/salvage/1/1"
    assert agent.git("rev-parse", "refs/hive/salvage/1/1") == stray


def test_what_was_staged_is_kept_beside_what_is_on_disk(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """A staged version that the file no longer has is the second parent."""
    agent.write("a.txt", "staged\n")
    agent.git("add", "a.txt")
    agent.write("a.txt", "later\n")
    reference = workspaces.salvage_blocking(workspace, a_task())
    assert agent.git("show", f"{reference}:a.txt") == "later"
    assert agent.git("show", f"{reference}^2:a.txt") == "staged"


def test_a_conflict_is_kept_with_its_markers(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """A merge somebody gave up on is salvaged as it stands on disk."""
    agent.write("a.txt", "ours\n")
    agent.commit()
    agent.git("checkout", "-q", "--detach", "HEAD~1")
    agent.write("a.txt", "theirs\n")
    theirs = agent.commit()
    agent.git("checkout", "-q", str(workspace.branch))
    agent.git(*AS_AGENT, "merge", theirs, code=1)
    before = _state(agent)
    reference = workspaces.salvage_blocking(workspace, a_task())
    assert _state(agent) == before
    assert "<<<<<<<" in agent.git("show", f"{reference}:a.txt")


def test_an_orphan_head_is_kept(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """Files on a branch that has no commit yet are kept too."""
    agent.git("checkout", "-q", "--orphan", "new")
    agent.write("new.txt", "new\n")
    reference = workspaces.salvage_blocking(workspace, a_task())
    assert agent.files_of(str(reference)) == [".gitignore", "a.txt", "new.txt", "src/b.txt"]


def test_removal_of_finished_work_leaves_its_branch(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, user: Checkout
) -> None:
    """Directory and registration go, the branch with its commits stays; doing it twice is harmless."""
    agent.write("new.txt", "new\n")
    agent.write("noise.log", "ignored\n")
    tip = workspaces.seal_blocking(workspace, a_task(), "").commit
    for _ in range(2):
        removal = workspaces.remove_blocking(workspace, a_task())
        assert (removal.removed, removal.salvage, removal.why) == (True, None, "")
    assert not workspace.path.exists()
    assert user.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert user.git("rev-parse", str(workspace.branch)) == tip


def test_removal_of_unfinished_work_salvages_first(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, user: Checkout
) -> None:
    """What was not committed is under the salvage reference once the directory is gone."""
    agent.write("draft.txt", "draft\n")
    removal = workspaces.remove_blocking(workspace, a_task())
    assert removal.removed
    assert not workspace.path.exists()
    assert user.git("show", f"{removal.salvage}:draft.txt") == "draft"


def test_a_branch_without_commits_goes_with_its_worktree(
    workspaces: Workspaces, workspace: Workspace, user: Checkout
) -> None:
    """Branches nobody worked on do not pile up."""
    assert workspaces.remove_blocking(workspace, a_task()).removed
    assert user.git("branch", "--list", "hive/*") == ""


def test_a_branch_without_commits_that_the_user_has_checked_out_stays(
    workspaces: Workspaces, workspace: Workspace, user: Checkout
) -> None:
    """Deleting it would pull HEAD from under the user's checkout."""
    user.git("checkout", "-q", "--ignore-other-worktrees", str(workspace.branch))
    assert workspaces.remove_blocking(workspace, a_task()).removed
    assert user.git("rev-parse", "HEAD") == workspace.base_commit


def test_a_removed_workspace_opens_again_with_its_commits(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """A task that is retried after its worktree was removed goes on from its branch and its base."""
    agent.write("new.txt", "new\n")
    tip = workspaces.seal_blocking(workspace, a_task(), "").commit
    workspaces.remove_blocking(workspace, a_task())
    assert workspaces.open_blocking(a_task(), agent.path) == workspace
    assert agent.git("rev-parse", "HEAD") == tip
    assert workspaces.seal_blocking(workspace, a_task(), "").commit == tip


def test_a_removal_cut_short_is_never_taken_for_work(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, state_dir: Path
) -> None:
    """Half a deleted directory after a crash must not be sealed as "the agent deleted files"."""
    agent.write("new.txt", "new\n")
    workspaces.seal_blocking(workspace, a_task(), "")
    copy = state_dir / "copy"
    shutil.copytree(workspace.path, copy)
    workspaces.remove_blocking(workspace, a_task())
    (copy / "a.txt").unlink()
    copy.rename(workspace.path)
    assert workspaces.open_blocking(a_task(), agent.path) == workspace
    assert agent.git("status", "--porcelain") == ""
    assert (workspace.path / "a.txt").exists()


def test_a_detached_worktree_is_salvaged_before_it_is_removed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, user: Checkout
) -> None:
    """Files of a worktree that git was made to forget are kept as well."""
    agent.write("draft.txt", "draft\n")
    (agent.path / ".git").unlink()
    user.git("worktree", "prune")
    removal = workspaces.remove_blocking(workspace, a_task())
    assert removal.removed
    assert user.git("show", f"{removal.salvage}:draft.txt") == "draft"


def test_a_locked_worktree_stays(workspaces: Workspaces, workspace: Workspace, user: Checkout) -> None:
    """A person who locked it wants it there."""
    user.git("worktree", "lock", str(workspace.path))
    removal = workspaces.remove_blocking(workspace, a_task())
    assert not removal.removed
    assert "locked" in removal.why
    assert (workspace.path / "a.txt").exists()


def test_a_worktree_with_a_repository_inside_stays(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """Commits of a nested repository have no place in this one; they stay on disk, the rest is salvaged too."""
    inner = agent.at(agent.path / "inner")
    inner.path.mkdir()
    inner.git("init", "-q")
    inner.write("x", "x")
    theirs = inner.commit()
    agent.write("draft.txt", "draft\n")
    removal = workspaces.remove_blocking(workspace, a_task())
    assert not removal.removed
    assert "inner" in removal.why
    assert removal.salvage is not None
    assert inner.git("rev-parse", "HEAD") == theirs
    assert workspaces.open_blocking(a_task(), agent.path) == workspace


def test_a_worktree_with_submodules_stays(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """Commits made inside of a submodule live in the worktree's own git directory and would go with it."""
    (Path(agent.git("rev-parse", "--absolute-git-dir")) / "modules" / "lib").mkdir(parents=True)
    removal = workspaces.remove_blocking(workspace, a_task())
    assert not removal.removed
    assert "submodules" in removal.why


def test_directories_without_write_permission_are_removed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """Tools such as Go leave caches one cannot delete from."""
    agent.write("cache/mod/file.log", "x")
    (agent.path / "cache/mod").chmod(0o500)
    assert workspaces.remove_blocking(workspace, a_task()).removed


def test_what_cannot_be_salvaged_is_not_removed(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """When git cannot even read the worktree's state, the files stay where they are."""
    agent.write("a.txt", "changed\n")
    git_dir = Path(agent.git("rev-parse", "--absolute-git-dir"))
    index = (git_dir / "index").read_bytes()
    (git_dir / "index").write_bytes(b"broken")
    with pytest.raises(WorkspaceError):
        workspaces.remove_blocking(workspace, a_task())
    (git_dir / "index").write_bytes(index)
    assert (workspace.path / "a.txt").read_text() == "changed\n"
    assert workspaces.open_blocking(a_task(), agent.path) == workspace


def test_a_fresh_directory_is_removed_only_when_nothing_was_made_there(workspaces: Workspaces, user: Checkout) -> None:
    """What a task made in a fresh directory is its result."""
    used, unused = fresh_task(1), fresh_task(2)
    full, empty = workspaces.open_blocking(used, user.path), workspaces.open_blocking(unused, user.path)
    (full.path / "poem.txt").write_text("roses")
    removal = workspaces.remove_blocking(full, used)
    assert (removal.removed, removal.why) == (False, "it holds what the task made")
    assert (full.path / "poem.txt").exists()
    assert workspaces.remove_blocking(empty, unused).removed
    assert not empty.path.exists()
    assert workspaces.salvage_blocking(full, used) is None
    assert workspaces.open_blocking(unused, user.path) == empty


def test_a_directory_that_is_not_hives_is_never_removed(workspaces: Workspaces, user: Checkout) -> None:
    """Kind none works in the user's own directory."""
    task = a_task(workspace=WorkspaceKind.NONE)
    workspace = workspaces.open_blocking(task, user.path)
    assert not workspaces.remove_blocking(workspace, task).removed
    assert (user.path / "a.txt").exists()
