"""The ``.git`` file of a worktree: what ties the directory to its repository, and what an agent may have done to it.

It is within an agent's reach and could name a repository with hostile settings: it is only compared and rewritten.
"""

from __future__ import annotations

from pathlib import Path

from hive.errors import WorkspaceError
from hive.workspace.record import Record


def link_of(record: Record) -> Path:
    """Return the git directory the ``.git`` file names; only for a worktree git has just made.

    Raises:
        WorkspaceError: H215, it is no worktree of the record's repository.
    """
    link = Path(record.path) / ".git"
    git_dir = Path(link.read_text("utf-8").removeprefix("gitdir: ").rstrip("\n"))
    if git_dir.parent.resolve() != (Path(record.common_dir) / "worktrees").resolve():
        raise WorkspaceError(
            f"{link} names {git_dir}, which is not in {record.common_dir}",
            code="H215",
            where=str(link),
            fix="remove the directory, then `hive retry` the task",
        )
    return git_dir


def is_registered(record: Record) -> bool:
    """Return whether the repository still has this worktree, complete, under the recorded git directory."""
    git_dir = Path(record.git_dir)
    try:
        back = (git_dir / "gitdir").read_text("utf-8").rstrip("\n")
    except FileNotFoundError:
        return False
    # Without an index it was registered anew and the crash came before it was filled.
    return back == f"{record.path}/.git" and (git_dir / "HEAD").exists() and (git_dir / "index").exists()


def is_attached(record: Record) -> bool:
    """Return whether the worktree and its repository name each other."""
    link = Path(record.path) / ".git"
    if not is_registered(record) or link.is_symlink() or not link.is_file():
        return False
    with link.open("rb") as file:
        return file.read(8192) == _text(record)


def write_link(record: Record) -> None:
    """Write the ``.git`` file anew, where there is none."""
    with (Path(record.path) / ".git").open("xb") as file:
        file.write(_text(record))


def set_aside(link: Path) -> None:
    """Clear the place of a worktree's ``.git``; a repository an agent made there is moved out, beside the worktree."""
    if link.is_dir() and not link.is_symlink():
        number = 1
        while (target := Path(f"{link.parent}.git-found-{number}")).exists():
            number += 1
        link.rename(target)
    else:
        link.unlink(missing_ok=True)


def _text(record: Record) -> bytes:
    return f"gitdir: {record.git_dir}\n".encode()
