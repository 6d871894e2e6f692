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
        for directory, _, _ in os.walk(path):
            Path(directory).chmod(0o700)
        shutil.rmtree(path)
