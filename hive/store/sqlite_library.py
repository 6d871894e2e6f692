"""The one place that chooses which SQLite library this process uses.

SQLite 3.7.0 to 3.51.2 can lose committed data when a checkpoint meets a write-ahead-log reset, and most systems
ship one of those. Where the `pysqlite3` wheel is installed its newer, statically linked library takes the place of
`sqlite3` before anything else (aiosqlite above all) can import the old one. Two libraries in one process do not see
each other's locks, hence one place and at import.

Source: SQLite release history (fixed in 3.51.3, back-ported to 3.44.6 and 3.50.7).
"""

from __future__ import annotations

import importlib.util
import sys

if importlib.util.find_spec("pysqlite3") is not None:
    import pysqlite3
    import pysqlite3.dbapi2

    sys.modules["sqlite3"] = pysqlite3
    sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2

import sqlite3

__all__ = ["has_wal_reset_bug", "sqlite3"]

_FIXED = (3, 51, 3)
_BACKPORTS = {(3, 44): 6, (3, 50): 7}


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Return whether this SQLite version has the write-ahead-log reset bug."""
    patch = _BACKPORTS.get(version[:2])
    if patch is not None and version[2] >= patch:
        return False
    return (3, 7, 0) <= version < _FIXED
