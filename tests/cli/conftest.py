"""A command line to type into, and queues to look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hive.api import SyncHive, drive, open_sync
from hive.cli.app import run
from hive.clock import Clock, SystemClock
from hive.lifecycle import Rules, advance
from hive.model import Errored, Evidence, NewTask, Outcome, RunId, Succeeded, TaskId, Usage
from hive.store import Cancel, Claimed, Finish, Limits, Store, open_store

ROOT = Path(__file__).resolve().parents[2]
RULES = Rules(now_ms=0, jitter=0.0, retries=2)  # back-offs are over at once
CLEAN = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "TERM": "xterm"}
HOSTILE = "evil \x1b[2J\x1b]0;owned\x07 \u202etitle \r\nsecond line\x00 \U0001f600" + "x" * 300


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command line ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """Return the one JSON document on stdout."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def lines(self) -> list[str]:
        """Return the lines of stdout."""
        return self.out.splitlines()


Cli = Callable[..., Answer]


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Type a command line as if standing in the test's directory."""

    def type_in(*words: object, environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Answer:
        capfd.readouterr()
        arguments = ["-C", str(directory or tmp_path), *map(str, words)]
        code = run(arguments, {**CLEAN, **(environ or {})})
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return type_in


def hive_process(
    *words: object, cwd: Path, environ: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start Hive as a process of its own, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "hive", *map(str, words)],
        cwd=cwd,
        env={**CLEAN, "PYTHONPATH": str(ROOT), **(environ or {})},
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def hive(*words: object, cwd: Path, stdin: str | None = None, environ: Mapping[str, str] | None = None) -> Answer:
    """Run Hive as a process of its own."""
    pipe = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    process = hive_process(*words, cwd=cwd, environ=environ, stdin=pipe)
    out, err = process.communicate(stdin, timeout=30)
    return Answer(process.returncode, out, err)


class Seed:
    """A queue under construction: tasks are added, claimed and ended as an engine would."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.path = directory / ".hive" / "hive.db"
        self.url = f"sqlite:///{self.path}"
        self._clock = clock

    def store(self) -> Store:
        """Open the store; for closing by the caller."""
        return drive(open_store(self.url, clock=self._clock, boot_id="test", inline=True))

    def add(self, *tasks: NewTask) -> list[TaskId]:
        """Queue tasks, whatever they ask for, and return their ids."""
        store = self.store()
        try:
            return [added.id for added in drive(store.add(tasks))]
        finally:
            drive(store.close())

    def claim(self) -> list[Claimed]:
        """Start every task that may start."""
        store = self.store()
        try:
            return drive(store.claim("host", {"shard": 10_000}, Limits(10_000)))
        finally:
            drive(store.close())

    def end(self, run_id: RunId, outcome: Outcome, rules: Rules = RULES) -> None:
        """End a run."""
        store = self.store()
        try:
            (assignment,) = drive(store.load([run_id]))
            step = advance(assignment.task, outcome, rules)
            assert drive(store.finish(run_id, step)) is Finish.COMMITTED
        finally:
            drive(store.close())

    def work(self, task_id: TaskId, *outcomes: Outcome) -> None:
        """Have one task claimed and ended, once for each outcome."""
        for outcome in outcomes:
            (claimed,) = [one for one in self.claim() if one.task_id == task_id]
            self.end(claimed.run_id, outcome)

    def place(self, task_id: TaskId, path: str, branch: str | None, base: str | None) -> None:
        """Note where a task works."""
        store = self.store()
        try:
            drive(store.workspace(task_id, path, branch, base))
        finally:
            drive(store.close())


def done(cost_usd: float = 0.25) -> Succeeded:
    """Return an ending with evidence."""
    usage = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=900, cost_usd=cost_usd, duration_s=192.0)
    return Succeeded(summary="did it", evidence=Evidence(commit="c" * 40), usage=usage, exit_code=0)


def failed(message: str = "boom", *, retryable: bool = False) -> Errored:
    """Return an ending with an error."""
    usage = Usage(cost_usd=0.5, duration_s=61.0)
    return Errored(code="exit", reason=message, retryable=retryable, exit_code=2, usage=usage)


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    """Return a queue to fill, where `cli` finds it."""
    return Seed(tmp_path, SystemClock())


@dataclass(frozen=True, slots=True)
class Zoo:
    """A queue with a task in every state that has one, by the state's name."""

    seed: Seed
    completed: TaskId
    failed: TaskId
    needs_you: TaskId
    cancelled: TaskId
    in_progress: TaskId
    blocked: TaskId
    queued: TaskId
    held: TaskId

    @property
    def all(self) -> Sequence[TaskId]:
        """Return every id."""
        return [
            self.completed, self.failed, self.needs_you, self.cancelled,
            self.in_progress, self.blocked, self.queued, self.held,
        ]  # fmt: skip


@pytest.fixture
def zoo(seed: Seed, zoo_directory: Path) -> Zoo:
    """Return a queue with eight tasks in as many situations; a copy of one that is made once."""
    shutil.copytree(zoo_directory / ".hive", seed.path.parent)
    return Zoo(seed, *map(TaskId, range(1, 9)))


@pytest.fixture(scope="session")
def zoo_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the zoo, its tasks in the order of its fields."""
    directory = tmp_path_factory.mktemp("zoo")
    seed = Seed(directory, SystemClock())
    (completed,) = seed.add(
        NewTask("convert utils", prompt="Replace os.path", key="utils", batch="pathlib", tags=("api",))
    )
    seed.work(completed, done())
    seed.place(completed, "/tmp/w", "hive/1-convert-utils", "b" * 40)
    (broken,) = seed.add(NewTask("convert ftp", prompt="Replace os.path", key="ftp", batch="pathlib"))
    seed.work(broken, failed("No module named 'attrs'"))
    (stuck,) = seed.add(NewTask("convert upload", prompt="p", key="upload"))
    seed.work(stuck, failed("same thing", retryable=True), failed("same thing", retryable=True))
    (gone,) = seed.add(NewTask("drop me", prompt="p"))
    with open_sync(seed.url) as queue:
        queue.control(Cancel((gone,)))
    (running,) = seed.add(NewTask("at work", prompt="p", key="work"))
    seed.claim()
    waiting, queued, held = seed.add(
        NewTask("after work", prompt="p", key="later", after=("work",)),
        NewTask(HOSTILE, prompt=HOSTILE, key="hostile"),
        NewTask("kept back", prompt="p", hold=True, priority=3),
    )
    assert [completed, broken, stuck, gone, running, waiting, queued, held] == list(range(1, 9))
    return directory


@pytest.fixture
def queue(zoo: Zoo) -> Iterator[SyncHive]:
    """Return the zoo's queue, open."""
    with open_sync(zoo.seed.url) as opened:
        yield opened


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Return a git repository with one commit, where `cli` stands."""
    commands = [
        ["init", "-q", "-b", "main"],
        ["-c", "user.name=T", "-c", "user.email=t@example.invalid", "commit", "-q", "--allow-empty", "-m", "start"],
    ]
    for command in commands:
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env={**CLEAN, "HOME": str(tmp_path)})
    return tmp_path
