"""What people and machines do to an engine: stop it, freeze it, take its terminal away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from hive.model import State
from tests.system.harness import Project, until


def sleeping(project: Project, count: int, seconds: float) -> None:
    """Write tasks that only take time."""
    project.tasks(
        [
            {"key": f"t{n}", "command": ["sleep", str(seconds)], "workspace": "none", "phases": ["apply"], "retries": 0}
            for n in range(count)
        ]
    )


def running(project: Project) -> int:
    """Return how many agents are at work."""
    if not (project.directory / ".hive" / "hive.db").exists():
        return 0
    with project.open() as hive:
        return sum(hive.counts().open_runs.values())


def completed(project: Project) -> int:
    """Return how many tasks are completed."""
    if not (project.directory / ".hive" / "hive.db").exists():
        return 0
    with project.open() as hive:
        return hive.counts().by_state[State.COMPLETED]


def has_completed(project: Project, goal: int) -> bool:
    """Return whether so many tasks are completed while others still run."""
    return completed(project) >= goal and running(project) > 0


RUN = ("tasks.jsonl", "--cores", "2", "--agents", "4", "--progress", "none")


@pytest.mark.timeout(120)
def test_a_drain_leaves_no_open_run_and_spends_no_attempt(project: Project) -> None:
    """After TERM in the middle of many short tasks nothing is open, and nothing that never started counts as tried."""
    project.tasks(
        [
            {"key": f"t{n}", "command": ["true"], "workspace": "none", "phases": ["apply"], "retries": 0}
            for n in range(3000)
        ]
    )
    for _ in range(3):
        with project.engine(*RUN) as engine:
            goal = completed(project) + 100
            until(partial(has_completed, project, goal), project.log())
            engine.process.send_signal(signal.SIGTERM)
            assert engine.end() in {143, 0}, project.log()
        assert running(project) == 0
    assert {run.outcome for run in project.all_runs()} <= {"succeeded", "interrupted"}
    assert not [task for task in project.all_tasks() if task.state is State.FAILED]


@pytest.mark.timeout(120)
def test_a_frozen_shard_is_replaced_after_its_lease(project: Project) -> None:
    """A shard that is stopped for longer than its lease is killed; its tasks are done by another."""
    project.write("hive.toml", 'lease = "3s"\nrenew = "1s"\ngrace = 1\nbackoff_base = 0.1\n')
    sleeping(project, 6, 0.5)
    rows = (project.directory / "tasks.jsonl").read_text().replace('"retries": 0', '"retries": 3')
    project.write("tasks.jsonl", rows)
    with project.engine(*RUN) as engine:
        until(lambda: running(project) >= 4, project.log())
        os.kill(engine.part("hive-shard-0").pid, signal.SIGSTOP)
        assert engine.end(60) == 0, project.log()
    assert "silent" in project.log()
    assert {task.state for task in project.all_tasks()} == {State.COMPLETED}


@pytest.mark.timeout(120)
def test_a_lost_terminal_ends_no_work(project: Project) -> None:
    """With nobody left to read stderr, a shard that dies is replaced all the same."""
    sleeping(project, 12, 1)
    rows = (project.directory / "tasks.jsonl").read_text().replace('"retries": 0', '"retries": 3')
    project.write("tasks.jsonl", rows)
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "hive", "run", *RUN],
        cwd=project.directory,
        env=dict(project.environ),
        stdout=subprocess.DEVNULL,
        stderr=write,
        start_new_session=True,
    )
    os.close(write)
    os.close(read)
    try:
        until(lambda: running(project) >= 4, "the engine did not start")
        subprocess.run(["pkill", "-KILL", "-x", "hive-shard-0", "-s", str(process.pid)], check=True)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert {task.state for task in project.all_tasks()} == {State.COMPLETED}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("nohup", [False, True], ids=["terminal", "nohup"])
def test_a_closed_terminal_drains_and_nohup_ignores_it(project: Project, nohup: bool) -> None:  # noqa: FBT001
    """HUP to the whole group drains like TERM; under nohup nothing happens at all."""
    sleeping(project, 4, 2)
    process = subprocess.Popen(
        [*(["nohup"] if nohup else []), sys.executable, "-m", "hive", "run", *RUN],
        cwd=project.directory,
        env=dict(project.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: running(project) >= 4, "the engine did not start")
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(40) == (0 if nohup else 143)
    finally:
        process.kill()
        process.wait()
    assert {run.outcome for run in project.all_runs()} == {"succeeded"}
