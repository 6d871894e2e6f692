from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from hive.agent import proctable
from hive.agent.proctable import (
    ProcTable,
    PsutilTable,
    Table,
    boot_id,
    carriers,
    has_pidfds,
    start_ticks,
    stop_blocking,
    strays,
)
from hive.clock import SystemClock
from hive.model import ProcessRecord

CLOCK = SystemClock()


class Starter:
    """Starts shells in sessions of their own and reaps them at the end."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.children: list[subprocess.Popen[bytes]] = []

    def __call__(self, script: str, **env: str) -> ProcessRecord:
        """Start a shell script that prints a line once it is ready; wait for that line."""
        full = {"PATH": os.environ["PATH"], "HIVE_RUN_ID": self.mark, **env}
        child = subprocess.Popen(["sh", "-c", script], stdin=PIPE, stdout=PIPE, env=full, start_new_session=True)
        self.children.append(child)
        assert child.stdout is not None
        assert select.select([child.stdout], [], [], 20)[0]
        child.stdout.readline()
        return ProcessRecord(child.pid, start_ticks(child.pid) or 0, boot_id())


@pytest.fixture
def starter(mark: str) -> Iterator[Starter]:
    """Start processes with the test's mark."""
    starter = Starter(mark)
    yield starter
    for child in starter.children:
        child.kill()
        child.communicate()


