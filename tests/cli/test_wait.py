from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hive.api import open_sync
from hive.lock import EngineLock
from hive.model import NewTask
from tests.cli.conftest import Cli, Seed, Zoo, done, failed, hive_process


def test_the_exit_code_is_the_verdict_of_the_tasks(cli: Cli, zoo: Zoo) -> None:
    """What is settled is not waited for; only the named tasks count."""
    assert cli("wait", zoo.completed).code == 0
    assert cli("wait", "batch:pathlib").code == 1
    assert cli("wait", zoo.needs_you).code == 3
    assert cli("wait", zoo.cancelled).code == 4


def test_a_timeout_is_124(cli: Cli, zoo: Zoo) -> None:
    """Tasks that still move after the timeout give 124, whatever has failed by then."""
    answer = cli("wait", "--timeout", "0.3", "--json")
    assert answer.code == 124
    assert answer.data["exit"] == {"code": 124, "reason": "timed_out"}
    assert answer.data["counts"]["in_progress"] == 1
    assert answer.data["waited_s"] >= 0.3
    assert "no engine runs" in answer.err


def test_waiting_ends_when_the_last_task_ends(seed: Seed, tmp_path: Path) -> None:
    """A waiting process notices the end that another process records."""
    (task,) = seed.add(NewTask("one"))
    process = hive_process("wait", task, "--timeout", "30", cwd=tmp_path)
    assert process.stderr is not None
    assert "no engine runs" in process.stderr.readline()
    seed.work(task, done())
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "1 task: 1 completed\n")


def test_the_end_of_the_engine_is_told_once(seed: Seed, tmp_path: Path) -> None:
    """When the engine ends with tasks outstanding that is said, once, and waiting goes on."""
    (task,) = seed.add(NewTask("one"))
    lock = EngineLock(tmp_path / ".hive" / "hive.db.engine")
    process = hive_process("wait", task, "--timeout", "30", cwd=tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    lock.close()
    assert process.stderr is not None
    assert process.stderr.readline() == "no engine runs; start one with: hive run\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    seed.work(task, done())
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "1 task: 1 completed\n", "")


def test_without_tasks_there_is_nothing_to_wait_for(cli: Cli, seed: Seed) -> None:
    """An empty queue is completed."""
    with open_sync(seed.url):
        pass
    assert cli("wait").code == 0


def test_many_tasks_are_judged_together(cli: Cli, seed: Seed) -> None:
    """One failure among more tasks than a query holds is found."""
    seed.add(*(NewTask(f"t{number}") for number in range(1100)))
    for claimed in seed.claim()[:3]:
        seed.end(claimed.run_id, failed() if claimed.task_id == 2 else done())
    with open_sync(seed.url) as queue:
        queue.cancel(*range(4, 1101))
    data = cli("wait", "1..3", "--json").data
    assert (data["counts"]["completed"], data["counts"]["failed"], data["exit"]["code"]) == (2, 1, 1)
    answer = cli("wait", "--timeout", "0.1", "--json")
    assert answer.code == 124


@pytest.mark.parametrize("timeout", ["soon", "-1", ""])
def test_a_timeout_that_is_no_duration_is_refused(cli: Cli, zoo: Zoo, timeout: str) -> None:
    """--timeout takes durations only."""
    answer = cli("wait", f"--timeout={timeout}")
    assert (answer.code, "error[H136]" in answer.err) == (2, True)
