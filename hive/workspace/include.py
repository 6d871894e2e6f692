"""Files a checkout needs but git does not track: ``.worktreeinclude`` names them, a fresh worktree gets copies.

The file stands at the top of the user's checkout, in the syntax of ``.gitignore``. Only regular files that git ignores
*in the new worktree* are copied, so that none of them can be committed by accident.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from hive.workspace.git import Place, failed

INCLUDE_FILE = ".worktreeinclude"


def copy_included(root: Path, place: Place, state_dir: Path) -> tuple[str, ...]:
    """Copy the included files from the checkout at `root` into a worktree and return their relative paths.

    Existing files are not overwritten. Symbolic links are neither copied nor followed.
    """
    patterns = root / INCLUDE_FILE
    if not patterns.is_file() or patterns.is_symlink():
        return ()
    assert place.work_tree is not None
    listed = Place(place.git, root).run("ls-files", "-z", "-o", "-i", f"--exclude-from={patterns}")
    files = [path for path in listed.split("\0") if path and state_dir not in (root / path).parents]
    wanted = [path for path in files if _may_be_copied(root / path, place.work_tree / path, place.work_tree)]
    included = _ignored(place, wanted)
    for path in included:
        _copy(root / path, place.work_tree / path)
    return tuple(included)


def _may_be_copied(source: Path, target: Path, work_tree: Path) -> bool:
    """Return whether this is a regular file that is missing in the worktree and would land within it."""
    # The base may have a link to somewhere else where the checkout has a directory.
    existing = next(parent for parent in target.parents if os.path.lexists(parent))
    inside = existing.is_dir() and existing.resolve().is_relative_to(work_tree)
    return inside and not os.path.lexists(target) and stat.S_ISREG(source.lstat().st_mode)


def _ignored(place: Place, paths: list[str]) -> list[str]:
    """Return those of the paths that git ignores in the worktree."""
    if not paths:
        return []
    # "./" keeps a name that starts with a colon from being read as a pattern.
    answer = place.ask("check-ignore", "-z", "--stdin", stdin="".join(f"./{path}\0" for path in paths))
    if answer.code > 1:  # 1: none of them is ignored
        raise failed(answer, "check-ignore", where=place.cwd)
    return [path.removeprefix("./") for path in answer.out.split("\0") if path]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(reading, "rb") as original:
        mode = stat.S_IMODE(os.fstat(reading).st_mode)
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(writing, "wb") as copy:
            shutil.copyfileobj(original, copy)
