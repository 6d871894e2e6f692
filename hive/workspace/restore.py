"""The end of a test: what the test command did to the worktree is undone, so that no commit ever holds it.

`git clean` is not used: it would decide about nested repositories and Hive's own files by rules of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from hive.errors import WorkspaceError
from hive.workspace.git import Place
from hive.workspace.record import Record
from hive.workspace.seal import drop_stale_locks
from hive.workspace.snapshot import read_changes

_PASSES = 5
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def restore(place: Place, record: Record) -> None:
    """Bring files and index back to the commit at HEAD; two git commands when nothing changed.

    Untracked files go, ignored ones and nested repositories stay, and neither HEAD nor any branch moves.

    Raises:
        WorkspaceError: H215, git failed, or files keep coming back.
    """
    drop_stale_locks(Path(record.git_dir))
    untracked: tuple[str, ...] = ()
    for _ in range(_PASSES):
        # Named: on a branch without a commit a bare `reset` would delete every file.
        place.run("reset", "--hard", "--quiet", "HEAD^{commit}")
        untracked = read_changes(place, record.included).untracked
        if not untracked:
            return
        # While rules of the test are in force, what they say of a file's being ignored does not count.
        rules = [path for path in untracked if Path(path).name == ".gitignore"]
        _delete(place.cwd, rules or untracked)
    raise WorkspaceError(
        "the worktree could not be put back as it was before the test",
        code="H215",
        why=f"{len(untracked)} files appear again and again, {untracked[0]} among them",
        where=str(place.cwd),
        fix="see what still writes them; they will be part of the task's next commit",
    )


def _delete(top: Path, paths: Sequence[str]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            _delete_one(top, path)


def _delete_one(top: Path, path: str) -> None:
    """Delete a file and the directories that are empty then, without following a link on the way there."""
    *parents, name = path.split("/")
    with ExitStack() as opened:
        at = [_opened(opened, top, None)]
        for parent in parents:
            at.append(_opened(opened, parent, at[-1]))
        os.unlink(name, dir_fd=at[-1])
        with suppress(OSError):  # not empty
            for parent, above in zip(reversed(parents), reversed(at[:-1]), strict=True):
                os.rmdir(parent, dir_fd=above)


def _opened(opened: ExitStack, name: str | Path, above: int | None) -> int:
    descriptor = os.open(name, _DIRECTORY, dir_fd=above)
    opened.callback(os.close, descriptor)
    return descriptor
