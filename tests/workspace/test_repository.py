"""Whether tasks can start from a repository, and what a person reads when not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.errors import ConfigError, HiveError, NotReady, UsageError, WorkspaceError
from hive.workspace import Workspaces
from tests.workspace.conftest import Checkout, a_task


def test_a_repository_is_described(workspaces: Workspaces, user: Checkout) -> None:
    """From any directory of the checkout: its top, HEAD, branch, and whether changes would be left behind."""
    found = workspaces.check_repo_blocking(user.path / "src")
    assert (found.root, found.common_dir) == (user.path, user.path / ".git")
    assert (found.head, found.branch, found.dirty) == (user.git("rev-parse", "HEAD"), "main", False)
    user.write("a.txt", "dirty\n")
    user.git("checkout", "-q", "--detach")
    found = workspaces.check_repo_blocking(user.path)
    assert (found.branch, found.dirty) == (None, True)


def _nothing(path: Path, user: Checkout) -> None:
    """An empty directory, which is in no repository."""


def _missing(path: Path, user: Checkout) -> None:
    path.rmdir()


def _bare(path: Path, user: Checkout) -> None:
    user.git("clone", "-q", "--bare", ".", str(path))


def _empty(path: Path, user: Checkout) -> None:
    user.git("init", "-q", str(path))


def _own_data(path: Path, user: Checkout) -> None:
    path.rmdir()
    path.symlink_to(user.path / ".git")


@pytest.mark.parametrize(
    ("make", "code"), [(_nothing, "H210"), (_missing, "H210"), (_own_data, "H210"), (_bare, "H211"), (_empty, "H211")]
)
def test_a_place_tasks_cannot_start_from_is_named(
    workspaces: Workspaces, user: Checkout, tmp_path: Path, make: Callable[[Path, Checkout], None], code: str
) -> None:
    """Each reason has its code, says where, and what to do."""
    path = tmp_path / "place"
    path.mkdir()
    make(path, user)
    for attempt in (lambda: workspaces.check_repo_blocking(path), lambda: workspaces.open_blocking(a_task(), path)):
        with pytest.raises(NotReady) as caught:
            attempt()
        assert (caught.value.code, caught.value.where) == (code, str(path))
        assert caught.value.fix


@pytest.mark.parametrize("base", ["nowhere", "main..main", "--help", "^main", "HEAD:a.txt", ""])
def test_a_base_that_is_no_commit_is_a_usage_error(workspaces: Workspaces, user: Checkout, base: str) -> None:
    """Whatever stands there is data, never an option or a range."""
    for attempt in (
        lambda: workspaces.check_repo_blocking(user.path, base),
        lambda: workspaces.open_blocking(a_task(base=base), user.path),
    ):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert caught.value.code == "H212"
    assert user.git("branch", "--list", "hive/*") == ""


def test_a_repository_owned_by_somebody_else_is_explained(
    workspaces: Workspaces, user: Checkout, tmp_path: Path
) -> None:
    """What git itself objects to stands in the error."""
    (user.path / ".git/config").write_text("[core\n")
    with pytest.raises(NotReady) as caught:
        workspaces.check_repo_blocking(user.path)
    assert "bad config" in caught.value.why


def test_a_missing_git_is_said_to_be_missing(state_dir: Path, user: Checkout, tmp_path: Path) -> None:
    """Without git nothing works, and the error says what to install."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env | {"PATH": str(tmp_path)})
    with pytest.raises(NotReady) as caught:
        workspaces.check_repo_blocking(user.path)
    assert caught.value.code == "H213"
    with pytest.raises(NotReady) as caught:
        workspaces.open_blocking(a_task(), user.path)
    assert caught.value.code == "H213"


def test_an_old_git_is_refused(state_dir: Path, user: Checkout, tmp_path: Path) -> None:
    """A git without the options Hive uses would fail later and worse."""
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\necho git version 2.30.9\n")
    program.chmod(0o755)
    workspaces = Workspaces(state_dir, SystemClock(), user.env | {"PATH": f"{tmp_path}:/bin"})
    with pytest.raises(NotReady) as caught:
        workspaces.check_repo_blocking(user.path)
    assert caught.value.code == "H213"
    assert "2.30.9" in caught.value.message


