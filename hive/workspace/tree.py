"""Deletion of a directory whatever modes its files have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def delete_tree(path: Path) -> None:
    """Delete a directory if it exists; links in it are not followed.

    Raises:
        OSError: Something in it belongs to someone else.
    """
    if not path.exists() and not path.is_symlink():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        # Caches of some tools (Go modules) are directories without write permission.
        path.chmod(0o700)
        for directory, names, _ in os.walk(path):
            for name in names:
                _open_up(Path(directory) / name)
        shutil.rmtree(path)


def _open_up(directory: Path) -> None:
    if not directory.is_symlink():
        directory.chmod(0o700)
