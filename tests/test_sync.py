from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hive import api
from hive.model import NewTask, Reason, Run, State, Task
from hive.store import Steer
from tests.conftest import ROOT
from tests.rig import alive, command, until_blocking

GATED = "until [ -e go ]; do sleep 0.01; done"


class Place:
    """A directory with a queue, in which `hive run` is started as a person would."""

    def __init__(self, directory: Path, missing: Sequence[str] = ()) -> None:
        self.directory = directory
        self.url = f"sqlite:///{directory}/.hive/hive.db"
        self.err = directory / "err"
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT)}
        if missing:
            blocked = directory / "blocked"
            blocked.mkdir()
            lines = [f"sys.modules[{name!r}] = None\n" for name in missing]
            (blocked / "sitecustomize.py").write_text(f"import sys\n{''.join(lines)}")
            self.environ["PYTHONPATH"] = f"{blocked}:{ROOT}"

    def add(self, *tasks: NewTask) -> None:
        with api.open_sync(self.url) as hive:
            hive.add(tasks)

    def tasks(self) -> list[Task]:
        with api.open_sync(self.url) as hive:
            return hive.tasks()

    def runs(self) -> list[Run]:
        with api.open_sync(self.url) as hive:
            return [run for task in hive.tasks() for run in hive.runs(task.id)]

    @contextmanager
    def engine(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        argv = [sys.executable, "-m", "hive", "run", "--json", "--progress", "none", *options]
        with (
            self.err.open("w") as err,
            subprocess.Popen(
                argv, cwd=self.directory, env=self.environ, stdout=subprocess.PIPE, stderr=err, text=True
            ) as process,
        ):
            yield process
            process.kill()

    def run(self, *options: str) -> dict[str, Any]:
        """Run the engine to its end and return its summary."""
        with self.engine(*options) as process:
            out, _ = process.communicate(timeout=30)
        summary = json.loads(out)
        assert isinstance(summary, dict)
        return summary


def test_tasks_run_one_after_the_other(tmp_path: Path) -> None:
    """The engine in one process works by priority, never two at a time, whatever was asked for."""
    place = Place(tmp_path)
    place.add(*[command("sh", "-c", "sleep 0.05", priority=number) for number in range(4)])
    summary = place.run("--sync", "--agents", "4")
    assert summary["counts"]["completed"] == 4
    runs = sorted(place.runs(), key=lambda run: run.id)
    assert [run.task_id for run in runs] == [4, 3, 2, 1]
    for before, after in pairwise(runs):
        assert before.ended_at_ms is not None
        assert before.ended_at_ms <= after.opened_at_ms


def test_a_failed_task_is_tried_again_in_the_same_process(tmp_path: Path) -> None:
    """Retries work as in the forked engine."""
    place = Place(tmp_path)
    (tmp_path / "hive.toml").write_text('backoff_base = "1ms"\n')
    place.add(command("sh", "-c", "[ -e tried ] || { touch tried; exit 1; }"))
    assert place.run("--sync")["exit"] == {"code": 0, "reason": "completed"}
    assert [run.outcome for run in place.runs()] == ["errored", "succeeded"]


def test_the_first_signal_lets_the_running_task_end(tmp_path: Path) -> None:
    """After one Ctrl-C the running task is finished; no other is started, claimed or left open."""
    place = Place(tmp_path)
    place.add(command("sh", "-c", GATED), command("true"), command("true"))
    with place.engine("--sync") as process:
        until_blocking(lambda: _started(place))
        process.send_signal(signal.SIGINT)
        until_blocking(lambda: "draining" in place.err.read_text())
        (tmp_path / "go").touch()
        assert process.wait(20) == 130
    assert [(task.state, task.runs) for task in place.tasks()] == [
        (State.COMPLETED, 1),
        (State.QUEUED, 0),
        (State.QUEUED, 0),
    ]
    assert all(run.ended_at_ms is not None for run in place.runs())


def test_the_second_signal_interrupts(tmp_path: Path) -> None:
    """After two the agent is stopped and its task is queued again without a spent attempt."""
    place = Place(tmp_path)
    place.add(command("sleep", "300"))
    with place.engine("--sync") as process:
        until_blocking(lambda: _started(place))
        process.send_signal(signal.SIGTERM)
        until_blocking(lambda: "draining" in place.err.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    [task], [run] = place.tasks(), place.runs()
    assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.INTERRUPTED, 0)
    assert run.process is not None
    assert not alive(run.process.pid)


@pytest.mark.parametrize("how", ["drain", "now"])
def test_a_person_stops_it_through_the_queue(tmp_path: Path, how: str) -> None:
    """An order in the queue ends the engine; nothing that waits is started by it."""
    place = Place(tmp_path)
    place.add(command("sleep", "1" if how == "drain" else "300"), command("true"))
    with place.engine("--sync") as process:
        until_blocking(lambda: _started(place))
        with api.open_sync(place.url) as hive:
            hive.control(Steer(stop=how))
        out, _ = process.communicate(timeout=20)
    assert json.loads(out)["exit"]["reason"] == "stopped"
    first, second = place.tasks()
    assert first.state is (State.COMPLETED if how == "drain" else State.QUEUED)
    assert (second.state, second.runs) == (State.QUEUED, 0)


def test_agents_of_a_killed_engine_are_stopped_by_the_next_start(tmp_path: Path) -> None:
    """Without a guardian the next engine stops what a kill -9 left, before it starts the task again."""
    place = Place(tmp_path)
    place.add(command("sh", "-c", "[ -e tried ] && exit; touch tried; exec sleep 300"))
    with place.engine("--sync") as process:
        until_blocking(lambda: (tmp_path / "tried").exists() and _started(place))
        process.kill()
    [run] = place.runs()
    assert run.process is not None
    assert alive(run.process.pid)
    (tmp_path / "hive.toml").write_text('backoff_base = "1ms"\n')
    assert place.run("--sync")["recovered"] == 1
    assert not alive(run.process.pid)
    assert [run.outcome for run in place.runs()] == ["lost", "succeeded"]


# --- where parts are missing


@pytest.mark.parametrize("missing", [("aiosqlite",), ("aiosqlite", "uvloop"), ("aiosqlite", "uvloop", "pysqlite3")])
def test_without_aiosqlite_it_works_in_one_process_and_says_so_once(tmp_path: Path, missing: Sequence[str]) -> None:
    """A machine that lacks what the forked engine needs gets the same work done, one task at a time."""
    place = Place(tmp_path, missing)
    place.add(command("true"), command("true"))
    assert place.run("--agents", "4")["counts"]["completed"] == 2
    assert place.err.read_text() == "hive: aiosqlite is not installed: running one task at a time\n"
    assert {run.shard.split(".")[-2] for run in place.runs()} == {"sync"}


def test_asked_for_it_says_nothing(tmp_path: Path) -> None:
    """Who asks for one process is not told why."""
    place = Place(tmp_path, ("aiosqlite",))
    place.add(command("true"))
    assert place.run("--sync")["counts"]["completed"] == 1
    assert place.err.read_text() == ""


def test_without_uvloop_the_standard_loop_serves(tmp_path: Path) -> None:
    """The forked engine works without uvloop, too, and says so once."""
    place = Place(tmp_path, ("uvloop",))
    place.add(command("true"), command("true"))
    assert place.run("--cores", "2", "--agents", "4")["counts"]["completed"] == 2
    assert place.err.read_text() == "hive: uvloop is not installed: using the standard event loop\n"


def _started(place: Place) -> bool:
    return any(run.process is not None for run in place.runs())
