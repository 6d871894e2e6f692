from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest

from hive import api
from hive.model import NewTask, Reason, State, Task
from hive.store import Steer, TaskQuery
from hive.supervisor import flap_delay_s
from tests.conftest import ROOT
from tests.rig import alive, command, settings_for, until_blocking

ENGINE = """
import json, os, signal, sys, time
from dataclasses import asdict
from pathlib import Path
from hive import supervisor
from hive.config import Settings
from hive.lock import EngineLock

given = json.loads(sys.argv[1])
given["settings"]["directory"] = Path(given["settings"]["directory"])

def watch():
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    Path(given["watched"]).write_text("watching")
    while not told:
        time.sleep(0.01)
    Path(given["watched"]).write_text("watched to the end")

ending = supervisor.run(
    Settings(**given["settings"]),
    host="here",
    shards=given["shards"],
    agents=given["agents"],
    lock=EngineLock(Path(given["lock"])),
    watcher=watch if given["watched"] else None,
)
print(json.dumps(asdict(ending)), flush=True)
"""
STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 1; done")


class Engine:
    """A supervisor in a process of its own with its children, on a queue of the test's own."""

    def __init__(self, directory: Path, tasks: Sequence[NewTask], **changes: Any) -> None:
        self.directory = directory
        self.settings = settings_for(directory, **{"beat_s": 0.05, **changes})
        self.out, self.err = directory / "engine.out", directory / "engine.err"
        self.temporary = directory / "t"
        self.temporary.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes]
        with self.open() as hive:
            self.ids = [added.id for added in hive.add(tasks)]

    def start(self, *, shards: int = 1, agents: int = 4, watched: str = "") -> None:
        names = ("repo", "directory", "db", "agent", "grace_s", "drain_s", "backoff_base_s", "backoff_cap_s", "beat_s")
        values = {name: getattr(self.settings, name) for name in names}
        values["environ"] = dict(self.settings.environ)
        lock = str(self.directory / "lock")
        given = {"settings": values, "shards": shards, "agents": agents, "watched": watched, "lock": lock}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ENGINE, json.dumps(given, default=str)],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def open(self) -> api.SyncHive:
        return api.open_sync(self.settings.db)

    def tasks(self) -> list[Task]:
        with self.open() as hive:
            return hive.tasks(TaskQuery(ids=tuple(self.ids)))

    def outcomes(self) -> list[str | None]:
        with self.open() as hive:
            return [run.outcome for task_id in self.ids for run in hive.runs(task_id)]

    def agents(self) -> list[int]:
        """Return the process ids of running agents, as their runs name them."""
        with self.open() as hive:
            runs = [run for task_id in self.ids for run in hive.runs(task_id) if run.ended_at_ms is None]
        return [run.process.pid for run in runs if run.process is not None]

    def await_agents(self, count: int) -> list[int]:
        until_blocking(lambda: len(self.agents()) == count, f"no {count} agents: {self.err.read_text()}")
        return self.agents()

    def part(self, name: str) -> int:
        """Return the process id of a living child of the supervisor; wait for it."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [pid for pid in _children(self.process.pid) if _name(pid) == name and alive(pid)]
            return bool(found)

        until_blocking(look, f"there is no {name}: {self.err.read_text()}")
        return found[0]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> dict[str, Any]:
        """Wait for the end and return the ending."""
        assert self.process.wait(20) == 0, self.err.read_text()
        ending = json.loads(self.out.read_text())
        assert isinstance(ending, dict)
        return ending

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def engine(
    directory: Path, *tasks: NewTask, shards: int = 1, agents: int = 4, watched: str = "", **changes: Any
) -> Iterator[Engine]:
    found = Engine(directory, tasks, **changes)
    found.start(shards=shards, agents=agents, watched=watched)
    try:
        yield found
    finally:
        found.kill()


# --- the ordinary end


def test_the_engine_ends_when_nothing_is_left(tmp_path: Path) -> None:
    """With all tasks completed every process ends by itself, and nothing but the queue remains."""
    with engine(tmp_path, command("true"), command("true"), shards=2) as here:
        assert here.end() == {"signal": None, "gave_up": "", "stopped": False}
        assert [task.state for task in here.tasks()] == [State.COMPLETED] * 2
        assert here.err.read_text() == ""
        assert list(here.temporary.iterdir()) == []


def test_the_watcher_lives_as_long_as_the_work(tmp_path: Path) -> None:
    """What prints progress runs beside the engine and is told when it is over, so that it can print the last lines."""
    note = tmp_path / "note"
    with engine(tmp_path, command("sh", "-c", f"until [ -e {note} ]; do sleep 0.01; done"), watched=str(note)) as here:
        here.end()
        assert note.read_text() == "watched to the end"


# --- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(tmp_path: Path, number: int) -> None:
    """Running work is finished, nothing new starts, and the ending names the signal."""
    go = tmp_path / "go"
    tasks = [command("sh", "-c", f"until [ -e {go} ]; do sleep 0.01; done") for _ in range(3)]
    with engine(tmp_path, *tasks, agents=1) as here:
        here.await_agents(1)
        here.signal(number)
        until_blocking(lambda: "draining" in here.err.read_text())
        go.touch()
        assert here.end()["signal"] == number
        assert [task.state for task in here.tasks()] == [State.COMPLETED, State.QUEUED, State.QUEUED]
        assert [task.runs for task in here.tasks()] == [1, 0, 0]


def test_the_second_signal_interrupts(tmp_path: Path) -> None:
    """Agents are stopped at once and their tasks are queued again without a spent attempt."""
    with engine(tmp_path, command("sleep", "300"), command("sleep", "300"), shards=2, drain_s=1000.0) as here:
        agents = here.await_agents(2)
        here.signal(signal.SIGINT)
        until_blocking(lambda: "draining" in here.err.read_text())
        here.signal(signal.SIGINT)
        assert here.end()["signal"] == signal.SIGINT
        assert not any(alive(pid) for pid in agents)
        assert {task.state for task in here.tasks()} == {State.QUEUED}


def test_a_third_signal_kills(tmp_path: Path) -> None:
    """Shards die at once; the guardian stops agents that ignore TERM; runs are left to the next start."""
    with engine(tmp_path, command(*STUBBORN), drain_s=1000.0, grace_s=1.0) as here:
        [agent] = here.await_agents(1)
        for said in ("draining", "interrupting", "killed"):
            here.signal(signal.SIGINT)
            until_blocking(lambda said=said: said in here.err.read_text())  # type: ignore[misc]
        assert here.end()["signal"] == signal.SIGINT
        assert not alive(agent)
        assert here.tasks()[0].state in {State.IN_PROGRESS, State.QUEUED}


def test_a_drain_that_takes_too_long_becomes_an_interrupt(tmp_path: Path) -> None:
    """After the drain time agents are stopped without a second signal."""
    with engine(tmp_path, command("sleep", "300"), drain_s=0.2) as here:
        here.await_agents(1)
        here.signal(signal.SIGTERM)
        assert here.end()["signal"] == signal.SIGTERM
        assert here.tasks()[0].reason is Reason.INTERRUPTED


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.02, 0.05])
def test_a_signal_during_the_start_is_not_lost(tmp_path: Path, delay_s: float) -> None:
    """A signal that comes while children are being forked reaches them, however young they are."""
    with engine(tmp_path, command("sleep", "300"), drain_s=0.1, shards=4) as here:
        until_blocking(lambda: _children(here.process.pid))
        with suppress(subprocess.TimeoutExpired):
            here.process.wait(delay_s)
        here.signal(signal.SIGTERM)
        assert here.end()["signal"] == signal.SIGTERM


def test_a_person_stops_the_engine_through_the_queue(tmp_path: Path) -> None:
    """`stop now` ends the engine as stopped, without a signal, and interrupts what runs."""
    with engine(tmp_path, command("sleep", "300"), drain_s=1000.0) as here:
        here.await_agents(1)
        with here.open() as hive:
            hive.control(Steer(stop="now"))
        assert here.end() == {"signal": None, "gave_up": "", "stopped": True}
        assert here.tasks()[0].reason is Reason.INTERRUPTED


# --- deaths


@pytest.mark.parametrize("victim", ["hive-shard-0", "hive-queen", "hive-guardian"])
def test_who_is_killed_is_replaced(tmp_path: Path, victim: str) -> None:
    """Any child that is killed is started again, work goes on, and people are told of what it died."""
    go = tmp_path / "go"
    with engine(tmp_path, command("sh", "-c", f"until [ -e {go} ]; do sleep 0.01; done")) as here:
        [agent] = here.await_agents(1)
        dead = here.part(victim)
        os.kill(dead, signal.SIGKILL)
        until_blocking(lambda: here.part(victim) != dead)
        if victim == "hive-shard-0":
            until_blocking(lambda: not alive(agent), "the agent of a dead shard was not stopped")
        go.touch()
        assert here.end()["gave_up"] == ""
        assert here.tasks()[0].state is State.COMPLETED
        assert here.outcomes() == (["lost", "succeeded"] if victim == "hive-shard-0" else ["succeeded"])
        who = {"hive-shard-0": "shard 0", "hive-queen": "the queen", "hive-guardian": "the guardian"}[victim]
        assert f"hive: {who} died (signal 9); starting it again\n" in here.err.read_text()


def test_a_new_guardian_knows_the_agents_there_are(tmp_path: Path) -> None:
    """A replaced guardian hears of agents before the next renewal: a kill of everybody else takes them along."""
    with engine(tmp_path, command(*STUBBORN), grace_s=0.2) as here:
        [agent] = here.await_agents(1)
        dead = here.part("hive-guardian")
        os.kill(dead, signal.SIGKILL)
        until_blocking(lambda: here.part("hive-guardian") != dead)
        until_blocking(lambda: len(_held(here.part("hive-guardian"))) == 3, "the shard did not connect again", 8.0)
        for pid in (here.process.pid, here.part("hive-queen"), here.part("hive-shard-0")):
            os.kill(pid, signal.SIGKILL)
        until_blocking(lambda: not alive(agent))


def test_an_engine_whose_parts_keep_dying_gives_up(tmp_path: Path) -> None:
    """After ten deaths within the window the engine ends and says who died last and of what."""
    with engine(tmp_path, command("sleep", "300")) as here:
        dead = 0
        while here.process.poll() is None:
            queens = [pid for pid in _children(here.process.pid) if _name(pid) == "hive-queen" and pid != dead]
            if queens:
                [dead] = queens
                with suppress(ProcessLookupError):
                    os.kill(dead, signal.SIGKILL)
        ending = here.end()
        assert re.fullmatch(r"10 processes died within 30 s, last the queen \(signal 9\)", ending["gave_up"])
        assert here.err.read_text().endswith("the queen died (signal 9); giving up\n")
        assert here.tasks()[0].state is State.QUEUED


def test_a_single_process_that_dies_at_once_reaches_the_end_within_the_window() -> None:
    """The waits before restarts are so short that flapping is recognised, and the first three cost none."""
    waits = [flap_delay_s(deaths) for deaths in range(1, 10)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert waits == sorted(waits)
    assert sum(waits) + 9 * 1.0 < 30.0


def test_without_their_supervisor_all_end(tmp_path: Path) -> None:
    """A kill -9 of the supervisor makes shards stop their agents, give back their runs and end, and so all others."""
    with engine(tmp_path, command("sleep", "300"), command("sleep", "300"), shards=2) as here:
        agents = here.await_agents(2)
        parts = [here.part(name) for name in ("hive-shard-0", "hive-shard-1", "hive-queen", "hive-guardian")]
        here.process.kill()
        until_blocking(lambda: not any(alive(pid) for pid in [*agents, *parts]))
        assert {task.state for task in here.tasks()} == {State.QUEUED}


def test_orphans_are_reaped(tmp_path: Path) -> None:
    """What agents leave behind becomes the supervisor's child and is collected when it ends: no zombie stays."""
    parent = tmp_path / "parent"
    daemon = f"setsid sh -c 'sleep 0.2; read -r stat < /proc/$$/stat; set -- $stat; echo $4 > {parent}' & sleep 0.1"
    go = tmp_path / "go"
    tasks = [command("sh", "-c", daemon) for _ in range(5)]
    waiting = command("sh", "-c", f"until [ -e {go} ]; do sleep 0.01; done")
    with engine(tmp_path, *tasks, waiting) as here:
        until_blocking(lambda: [task.state for task in here.tasks()].count(State.COMPLETED) == 5)
        expected = {"hive-guardian", "hive-queen", "hive-shard-0"}
        until_blocking(lambda: {_name(pid) for pid in _children(here.process.pid)} == expected)
        until_blocking(lambda: all(alive(pid) for pid in _children(here.process.pid)), "a zombie stays")
        assert parent.read_text() == f"{here.process.pid}\n"
        go.touch()
        here.end()


