"""How long does a person wait for an answer of the command line? Seconds of the whole process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from hive.api import open_sync
from hive.model import NewTask, WorkspaceKind
from tests.conftest import ROOT

INSTALLED = Path(sys.executable).with_name("hive")
HIVE = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "hive"]


def timed(benchmark: BenchmarkFixture, directory: Path, *arguments: str) -> None:
    """Benchmark a command ten times after a warm-up."""

    def once() -> None:
        environ = {"PYTHONPATH": str(ROOT)}
        subprocess.run([*HIVE, *arguments], cwd=directory, capture_output=True, check=True, env=environ)

    benchmark.pedantic(once, rounds=10, warmup_rounds=1)


def test_version(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """`hive --version`: 0.15 s on a quiet machine."""
    timed(benchmark, tmp_path, "--version")


def test_status_of_5000_tasks(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """`hive status` on a queue of 5,000 tasks: 0.3 s on a quiet machine."""
    with open_sync(f"sqlite:///{tmp_path}/.hive/hive.db") as hive:
        hive.add(
            [
                NewTask(
                    f"task {number}", command=("true",), agent="command", key=str(number), workspace=WorkspaceKind.NONE
                )
                for number in range(5000)
            ]
        )
    timed(benchmark, tmp_path, "status")
