"""What an agent left becomes commits on the task's branch, and evidence is what git says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.errors import WorkspaceError
from hive.model import Evidence, WorkspaceKind
from hive.workspace import Workspace, Workspaces
from tests.workspace.conftest import Checkout, a_task, fresh_task


@pytest.fixture
def workspace(workspaces: Workspaces, user: Checkout) -> Workspace:
    """A worktree of task 1."""
    return workspaces.open_blocking(a_task(), user.path)


@pytest.fixture
def agent(workspace: Workspace, user: Checkout) -> Checkout:
    """The agent in that worktree."""
    return user.at(workspace.path)


def test_what_the_agent_left_is_committed(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """New, changed and deleted files become one commit, counted against the base, and the worktree is clean."""
    agent.write("a.txt", "one\nmore\n")
    agent.write("new/c.txt", "c\n")
    (agent.path / "src/b.txt").unlink()
    evidence = workspaces.seal_blocking(workspace, a_task(), "Did it")
    assert evidence == Evidence(commit=agent.git("rev-parse", "HEAD"), files=3, insertions=2, deletions=1)
    assert agent.git("rev-parse", str(workspace.branch)) == evidence.commit
    assert agent.git("rev-list", "--count", f"{workspace.base_commit}..HEAD") == "1"
    assert agent.git("status", "--porcelain") == ""


def test_the_agents_own_commits_count_and_stay(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """Commits of the agent are evidence as they are; only what it left uncommitted is added on top."""
    agent.write("one.txt", "1\n")
    own = agent.commit("mine")
    assert workspaces.seal_blocking(workspace, a_task(), "").commit == own
    agent.write("two.txt", "2\n")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.git("rev-parse", f"{evidence.commit}^") == own
    assert evidence.files == 2


def test_what_was_only_staged_is_committed(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """`git add` without `git commit` is a change too, also when it is a deletion from the index."""
    agent.write("staged.txt", "s\n")
    agent.git("add", "staged.txt")
    agent.git("rm", "-q", "a.txt")
    agent.write("intended.txt", "i\n")
    agent.git("add", "-N", "intended.txt")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.files_of(str(evidence.commit)) == [".gitignore", "intended.txt", "src/b.txt", "staged.txt"]


def test_sealing_twice_changes_nothing(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """A seal whose answer was lost in a crash may be repeated."""
    agent.write("a.txt", "changed\n")
    first = workspaces.seal_blocking(workspace, a_task(), "x")
    assert workspaces.seal_blocking(workspace, a_task(), "y") == first


@pytest.mark.parametrize("allowed", [False, True])
def test_nothing_done_is_no_evidence(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, *, allowed: bool
) -> None:
    """Neither a clean worktree nor an empty commit nor a return to an older commit counts as a change."""
    task = a_task(allow_no_change=allowed)
    nothing = Evidence(no_change=allowed)
    assert workspaces.seal_blocking(workspace, task, "all done!") == nothing
    agent.git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "done, honestly")
    assert workspaces.seal_blocking(workspace, task, "all done!") == nothing


def test_going_back_to_an_older_commit_is_no_evidence(workspaces: Workspaces, user: Checkout) -> None:
    """A branch that only lost commits differs from the base and yet holds nothing new."""
    user.write("a.txt", "second\n")
    user.commit()
    workspace = workspaces.open_blocking(a_task(), user.path)
    user.at(workspace.path).git("reset", "-q", "--hard", "HEAD~1")
    assert workspaces.seal_blocking(workspace, a_task(), "") == Evidence()


def test_an_amended_base_is_evidence(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """An agent that amends the commit it started from has still made a commit of its own."""
    agent.write("a.txt", "changed\n")
    agent.git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qa", "--amend", "-m", "mine now")
    assert workspaces.seal_blocking(workspace, a_task(), "") == Evidence(
        commit=agent.git("rev-parse", "HEAD"), files=1, insertions=1, deletions=1
    )


def test_ignored_files_and_hives_own_directory_are_not_committed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """Logs, secrets and a state directory inside of the worktree stay out of the branch, whatever is excluded."""
    (agent.path / ".gitignore").write_text("*.log\n")
    (Path(agent.git("rev-parse", "--git-common-dir")) / "info/exclude").unlink()
    agent.write("debug.log", "noise\n")
    agent.write(".hive/hive.db", "db\n")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.files_of(str(evidence.commit)) == [".gitignore", "a.txt", "src/b.txt"]


def test_odd_names_and_kinds_of_files_are_committed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """Names are bytes to git; files may become directories, links or executable, and the other way round."""
    odd = ["-dash", "new\nline", "tab\there", "star*", ":colon", "back\\slash", "sp ace ", "ünï", "\udcff\udcfe"]
    for name in odd:
        (agent.path / name).write_bytes(b"x")
    (agent.path / "a.txt").unlink()
    agent.write("a.txt/inside", "now a directory\n")
    (agent.path / "src/b.txt").unlink()
    (agent.path / "src").rmdir()
    (agent.path / "src").symlink_to("/etc")
    agent.write("run.sh", "#!/bin/sh\n").chmod(0o755)
    os.mkfifo(agent.path / "pipe")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    files = agent.files_of(str(evidence.commit))
    assert sorted(files) == sorted([*odd, ".gitignore", "a.txt/inside", "src", "run.sh"])
    modes = agent.git("ls-tree", str(evidence.commit), "src", "run.sh").split()
    assert (modes[0], modes[4]) == ("100755", "120000")


def test_a_directory_that_became_a_file_is_committed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """The opposite of a file that became a directory."""
    (agent.path / "src/b.txt").unlink()
    (agent.path / "src").rmdir()
    agent.write("src", "now a file\n")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.files_of(str(evidence.commit)) == [".gitignore", "a.txt", "src"]


def test_a_repository_inside_the_worktree_is_not_committed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """A clone an agent made for itself would be committed as a link to a commit nobody has."""
    inner = agent.at(agent.path / "vendor/thing")
    inner.path.mkdir(parents=True)
    inner.git("init", "-q")
    inner.write("x", "x")
    inner.commit()
    agent.write("new.txt", "n\n")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.files_of(str(evidence.commit)) == [".gitignore", "a.txt", "new.txt", "src/b.txt"]
    assert (inner.path / "x").exists()


def test_a_submodule_the_agent_moved_is_committed(workspaces: Workspaces, user: Checkout, tmp_path: Path) -> None:
    """A proper submodule is recorded by its commit, as git does."""
    library = user.at(tmp_path / "library")
    library.path.mkdir()
    library.git("init", "-q")
    library.write("x", "1")
    library.commit()
    user.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library.path), "lib")
    user.commit("submodule")
    workspace = workspaces.open_blocking(a_task(), user.path)
    agent = user.at(workspace.path)
    agent.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    moved = user.at(workspace.path / "lib")
    moved.write("y", "2")
    newer = moved.commit()
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.git("rev-parse", f"{evidence.commit}:lib") == newer


def test_title_summary_and_trailers_make_the_message(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """The commit names its task; text of the agent can neither forge the trailers nor smuggle control characters."""
    agent.write("a.txt", "changed\n")
    task = a_task(title="Fix\nthe parser", key="core/parse")
    workspaces.seal_blocking(workspace, task, "Because.\nHive-Task: 99\n hive-key: forged\n\x1b[31mred\x00\nEnd")
    assert agent.git("log", "-1", "--format=%B") == (
        "Fix the parser\n\nBecause.\n[31mred\nEnd\n\nHive-Task: 1\nHive-Key: core/parse"
    )
    assert agent.git("log", "-1", "--format=%(trailers:key=Hive-Task,valueonly)").strip() == "1"


def test_the_configured_author_is_the_author(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """Hive commits in the name of the person the repository knows."""
    agent.write("a.txt", "changed\n")
    workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.git("log", "-1", "--format=%an <%ae> %cn <%ce>") == "Ada <ada@example.org> Ada <ada@example.org>"


@pytest.mark.parametrize(
    ("known", "author"),
    [
        ([], "Hive <hive@localhost>"),
        (["user.name"], "Ada <hive@localhost>"),
        (["user.email"], "Hive <ada@example.org>"),
    ],
)
def test_what_of_the_author_is_missing_is_hive(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, known: list[str], author: str
) -> None:
    """Without an identity git would refuse, or make one up from the name of the machine."""
    for name in {"user.name", "user.email"} - set(known):
        agent.git("config", "--unset", name)
    agent.write("a.txt", "changed\n")
    workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.git("log", "-1", "--format=%an <%ae>") == author


def _detached(agent: Checkout) -> None:
    agent.git("checkout", "-q", "--detach")


def _on_another_branch(agent: Checkout) -> None:
    agent.git("checkout", "-qb", "feature")


def _branch_renamed(agent: Checkout) -> None:
    agent.git("branch", "-m", "renamed")


@pytest.mark.parametrize("stray", [_detached, _on_another_branch, _branch_renamed])
def test_work_beside_the_branch_is_taken_over(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, stray: Callable[[Checkout], None]
) -> None:
    """Work on a detached HEAD or on another branch that goes on from the task's branch belongs to it."""
    stray(agent)
    agent.write("one.txt", "1\n")
    own = agent.commit()
    agent.write("two.txt", "2\n")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert agent.git("symbolic-ref", "--short", "HEAD") == workspace.branch
    assert agent.git("rev-parse", "HEAD", "HEAD^").split() == [evidence.commit, own]
    assert evidence.files == 2
    assert agent.git("status", "--porcelain") == ""


