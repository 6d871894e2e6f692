"""`hive version`: what runs here, for bug reports."""

from __future__ import annotations

import platform

from hive import __version__
from hive.cli import exits
from hive.cli.context import Context
from hive.cli.options import JSON, verb
from hive.cli.output import data
from hive.export import envelope


@verb("version", shown=JSON)
def version_command(ctx: Context) -> int:
    """Print versions."""
    from hive.store.sqlite_library import sqlite3

    versions = {
        "hive": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if not ctx.for_people:
        data(envelope("hive.version/1", ctx.clock.now_ms(), **versions))
        return exits.COMPLETED
    for name, version in versions.items():
        print(f"{name} {version}")
    return exits.COMPLETED
