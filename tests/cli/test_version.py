from __future__ import annotations

import platform

from hive import __version__
from tests.cli.conftest import Cli


def test_versions_are_printed_for_reports(cli: Cli) -> None:
    """Hive, Python, SQLite and the system, for people and programs."""
    lines = cli("version").lines
    assert lines[:2] == [f"hive {__version__}", f"python {platform.python_version()}"]
    data = cli("version", "--json").data
    assert (data["schema"], data["hive"]) == ("hive.version/1", __version__)
    assert data["sqlite"].startswith("3.")
    assert cli("--version").out == f"hive {__version__}\n"
