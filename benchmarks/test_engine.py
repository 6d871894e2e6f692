"""How many tasks a second does the engine work, against one at a time and against xargs, and what does a task weigh?

Run with `scripts/bench`. Every comparison is made within one run; absolute figures say more about the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

HIVE = [sys.executable, "-m", "hive"]
ENVIRON = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
THREAD_KIB = 33.0  # what a thread that waits in subprocess.run costs its process


def queue(directory: Path, argv: Sequence[str], count: int) -> None:
    """Write a task file of `count` tasks that run a program."""
    rows = ({"key": f"t{n}", "command": list(argv), "workspace": "none", "phases": ["apply"]} for n in range(count))
    (directory / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(directory: Path, *arguments: str) -> float:
    """Work the queue and return the seconds the whole process took."""
    began_s = time.monotonic()
    done = subprocess.run(
        [*HIVE, "run", "tasks.jsonl", "--json", "--progress", "none", *arguments],
        cwd=directory,
        env=ENVIRON,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["exit"]["code"] == 0
    return time.monotonic() - began_s


def timed(benchmark: BenchmarkFixture, directory: Path, argv: Sequence[str], count: int, *arguments: str) -> float:
    """Benchmark a fresh queue three times and return the median in seconds."""
    fresh = iter(range(100))

    def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = directory / f"round-{next(fresh)}"
        place.mkdir(parents=True)
        queue(place, argv, count)
        return (place, *arguments), {}

    benchmark.pedantic(run, setup=prepare, rounds=3, warmup_rounds=1)
    assert benchmark.stats is not None
    median_s = float(benchmark.stats.stats.median)
    benchmark.extra_info["tasks_per_s"] = round(count / median_s, 1)
    return median_s


def test_exit_at_once(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """2,000 programs that exit at once, 64 at a time on 2 shards: tasks/s."""
    timed(benchmark, tmp_path, ["/bin/true"], 2000, "--cores", "2", "--agents", "64")


def test_exit_at_once_sync(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """200 programs that exit at once, one at a time: tasks/s."""
    timed(benchmark, tmp_path, ["/bin/true"], 200, "--sync")


def test_exit_at_once_xargs(benchmark: BenchmarkFixture) -> None:
    """2,000 programs that exit at once, by xargs -P 64, which records nothing: tasks/s."""
    lines = b"".join(b"%d\n" % number for number in range(2000))
    benchmark.pedantic(
        lambda: subprocess.run(["xargs", "-P64", "-n1", "/bin/true"], input=lines, check=True),
        rounds=3,
        warmup_rounds=1,
    )
    assert benchmark.stats is not None
    benchmark.extra_info["tasks_per_s"] = round(2000 / float(benchmark.stats.stats.median), 1)


def test_sleeping(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """400 programs that sleep 250 ms, 64 at a time on 2 shards: efficiency against 400 x 0.25 s / 64."""
    median_s = timed(benchmark, tmp_path, ["sleep", "0.25"], 400, "--cores", "2", "--agents", "64")
    benchmark.extra_info["efficiency"] = round(400 * 0.25 / 64 / median_s, 3)


def test_sleeping_xargs(benchmark: BenchmarkFixture) -> None:
    """400 programs that sleep 250 ms, by xargs -P 64: efficiency against 400 x 0.25 s / 64."""
    benchmark.pedantic(
        lambda: subprocess.run(["xargs", "-P64", "-n1", "sleep"], input=b"0.25\n" * 400, check=True),
        rounds=3,
        warmup_rounds=1,
    )
    assert benchmark.stats is not None
    benchmark.extra_info["efficiency"] = round(400 * 0.25 / 64 / float(benchmark.stats.stats.median), 3)


def test_four_agents_against_one_at_a_time(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """160 programs that sleep 250 ms at 4 agents, against 40 of them with --sync: ratio of tasks/s, at least 3."""
    sync = tmp_path / "sync"
    sync.mkdir()
    queue(sync, ["sleep", "0.25"], 40)
    sync_rate = 40 / run(sync, "--sync")
    rate = 160 / timed(benchmark, tmp_path, ["sleep", "0.25"], 160, "--agents", "4")
    benchmark.extra_info["ratio_to_sync"] = round(rate / sync_rate, 2)
    assert rate / sync_rate > 3.0


@pytest.mark.timeout(180)
def test_memory_per_running_task(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Proportional set size of all engine processes for each further running task, at 500: KiB, below a thread's."""
    few, many = (weigh(tmp_path, count) for count in (10, 510))
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info["engine_kib_at_10"] = few
    benchmark.extra_info["kib_per_task"] = round((many - few) / 500, 1)
    assert (many - few) / 500 < THREAD_KIB


def weigh(directory: Path, count: int) -> int:
    """Run `count` sleeping tasks and return the engine's memory in KiB, the agents' not counted."""
    place = directory / str(count)
    place.mkdir()
    queue(place, ["sleep", "120"], count)
    engine = subprocess.Popen(
        [*HIVE, "run", "tasks.jsonl", "--cores", "2", "--agents", str(count), "--progress", "none"],
        cwd=place,
        env=ENVIRON,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        tree = psutil.Process(engine.pid)
        while sum(one.name() == "sleep" for one in descendants(tree)) < count:
            time.sleep(0.1)
        time.sleep(2)  # let start-up's garbage go
        return sum(pss_kib(one) for one in [tree, *tree.children()] if one.name() != "sleep")
    finally:
        for _ in range(2):
            engine.send_signal(signal.SIGINT)
            time.sleep(0.3)
        engine.wait(60)


def descendants(tree: psutil.Process) -> list[psutil.Process]:
    """Return living descendants; those that end meanwhile do not count."""
    found = []
    for one in tree.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.name()
            found.append(one)
    return found


def pss_kib(process: psutil.Process) -> int:
    """Return the proportional set size in KiB."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
