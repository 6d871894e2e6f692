"""Files a checkout needs but git does not track come along, and nothing else does."""

from __future__ import annotations

from pathlib import Path

from hive.workspace import Workspaces
from tests.workspace.conftest import Checkout, a_task


def test_ignored_files_that_the_list_names_are_copied(workspaces: Workspaces, user: Checkout) -> None:
    """Settings and keys a build needs are there, with their modes, in whatever directory they are."""
    user.write(".worktreeinclude", "# what a build needs\n.env\n*.log\n!noise.log\n")
    user.write(".env", "KEY=1\n").chmod(0o600)
    user.write("pkg/deep/.env", "KEY=2\n")
    user.write("noise.log", "no\n")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert (workspace.path / ".env").read_text() == "KEY=1\n"
    assert (workspace.path / ".env").stat().st_mode & 0o777 == 0o600
    assert (workspace.path / "pkg/deep/.env").read_text() == "KEY=2\n"
    assert not (workspace.path / "noise.log").exists()


def test_files_that_the_worktree_does_not_ignore_are_not_copied(workspaces: Workspaces, user: Checkout) -> None:
    """A secret that only an uncommitted `.gitignore` covers would be committed by the first seal."""
    user.write(".gitignore", "secret.txt\n*.log\n.env\n")
    user.write(".worktreeinclude", "secret.txt\n")
    user.write("secret.txt", "s3cret\n")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert not (workspace.path / "secret.txt").exists()


def test_copied_files_are_never_committed(workspaces: Workspaces, user: Checkout) -> None:
    """An agent that empties `.gitignore` does not put the user's secrets on a branch or into a salvage."""
    user.write(".worktreeinclude", ".env\n")
    user.write(".env", "KEY=1\n")
    workspace = workspaces.open_blocking(a_task(), user.path)
    (workspace.path / ".gitignore").write_text("")
    evidence = workspaces.seal_blocking(workspace, a_task(), "")
    assert ".env" not in user.files_of(str(evidence.commit))
    (workspace.path / "draft.txt").write_text("x")
    removal = workspaces.remove_blocking(workspace, a_task())
    assert ".env" not in user.files_of(str(removal.salvage))


def test_links_are_neither_copied_nor_followed(workspaces: Workspaces, user: Checkout, tmp_path: Path) -> None:
    """Nothing outside of the repository is read, and nothing outside of the worktree is written."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.log").write_text("secret")
    (user.path / "conf").symlink_to(tmp_path / "outside")
    user.git("add", "conf")
    user.git("commit", "-qm", "a link that leads out")
    (user.path / "conf").unlink()
    user.write("conf/new.log", "must not leave the worktree\n")
    (user.path / "link.log").symlink_to(tmp_path / "outside" / "secret.log")
    (user.path / "dir").symlink_to(tmp_path / "outside")
    user.write(".worktreeinclude", "*.log\n")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["secret.log"]
    assert not (workspace.path / "link.log").is_symlink()
    assert not (workspace.path / "dir").exists()


def test_a_list_that_is_a_link_is_not_read(workspaces: Workspaces, user: Checkout, tmp_path: Path) -> None:
    """A repository could point it at any file of the user's."""
    (tmp_path / "patterns").write_text(".env\n")
    (user.path / ".worktreeinclude").symlink_to(tmp_path / "patterns")
    user.write(".env", "KEY=1\n")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert not (workspace.path / ".env").exists()


def test_files_of_other_workspaces_are_not_copied(workspaces: Workspaces, user: Checkout, state_dir: Path) -> None:
    """The state directory lies in the checkout; a pattern must not collect what is in there."""
    user.write(".worktreeinclude", "*.log\n")
    (state_dir / "runs").mkdir(parents=True)
    (state_dir / "runs" / "1.log").write_text("x")
    workspace = workspaces.open_blocking(a_task(), user.path)
    assert not (workspace.path / ".hive").exists()