# --- descriptors


def test_every_child_holds_only_what_it_was_given(tmp_path: Path) -> None:
    """No end of a pipe is in a process it does not belong to: else an end of file would never come."""
    with engine(tmp_path, command("sleep", "300"), command("sleep", "300"), shards=2, agents=2) as here:
        agents = here.await_agents(2)
        top, guardian, queen = here.process.pid, here.part("hive-guardian"), here.part("hive-queen")
        shards = [here.part("hive-shard-0"), here.part("hive-shard-1")]
        held = {pid: _held(pid) for pid in [top, guardian, queen, *shards, *agents]}
        [lifeline] = held[top] & held[shards[0]]
        assert _writers(lifeline, held) == {top}
        [listener] = (held[top] & held[guardian]) - {lifeline}
        ours_with_queen = (held[top] & held[queen]) - {lifeline}
        assert len(ours_with_queen) == 1 + len(shards)  # what she says, and her end of each shard's pipe
        alike = {
            frozenset({top, guardian}): {lifeline, listener},
            frozenset({top, queen}): {lifeline, *ours_with_queen},
        }
        for pair in combinations(held, 2):
            expected = set() if set(pair) & set(agents) else {lifeline}
            assert held[pair[0]] & held[pair[1]] == alike.get(frozenset(pair), expected), pair
        for agent in agents:
            assert sorted(_links(agent)) == ["0", "1", "2"]
        for pid in (guardian, queen, *shards):
            assert str(tmp_path / "lock") in _files(pid)
        assert not [path for path in _files(guardian) if ".hive" in path]
        here.signal(signal.SIGTERM)
        here.signal(signal.SIGTERM)


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _links(pid: int) -> dict[str, str]:
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    return found


def _held(pid: int) -> set[str]:
    """Return the pipes and sockets a process holds, by inode."""
    return {link for link in _links(pid).values() if link.startswith(("pipe:", "socket:"))}


def _files(pid: int) -> list[str]:
    return [link for link in _links(pid).values() if link.startswith("/")]


def _writers(pipe: str, held: dict[int, set[str]]) -> set[int]:
    """Return who could write to a pipe. Source: proc_pid_fdinfo(5)."""
    found = set()
    for pid in held:
        for number, link in _links(pid).items():
            flags = re.search(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{number}").read_text())
            if link == pipe and flags and int(flags[1], 8) & (os.O_WRONLY | os.O_RDWR):
                found.add(pid)
    return found
