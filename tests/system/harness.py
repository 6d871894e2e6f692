"""A real engine in a process tree of its own, to be watched and killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hive import api
from hive.model import Event, Run, Task
from hive.store import TaskQuery

PATIENCE_S = 60.0


@dataclass
class Engine:
    """One `hive run` in a session of its own."""

    directory: Path
    process: subprocess.Popen[bytes]
    out: Path = field(init=False)

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def part(self, name: str) -> psutil.Process:
        """Return the living child of that name: hive-queen, hive-guardian, hive-shard-0, ..."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [one for one in self.supervisor.children() if one.name() == name]
            return bool(found)

        until(look, f"no process {name}")
        return found[0]

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the engine and return its exit code."""
        return self.process.wait(timeout_s)


@dataclass
class Project:
    """A directory with a queue."""

    directory: Path
    environ: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"sqlite:///{self.directory}/.hive/hive.db"

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def tasks(self, rows: Sequence[Mapping[str, Any]], name: str = "tasks.jsonl") -> Path:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def hive(self, *arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a hive command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "hive", *arguments],
            cwd=self.directory,
            env=dict(self.environ),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @contextlib.contextmanager
    def engine(self, *arguments: str) -> Iterator[Engine]:
        """Start `hive run` and make sure that nothing of it is left at the end."""
        with (self.directory / "engine.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hive", "run", *arguments],
                cwd=self.directory,
                env=dict(self.environ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Engine(self.directory, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def open(self) -> api.SyncHive:
        return api.open_sync(self.url)

    def all_tasks(self) -> list[Task]:
        with self.open() as hive:
            return hive.tasks(TaskQuery(limit=100_000))

    def all_runs(self) -> list[Run]:
        with self.open() as hive:
            return [run for task in hive.tasks(TaskQuery(limit=100_000)) for run in hive.runs(task.id)]

    def all_events(self) -> list[Event]:
        with self.open() as hive:
            return hive.past_events(0, 1_000_000)

    def carriers(self) -> list[int]:
        """Return the processes that carry a run of this queue's store."""
        with self.open() as hive:
            prefix = f"{hive.store_id}."
        return [pid for pid, mark in marks().items() if mark.startswith(prefix)]

    def log(self) -> str:
        return (self.directory / "engine.log").read_text(errors="replace")


def marks() -> dict[int, str]:
    """Return HIVE_RUN_ID of every living process that carries one."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get("HIVE_RUN_ID")
            if mark is not None and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = mark
    return found


def until(condition: Callable[[], object], complaint: str, patience_s: float = PATIENCE_S) -> float:
    """Wait until a condition holds; returns how long that took, in seconds."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > patience_s:
            raise AssertionError(complaint)
        time.sleep(0.02)
    return time.monotonic() - began_s
