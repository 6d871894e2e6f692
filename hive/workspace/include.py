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
    files = [path for path in listed.split("\0") if path and not path.endswith("/")]
    wanted = [path for path in files if state_dir not in (root / path).parents]
    return tuple(path for path in _ignored(place, wanted) if _copy(root, place.work_tree, path))


def _ignored(place: Place, paths: list[str]) -> list[str]:
    if not paths:
        return []
    answer = place.ask("check-ignore", "-z", "--stdin", stdin="".join(f"{path}\0" for path in paths))
    if answer.code > 1:  # 1: none of them is ignored
        raise failed(answer, "check-ignore", where=place.cwd)
    return [path for path in answer.out.split("\0") if path]


def _copy(root: Path, work_tree: Path, path: str) -> bool:
    source, target = root / path, work_tree / path
    # The base may have a link to somewhere else where the checkout has a directory.
    existing = next(parent for parent in target.parents if parent.exists() or parent.is_symlink())
    if not existing.is_dir() or not existing.resolve().is_relative_to(work_tree) or target.is_symlink():
        return False
    if not stat.S_ISREG(source.lstat().st_mode) or target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(reading, "rb") as original:
        mode = stat.S_IMODE(os.fstat(reading).st_mode)
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(writing, "wb") as copy:
            shutil.copyfileobj(original, copy)
    return True
