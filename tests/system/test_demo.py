"""The first command of the README, typed as a newcomer types it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from hive import api
from hive.model import Run, State
from hive.store import TaskQuery
from tests.conftest import ROOT, missing_part

_LEAST_TASKS = 20
_LONGEST_S = 60.0


@pytest.mark.timeout(200)
def test_the_demo_shows_everything_twice_in_a_row(tmp_path: Path) -> None:
    """From any directory and an empty environment, in a minute: shards, a retry, rework and commits; then once more."""
    if not (ROOT / ".venv" / "bin" / "hive").exists():
        missing_part("the project's own .venv: scripts/hive --version makes it")
    first, second = _demo(tmp_path), _demo(tmp_path)
    assert first != second
    for place in (first, second):
        _assert_all_is_shown(place)
        shutil.rmtree(place)


def _demo(elsewhere: Path) -> Path:
    """Run the demo and return its repository."""
    began_s = time.monotonic()
    done = subprocess.run(
        ["env", "-i", f"PATH={os.environ['PATH']}", f"HOME={elsewhere}", str(ROOT / "scripts" / "hive"), "demo"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=2 * _LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began_s < _LONGEST_S
    assert "RETRY" in done.stderr
    assert "SENT BACK" in done.stderr
    place = re.search(r"git -C (\S+) log", done.stdout)
    assert place is not None, done.stdout
    return Path(place[1])


def _assert_all_is_shown(place: Path) -> None:
    with api.open_sync(f"sqlite:///{place}/.hive/hive.db") as queue:
        tasks = queue.tasks(TaskQuery())
        runs = [queue.runs(task.id) for task in tasks]
    assert len(tasks) >= _LEAST_TASKS
    assert Counter(task.state for task in tasks) == {State.COMPLETED: len(tasks)}
    assert len({run.shard for of_one in runs for run in of_one}) >= 2
    assert any(_follow(of_one, ("apply", "errored"), ("apply", "succeeded")) for of_one in runs)
    assert any(_follow(of_one, ("test", "rejected"), ("test", "succeeded")) for of_one in runs)
    branches = _git(place, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads").splitlines()
    tips = dict(line.split() for line in branches)
    start = tips["main"]
    for task in tasks:
        assert task.branch is not None
        assert tips[task.branch] == task.commit != start


def _follow(runs: list[Run], first: tuple[str, str], then: tuple[str, str]) -> bool:
    """Return whether a run ended in one way and a later one in the other."""
    endings = [(str(run.phase), run.outcome) for run in runs]
    return first in endings and then in endings[endings.index(first) :]


def _git(place: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=place, capture_output=True, text=True, check=True).stdout
