"""What ties a worktree to its repository: the ``.git`` file in it, and its own git directory in the repository.

The ``.git`` file is within an agent's reach and could name a repository with hostile settings: it is only compared and
rewritten, never followed.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from errno import EEXIST, ENOENT, ENOTEMPTY
from pathlib import Path

from hive.errors import WorkspaceError
from hive.workspace.record import Record
from hive.workspace.tree import delete_tree


def register(record: Record) -> bool:
    """Make the worktree's directory, without files, and have the repository know it, in one atomic step.

    `git worktree add` looks at every other worktree (11 ms with 80 of them, 39 ms with 700; this takes none of that)
    and fails when another one is just being made. The branch must exist and be checked out nowhere.

    Source: gitrepository-layout(5), ``worktrees/<id>/{gitdir,commondir,HEAD}``.

    Returns:
        False, and nothing is left behind, if the name is taken or the repository is of a kind where more is to be done.
    """
    common, path = Path(record.common_dir), Path(record.path)
    if (common / "reftable").exists() or (common / "config.worktree").exists():
        return False
    git_dir = common / "worktrees" / path.name
    path.mkdir()
    write_link(replace(record, git_dir=str(git_dir)))
    new = Path(tempfile.mkdtemp(prefix="hive-", dir=common))
    try:
        new.chmod(0o755)
        facts = {"gitdir": f"{path}/.git", "commondir": "../..", "HEAD": f"ref: refs/heads/{record.branch}"}
        for name, text in facts.items():
            (new / name).write_text(f"{text}\n", "utf-8")
        git_dir.parent.mkdir(exist_ok=True)
        new.rename(git_dir)
    except OSError as error:
        delete_tree(new)
        delete_tree(path)
        # Taken; or the last other worktree was removed just now and its parent directory with it.
        if error.errno in {ENOTEMPTY, EEXIST, ENOENT}:
            return False
        raise
    return True


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