def test_the_state_directory_is_excluded_without_touching_a_tracked_file(user: Checkout, state_dir: Path) -> None:
    """One line in `info/exclude`, once, after what stands there, with or without a last newline."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env)
    exclude = user.path / ".git/info/exclude"
    exclude.write_text("mine")
    assert workspaces.exclude_state_dir_blocking(user.path / "src")
    assert not workspaces.exclude_state_dir_blocking(user.path)
    assert exclude.read_text() == "mine\n/.hive/\n"
    (state_dir / "x").mkdir(parents=True)
    (state_dir / "x/y").write_text("")
    assert user.git("status", "--porcelain") == ""
    exclude.unlink()
    exclude.parent.rmdir()
    assert workspaces.exclude_state_dir_blocking(user.path)


def test_an_odd_state_directory_is_excluded_literally(user: Checkout) -> None:
    """Characters that mean something to git in a pattern stand for themselves."""
    odd = user.path / "src" / "h*[i]ve ?"
    assert Workspaces(odd, SystemClock(), user.env).exclude_state_dir_blocking(user.path)
    odd.mkdir()
    (odd / "x").write_text("")
    user.write("src/hive x/seen", "")
    assert user.git("status", "--porcelain", "-uall") == '?? "src/hive x/seen"'


def test_a_state_directory_elsewhere_needs_no_exclusion(user: Checkout, tmp_path: Path) -> None:
    """Outside of the checkout there is nothing to hide; outside of any repository it is an error."""
    workspaces = Workspaces(tmp_path / "state", SystemClock(), user.env)
    assert not workspaces.exclude_state_dir_blocking(user.path)
    with pytest.raises(NotReady) as caught:
        workspaces.exclude_state_dir_blocking(tmp_path)
    assert caught.value.code == "H210"


def test_a_difference_is_a_patch_or_a_summary(workspaces: Workspaces, user: Checkout) -> None:
    """From the base to the branch, the same whatever the user's settings for colours and prefixes are."""
    user.git("config", "color.ui", "always")
    user.git("config", "diff.noprefix", "true")
    base = user.git("rev-parse", "HEAD")
    user.git("checkout", "-qb", "hive/1-x")
    user.write("a.txt", "uno\n")
    user.write("src/new.txt", "n\n")
    user.commit()
    patch = workspaces.diff_blocking(user.path, base, "hive/1-x")
    assert patch.startswith("diff --git a/a.txt b/a.txt\n")
    assert "-one\n+uno\n" in patch
    summary = workspaces.diff_blocking(user.path, base, "hive/1-x", stat=True)
    assert "2 files changed, 2 insertions(+), 1 deletion(-)" in summary
    assert "create mode 100644 src/new.txt" in summary


def test_a_huge_difference_is_cut_and_says_so(workspaces: Workspaces, user: Checkout) -> None:
    """What an agent commits may be larger than anybody's memory."""
    base = user.git("rev-parse", "HEAD")
    user.write("big.txt", "x" * 99 + "\n" + ("y" * 99 + "\n") * 90_000)
    user.commit()
    patch = workspaces.diff_blocking(user.path, base, "main")
    assert len(patch) < 8_400_000
    assert patch.endswith("bytes shown]\n")


def test_a_difference_with_nothing_is_an_error(workspaces: Workspaces, user: Checkout) -> None:
    """A branch that was deleted has no difference, not an empty one; an option is no branch."""
    for branch in ("gone", "--output=/tmp/x"):
        with pytest.raises(WorkspaceError):
            workspaces.diff_blocking(user.path, "HEAD", branch)


@pytest.mark.parametrize("prefix", ["", "hive/", "me@work/ai/", "x-", "team/x_"])
def test_a_valid_prefix_is_accepted(user: Checkout, state_dir: Path, prefix: str) -> None:
    """Whatever passes makes branches git accepts."""
    workspaces = Workspaces(state_dir, SystemClock(), user.env, branch_prefix=prefix)
    assert workspaces.open_blocking(a_task(), user.path).branch == f"{prefix}1-fix-the-parser"


@pytest.mark.parametrize("prefix", ["-x/", "/", "a//b/", ".a/", "a.lock/", "a b/", "a~/", "a..b/", "@{/", "a./", "é/"])
def test_an_invalid_prefix_is_refused(user: Checkout, state_dir: Path, prefix: str) -> None:
    """A prefix git would refuse is a wrong setting, found before any task fails."""
    with pytest.raises(ConfigError) as caught:
        Workspaces(state_dir, SystemClock(), user.env, branch_prefix=prefix)
    assert isinstance(caught.value, HiveError)
    assert caught.value.code == "H105"
