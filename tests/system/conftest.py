from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.agent.conftest import claude_cli, messages_api  # noqa: F401 - fixtures of the real CLI
from tests.system.harness import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty directory with a clean environment."""
    home = tmp_path / "home"
    home.mkdir()
    directory = tmp_path / "project"
    directory.mkdir()
    package = Path(__file__).parents[2]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(package),
    }
    return Project(directory.resolve(), environ)
