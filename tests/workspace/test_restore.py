"""What a test command does to a worktree is undone, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.errors import WorkspaceError
from hive.workspace import Workspace, Workspaces
from tests.workspace.conftest import Checkout, a_task, fresh_task


@pytest.fixture
def workspace(workspaces: Workspaces, user: Checkout) -> Workspace:
    """A worktree of task 1, with a copy of an ignored file and one sealed commit."""
    user.write(".worktreeinclude", ".env\n")
    user.write(".env", "TOKEN=1\n")
    workspace = workspaces.open_blocking(a_task(), user.path)
    user.at(workspace.path).write("a.txt", "agent\n")
    workspaces.seal_blocking(workspace, a_task(), "")
    return workspace


@pytest.fixture
def test(workspace: Workspace, user: Checkout) -> Checkout:
    """The test command in that worktree."""
    return user.at(workspace.path)


def _writes(test: Checkout) -> None:
    test.write("report.xml", "<red/>")
    test.write("out/deep/er", "x")
    test.write("a.txt", "updated\n")
    test.write("-dash", "x")
    test.write("new\nline \udcff", "x")


def _deletes(test: Checkout) -> None:
    (test.path / "src/b.txt").unlink()
    (test.path / "src").rmdir()
    (test.path / "a.txt").chmod(0o755)


def _stages(test: Checkout) -> None:
    test.write("report.xml", "<red/>")
    test.git("add", "-A")
    test.git("rm", "-q", "--cached", "a.txt")


def _swaps(test: Checkout) -> None:
    (test.path / "a.txt").unlink()
    test.write("a.txt/inside/deep", "x")
    shutil.rmtree(test.path / "src")
    test.write("src", "a file\n")


def _links(test: Checkout) -> None:
    (test.path / "src").rename(test.path.parent.parent / "moved")
    (test.path / "src").symlink_to(test.path.parent.parent / "moved")
    (test.path / "outside").symlink_to("/etc")


def _hides(test: Checkout) -> None:
    test.write(".gitignore", "*\n")
    test.write("report.xml", "<red/>")


def _hides_beside(test: Checkout) -> None:
    test.write("out/.gitignore", "*.xml\n")
    test.write("out/report.xml", "<red/>")


def _leaves_a_lock(test: Checkout) -> None:
    (Path(test.git("rev-parse", "--absolute-git-dir")) / "index.lock").write_text("")
    test.write("report.xml", "<red/>")


def _does_nothing(test: Checkout) -> None:
    pass


@pytest.mark.parametrize(
    "act", [_writes, _deletes, _stages, _swaps, _links, _hides, _hides_beside, _leaves_a_lock, _does_nothing]
)
def test_the_files_are_those_of_the_commit_again(
    workspaces: Workspaces, workspace: Workspace, test: Checkout, act: Callable[[Checkout], None]
) -> None:
    """Changed, deleted, new, staged and displaced files: the next seal finds nothing of them."""
    before = _files(test.path)
    refs = test.git("for-each-ref"), test.git("symbolic-ref", "HEAD")
    act(test)
    workspaces.restore_blocking(workspace, a_task())
    assert _files(test.path) == before
    assert test.git("status", "--porcelain") == ""
    assert (test.git("for-each-ref"), test.git("symbolic-ref", "HEAD")) == refs
    tip = test.git("rev-parse", "HEAD")
    assert workspaces.seal_blocking(workspace, a_task(), "").commit == tip


def _files(top: Path) -> dict[str, tuple[int, bytes]]:
    """Return files and empty directories below `top`, which must hold no links."""
    found = sorted(
        path for path in top.rglob("*") if path.name != ".git" and (path.is_file() or not any(path.iterdir()))
    )
    assert not any(path.is_symlink() for path in found)
    return {
        str(path.relative_to(top)): (path.stat().st_mode & 0o777, path.read_bytes() if path.is_file() else b"")
        for path in found
    }


def test_caches_copies_and_hives_own_files_stay(workspaces: Workspaces, workspace: Workspace, test: Checkout) -> None:
    """Ignored files and copies for `.worktreeinclude` stay, even when the test unmakes the rules that ignore them."""
    test.write("debug.log", "noise\n")
    test.write("deep/.cache.log", "warm\n")
    test.write(".hive/x", "x")
    (test.path / ".gitignore").write_text("")
    test.write("deep/.gitignore", "!*.log\n")
    workspaces.restore_blocking(workspace, a_task())
    assert (test.path / ".gitignore").read_text() == "*.log\n.env\n"
    for name in ("debug.log", "deep/.cache.log", ".env", ".hive/x"):
        assert (test.path / name).exists(), name
    assert not (test.path / "deep/.gitignore").exists()


def test_repositories_in_the_worktree_stay(workspaces: Workspaces, workspace: Workspace, test: Checkout) -> None:
    """A clone keeps its commits and its files, whoever made it."""
    inner = test.at(test.path / "vendor/thing")
    inner.path.mkdir(parents=True)
    inner.git("init", "-q")
    inner.write("x", "x")
    tip = inner.commit()
    inner.write("draft", "d")
    workspaces.restore_blocking(workspace, a_task())
    assert inner.git("rev-parse", "HEAD") == tip
    assert (inner.path / "draft").exists()


def test_links_are_not_followed(workspaces: Workspaces, workspace: Workspace, test: Checkout, tmp_path: Path) -> None:
    """A link to a directory elsewhere goes, what is behind it stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.txt").write_text("mine")
    shutil.rmtree(test.path / "src")
    (test.path / "src").symlink_to(elsewhere)
    (test.path / "more").symlink_to(elsewhere)
    workspaces.restore_blocking(workspace, a_task())
    assert [path.read_text() for path in elsewhere.iterdir()] == ["mine"]
    assert (test.path / "src/b.txt").read_text() == "two\n"
    assert not (test.path / "src").is_symlink()
    assert not (test.path / "more").is_symlink()


def test_a_commit_of_the_test_is_left_where_it_is(workspaces: Workspaces, workspace: Workspace, test: Checkout) -> None:
    """HEAD and branches are nobody's to move here; the files then are those of HEAD."""
    test.git("checkout", "-q", "--detach", "HEAD~1")
    test.write("report.xml", "<red/>")
    head = test.git("rev-parse", "HEAD")
    workspaces.restore_blocking(workspace, a_task())
    assert test.git("rev-parse", "HEAD") == head
    assert test.git("status", "--porcelain") == ""


def test_a_head_without_commits_is_an_error(workspaces: Workspaces, workspace: Workspace, test: Checkout) -> None:
    """Nothing says then what the files should be, and none is deleted."""
    test.git("checkout", "-q", "--orphan", "new")
    with pytest.raises(WorkspaceError):
        workspaces.restore_blocking(workspace, a_task())
    assert (test.path / "a.txt").read_text() == "agent\n"


def test_a_worktree_that_is_gone_is_an_error(workspaces: Workspaces, workspace: Workspace) -> None:
    """A test that deleted its own worktree is told; the next opening makes it anew."""
    shutil.rmtree(workspace.path)
    with pytest.raises(WorkspaceError) as caught:
        workspaces.restore_blocking(workspace, a_task())
    assert caught.value.code == "H215"


def test_other_kinds_are_left_alone(state_dir: Path, user: Checkout) -> None:
    """Only a repository says what was there before."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    workspace = workspaces.open_blocking(fresh_task(), user.path)
    (workspace.path / "made.txt").write_text("x")
    workspaces.restore_blocking(workspace, fresh_task())
    assert (workspace.path / "made.txt").exists()