def soon(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail after the deadline."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.fixture(params=[ProcTable, PsutilTable])
def table(request: pytest.FixtureRequest) -> Table:
    """Both ways to read the process table."""
    made: Table = request.param()
    return made


def test_both_tables_see_the_same(table: Table, starter: Starter) -> None:
    """Group, session and environment are read alike, and a start time does not change."""
    record = starter("echo ready; read line", HIVE_SHARD="h.0.x")
    row = table.row(record.pid)
    assert row is not None
    assert (row.group, row.session, row.alive) == (record.pid, record.pid, True)
    assert row == table.row(record.pid)
    assert record.pid in table.pids()
    assert f"HIVE_RUN_ID={starter.mark}".encode() in table.environ(record.pid).split(b"\0")
    assert table.boot_id() == table.boot_id() != ""


def test_names_with_parentheses_and_spaces_do_not_confuse(tmp_path: Path) -> None:
    """The start time counts from the last parenthesis of the line."""
    program = tmp_path / "a) S 1 (b c"
    shutil.copy("/bin/sleep", program)
    child = subprocess.Popen([program, "300"], start_new_session=True)
    row = ProcTable().row(child.pid)
    plain = ProcTable().row(os.getpid())
    child.kill()
    child.wait()
    assert row is not None
    assert plain is not None
    assert row.group == row.session == child.pid
    assert row.started >= plain.started > 0


def test_no_process_has_no_start_time(table: Table) -> None:
    """A number nobody has is told apart from a process."""
    child = subprocess.Popen(["true"])
    child.wait()
    assert start_ticks(child.pid) is None
    assert table.row(child.pid) is None
    assert table.environ(child.pid) == b""


def test_carriers_are_found_by_mark_or_shard_exactly(table: Table, starter: Starter) -> None:
    """A mark that merely begins alike is another run's."""
    record = starter("echo ready; read line", HIVE_SHARD="h.0.x")
    assert [c.row.pid for c in carriers([starter.mark], table=table)] == [record.pid]
    assert [(c.mark, c.shard) for c in carriers([], ["h.0.x"], table=table)] == [(starter.mark, "h.0.x")]
    assert carriers([starter.mark[:-1], starter.mark + "0"], ["h.0"], table=table) == []


def test_a_zombie_carries_nothing(starter: Starter) -> None:
    """What has ended and waits to be reaped needs no stopping."""
    record = starter("echo ready")
    soon(lambda: not (row := ProcTable().row(record.pid)) or not row.alive)
    assert carriers([starter.mark]) == []


def test_term_comes_first_and_its_grace_is_respected(starter: Starter, tmp_path: Path) -> None:
    """A process that tidies up within the grace is not killed."""
    done = tmp_path / "done"
    record = starter(f"trap 'sleep 0.2; touch {done}; exit' TERM; echo ready; while :; do sleep 0.05; done")
    began = time.monotonic()
    assert stop_blocking([record], [], grace_s=20.0, clock=CLOCK) == []
    assert done.exists()
    assert time.monotonic() - began < 15


def test_what_ignores_term_is_killed(starter: Starter) -> None:
    """After the grace the whole group ends, leader and child."""
    record = starter("trap '' TERM; (while :; do sleep 1; done) & echo ready; while :; do sleep 1; done")
    assert stop_blocking([record], [], grace_s=0.2, clock=CLOCK) == []
    assert starter.children[0].wait() == -signal.SIGKILL
    assert carriers([starter.mark]) == []


def test_psutil_table_stops_as_well(starter: Starter) -> None:
    """Machines without /proc stop groups and carriers by their own notion of time."""
    table = PsutilTable()
    record = starter("trap '' TERM; (setsid sleep 300 &); echo ready; while :; do sleep 1; done")
    row = table.row(record.pid)
    assert row is not None
    own = ProcessRecord(record.pid, row.started, table.boot_id())
    assert stop_blocking([own], [starter.mark], grace_s=0.2, clock=CLOCK, table=table) == []
    assert carriers([starter.mark]) == []


def test_members_of_a_dead_leader_are_stopped(starter: Starter) -> None:
    """A leader that is a zombie still proves whose group it is."""
    record = starter("trap '' TERM; (while :; do sleep 1; done) & echo ready")
    soon(lambda: not (row := ProcTable().row(record.pid)) or not row.alive)
    assert len(carriers([starter.mark])) >= 1
    assert stop_blocking([record], [], grace_s=0.1, clock=CLOCK) == []
    assert carriers([starter.mark]) == []


@pytest.mark.parametrize(("ticks", "boot"), [(1, ""), (0, "another-boot")])
def test_a_stranger_with_the_same_number_is_left_alone(starter: Starter, ticks: int, boot: str) -> None:
    """Another start time or another boot: the recorded process is gone."""
    record = starter("echo ready; read line")
    stale = ProcessRecord(record.pid, record.started + ticks, boot or record.boot_id)
    assert stop_blocking([stale], [], grace_s=0.0, clock=CLOCK) == []
    assert starter.children[0].poll() is None


def test_a_number_that_changed_hands_gets_no_signal(starter: Starter) -> None:
    """Between a look and a signal a process may have ended and its number be another's: the start time tells."""
    record = starter("echo ready; read line")
    row = ProcTable().row(record.pid)
    assert row is not None
    proctable._send_one(ProcTable(), replace(row, started=row.started + 1), signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        starter.children[0].wait(0.1)
    proctable._send_one(ProcTable(), row, signal.SIGKILL)
    assert starter.children[0].wait() == -signal.SIGKILL


def test_daemons_in_sessions_of_their_own_are_stopped_by_mark(starter: Starter) -> None:
    """Neither group nor session nor parent lead to them."""
    record = starter("trap '' TERM; setsid sh -c 'setsid sleep 300 & sleep 300' & sleep 0.1; echo ready; wait")
    assert len(carriers([starter.mark])) >= 3
    assert stop_blocking([record], [starter.mark], grace_s=0.1, clock=CLOCK) == []
    assert carriers([starter.mark]) == []


def test_a_shard_that_died_is_swept_by_its_name(starter: Starter) -> None:
    """A child that was started but never registered is found by its shard."""
    starter("echo ready; sleep 300", HIVE_SHARD="h.9.gone")
    assert stop_blocking([], [], ["h.9.gone"], grace_s=0.1, clock=CLOCK) == []
    assert carriers([starter.mark]) == []


def test_own_group_is_never_signalled() -> None:
    """A record that names this very process group stops nothing."""
    program = """
import os, sys
from hive.agent.proctable import boot_id, carriers, start_ticks, stop_blocking
from hive.clock import SystemClock
from hive.model import ProcessRecord
me = ProcessRecord(os.getpid(), start_ticks(os.getpid()), boot_id())
assert os.getpgrp() == os.getpid()
assert carriers(["own"]) == []
assert stop_blocking([me], ["own"], grace_s=0.0, clock=SystemClock()) == []
print("alive")
"""
    root = Path(__file__).parents[2]
    env = {"PATH": os.environ["PATH"], "HIVE_RUN_ID": "own"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        cwd=root,
        env=env,
        start_new_session=True,
        timeout=30,
    )
    assert done.stdout == b"alive\n", done.stderr.decode()


def test_this_kernel_has_process_descriptors_where_python_has() -> None:
    """On Linux 5.3 and later signals go through descriptors."""
    assert has_pidfds() == hasattr(os, "pidfd_open")


def test_strays_are_marks_of_one_store_without_a_living_shard(starter: Starter) -> None:
    """Only what carries a mark of this very store and belongs to no living shard is astray."""
    starter("echo; exec sleep 60", HIVE_SHARD="dead.0")
    prefix = f"{starter.mark[:-1]}"
    assert strays(prefix, ["alive.0"]) == {starter.mark}
    assert strays(prefix, ["dead.0"]) == set()
    assert strays("another-store.", []) & {starter.mark} == set()
