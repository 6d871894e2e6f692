"""The rules that tests/conftest.py lays on every test, shown on a suite of three."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SUITE = '''
from tests.conftest import missing_part

def test_says_nothing():
    pass

def test_says_it():
    """It says it."""

def test_lacks_something():
    """Cannot run here."""
    missing_part("a moon; wait for the night")
'''


@pytest.mark.parametrize(("ci", "ending"), [("", "skipped"), ("true", "failed")])
def test_a_test_without_docstring_fails_and_a_missing_part_counts_as_the_place_demands(
    tmp_path: Path, ci: str, ending: str
) -> None:
    """A person's machine may lack something and says so in the last lines; where CI=true that is a failure."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-rsf",
        "-v",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        tmp_path,
    ]
    environ = {**os.environ, "CI": ci}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=50)
    results = dict(re.findall(r"::test_(\w+) (PASSED|FAILED|SKIPPED|ERROR)", done.stdout))
    assert results == {"says_nothing": "ERROR", "says_it": "PASSED", "lacks_something": ending.upper()}
    assert "missing part: a moon; wait for the night" in done.stdout.split("short test summary info")[1]
    assert "state the behaviour in one sentence" in done.stdout