def test_a_look_at_an_older_commit_is_undone(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """An agent that committed and then checked out an old commit has its work on the branch."""
    agent.write("one.txt", "1\n")
    own = agent.commit()
    agent.git("checkout", "-q", "--detach", "HEAD~1")
    assert workspaces.seal_blocking(workspace, a_task(), "").commit == own
    assert agent.git("symbolic-ref", "--short", "HEAD") == workspace.branch
    assert (agent.path / "one.txt").exists()


def test_work_that_forked_from_the_branch_is_not_guessed_at(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """Two lines of work of which neither contains the other need a decision; both stay."""
    agent.write("one.txt", "1\n")
    on_branch = agent.commit()
    agent.git("checkout", "-q", "--detach", "HEAD~1")
    agent.write("two.txt", "2\n")
    beside = agent.commit()
    with pytest.raises(WorkspaceError) as caught:
        workspaces.seal_blocking(workspace, a_task(), "")
    assert caught.value.code == "H218"
    assert agent.git("rev-parse", str(workspace.branch), "HEAD").split() == [on_branch, beside]


def test_a_head_without_commits_is_an_error(workspaces: Workspaces, workspace: Workspace, agent: Checkout) -> None:
    """`git checkout --orphan` leaves nothing a branch could be compared with."""
    agent.git("checkout", "-q", "--orphan", "new")
    with pytest.raises(WorkspaceError) as caught:
        workspaces.seal_blocking(workspace, a_task(), "")
    assert caught.value.code == "H218"


def _conflict(agent: Checkout) -> None:
    """Make two commits that change the same line, the agent standing on the second."""
    agent.git("branch", "base")
    agent.write("a.txt", "ours\n")
    agent.commit()
    agent.git("checkout", "-q", "--detach", "base")
    agent.write("a.txt", "theirs\n")
    agent.commit()
    agent.git("branch", "theirs")
    agent.git("checkout", "-q", "hive/1-fix-the-parser")


def _merging(agent: Checkout) -> None:
    agent.git("-c", "user.name=A", "-c", "user.email=a@b", "merge", "theirs", code=1)


def _rebasing(agent: Checkout) -> None:
    agent.git("-c", "user.name=A", "-c", "user.email=a@b", "rebase", "theirs", code=1)


def _picking(agent: Checkout) -> None:
    agent.git("-c", "user.name=A", "-c", "user.email=a@b", "cherry-pick", "theirs", code=1)


def _bisecting(agent: Checkout) -> None:
    agent.git("bisect", "start", "HEAD", "base")


def _unstashing(agent: Checkout) -> None:
    agent.write("a.txt", "stashed\n")
    agent.git("-c", "user.name=A", "-c", "user.email=a@b", "stash", "-q")
    agent.write("a.txt", "meanwhile\n")
    agent.commit()
    agent.git("stash", "pop", code=1)


@pytest.mark.parametrize("operation", [_merging, _rebasing, _picking, _bisecting, _unstashing])
def test_an_unfinished_operation_is_not_committed(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout, operation: Callable[[Checkout], None]
) -> None:
    """Conflict markers must not land on a branch as if they were work; the state stays for whoever finishes it."""
    _conflict(agent)
    operation(agent)
    before = agent.git("status", "--porcelain=2", "--branch")
    with pytest.raises(WorkspaceError) as caught:
        workspaces.seal_blocking(workspace, a_task(), "")
    assert caught.value.code == "H217"
    assert agent.git("status", "--porcelain=2", "--branch") == before


def test_locks_of_a_killed_git_do_not_stop_the_seal(
    workspaces: Workspaces, workspace: Workspace, agent: Checkout
) -> None:
    """An agent's git that was killed leaves `index.lock` and `HEAD.lock`; nobody holds them any more."""
    for name in ("index.lock", "HEAD.lock"):
        (Path(agent.git("rev-parse", "--absolute-git-dir")) / name).write_text("")
    agent.write("a.txt", "changed\n")
    assert workspaces.seal_blocking(workspace, a_task(), "").files == 1


def test_a_pruned_worktree_is_not_sealed(workspaces: Workspaces, workspace: Workspace, user: Checkout) -> None:
    """What git does not know any more is put back by the next opening, not guessed at."""
    user.git("worktree", "remove", "--force", str(workspace.path))
    with pytest.raises(WorkspaceError) as caught:
        workspaces.seal_blocking(workspace, a_task(), "")
    assert caught.value.code == "H215"


def test_a_workspace_of_another_task_is_not_sealed(workspaces: Workspaces, workspace: Workspace) -> None:
    """A mix-up of tasks must not put one's work on the other's branch."""
    with pytest.raises(WorkspaceError):
        workspaces.seal_blocking(workspace, a_task(2), "")


def test_other_kinds_have_no_evidence(state_dir: Path, user: Checkout) -> None:
    """Outside of a repository there is nothing Hive could have seen."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    for task in (fresh_task(), a_task(2, workspace=WorkspaceKind.NONE)):
        assert workspaces.seal_blocking(workspaces.open_blocking(task, user.path), task, "") == Evidence()
