"""What the kernel says about processes, and how to stop some of them for good.

Everything blocks; call it from a thread. Knows processes by exact start time, by group and by the marks in their
environment, never by name, and never touches this process or its group.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

from hive.clock import Clock
from hive.model import ProcessRecord

_POLL_S = 0.02
_TERM_LEAST_S = 0.5  # what found by its mark late in the grace still gets, if the grace is that long
_KILL_WAIT_S = 5.0  # longest wait for killed processes; one can hang in the kernel (a dead network disk)


@dataclass(frozen=True, slots=True)
class Row:
    """One process. `started` as in `ProcessRecord`; `alive` is False for a zombie."""

    pid: int
    started: int
    group: int
    session: int
    alive: bool


@dataclass(frozen=True, slots=True)
class Carrier:
    """A live process whose environment carries a mark (``HIVE_RUN_ID``) or the name of a shard (``HIVE_SHARD``)."""

    row: Row
    mark: str
    shard: str


_Find: TypeAlias = Callable[[], list[Row]]
_Send: TypeAlias = Callable[[Sequence[Row], signal.Signals], None]


class Table(Protocol):
    """The process table of one kind of machine."""

    def boot_id(self) -> str:
        """Return the identity of this boot."""
        ...

    def pids(self) -> list[int]:
        """Return all process ids that can be seen."""
        ...

    def row(self, pid: int) -> Row | None:
        """Return one process, or None when there is none."""
        ...

    def environ(self, pid: int) -> bytes:
        """Return the environment a process of our own user started with, NUL between entries; else nothing."""
        ...


def boot_id() -> str:
    """Return the identity of this boot of this machine."""
    return this_machine().boot_id()


def start_ticks(pid: int) -> int | None:
    """Return when a process started, comparable only on the same boot; None when there is no such process."""
    row = this_machine().row(pid)
    return row.started if row else None


def carriers(marks: Collection[str], shards: Collection[str] = (), table: Table | None = None) -> list[Carrier]:
    """Return live processes of this user, other than this one, that carry one of the marks or one of the shards."""
    table = table or this_machine()
    wanted_marks, wanted_shards = frozenset(marks), frozenset(shards)
    found = (_carrier(table, pid) for pid in table.pids())
    return [c for c in found if c and (c.mark in wanted_marks or c.shard in wanted_shards)]


def strays(prefix: str, living: Collection[str], table: Table | None = None) -> set[str]:
    """Return the marks that begin with `prefix` and are carried by processes of no living shard.

    Args:
        prefix: A store's name and a dot: marks of other stores are other engines' business.
        living: Values of ``HIVE_SHARD`` whose processes are looked after.
    """
    table = table or this_machine()
    found = (_carrier(table, pid) for pid in table.pids())
    return {c.mark for c in found if c and c.mark.startswith(prefix) and c.shard not in living}


def stop_blocking(
    records: Sequence[ProcessRecord],
    marks: Collection[str],
    shards: Collection[str] = (),
    *,
    grace_s: float,
    clock: Clock,
    table: Table | None = None,
) -> list[int]:
    """Stop groups and whatever carries the marks: TERM, up to `grace_s` to end, KILL, until none is left.

    Groups come first, so that an agent can end its own tools; then carriers, within what is left of the grace. A group
    is touched only while its leader, or the leader's zombie, has the start time and boot of its record: what outlived
    its leader is found by its mark.

    Args:
        records: Leaders of process groups.
        marks: Values of ``HIVE_RUN_ID``; empty ones are ignored.
        shards: Values of ``HIVE_SHARD``; empty ones are ignored.
        grace_s: Between TERM and KILL, for all of them together.
        clock: Must move by itself.
        table: The process table; None: this machine's.

    Returns:
        Process ids that would not die within 5 s of being killed, or that belong to another user by now.
    """
    table = table or this_machine()
    ends_s = clock.monotonic_s() + grace_s
    boot = table.boot_id() if records else ""
    groups = _Groups(table, [r for r in records if r.boot_id == boot and r.pid != os.getpgrp()])
    survivors = _stop(groups.find, groups.send, ends_s, clock, table)
    wanted = ({m for m in marks if m}, {s for s in shards if s})
    if any(wanted):
        ends_s = max(ends_s, clock.monotonic_s() + min(grace_s, _TERM_LEAST_S))
        survivors += _stop(lambda: _carrying(table, *wanted), partial(_send, table), ends_s, clock, table)
    return sorted({row.pid for row in survivors})


def _carrier(table: Table, pid: int) -> Carrier | None:
    environ = table.environ(pid)
    if b"HIVE_" not in environ:  # most processes: no need to take the environment apart
        return None
    entries = [entry.partition(b"=") for entry in environ.split(b"\0")]
    mark = next((os.fsdecode(value) for name, _, value in entries if name == b"HIVE_RUN_ID"), "")
    shard = next((os.fsdecode(value) for name, _, value in entries if name == b"HIVE_SHARD"), "")
    row = table.row(pid) if mark or shard else None
    return Carrier(row, mark, shard) if row and row.alive and row.group != os.getpgrp() else None


class _Groups:
    """The groups and sessions of some leaders, for as long as their numbers are held by processes known to be theirs.

    A number is free again once leader and members are all gone, and could then belong to a stranger.
    """

    def __init__(self, table: Table, records: Sequence[ProcessRecord]) -> None:
        self._table = table
        self._known = {record.pid: {(record.pid, record.started)} for record in records}

    def find(self) -> list[Row]:
        """Return who is alive in them."""
        if not self._known:
            return []
        rows = [row for pid in self._table.pids() if (row := self._table.row(pid)) is not None]
        found: list[Row] = []
        for number, known in self._known.items():
            members = [row for row in rows if number in (row.group, row.session)]
            if any((row.pid, row.started) in known for row in members):
                known.update((row.pid, row.started) for row in members)
                found += [row for row in members if row.alive]
        return found

    def send(self, rows: Sequence[Row], signum: signal.Signals) -> None:
        """Signal whole groups at once, or a member could fork a new one between two signals; then the others."""
        for group in self._known.keys() & {row.group for row in rows}:
            with suppress(ProcessLookupError, PermissionError):  # gone, or another user's: the next look tells
                os.killpg(group, signum)
        _send(self._table, [row for row in rows if row.group not in self._known], signum)


def _carrying(table: Table, marks: Collection[str], shards: Collection[str]) -> list[Row]:
    """Return who carries them; says nobody only after two looks.

    One look can miss the child of a process that ends meanwhile, and a process in the middle of exec, whose environment
    is empty for a moment.
    """
    found = carriers(marks, shards, table)
    if not found:
        _pause()
        found = carriers(marks, shards, table)
    return [carrier.row for carrier in found]


def _stop(find: _Find, send: _Send, ends_s: float, clock: Clock, table: Table) -> list[Row]:
    rows = _term_until(find, send, ends_s, clock, table)
    ends_s = clock.monotonic_s() + _KILL_WAIT_S
    while rows and clock.monotonic_s() < ends_s:
        send(rows, signal.SIGKILL)
        _pause()
        rows = find()
    return rows


def _term_until(find: _Find, send: _Send, ends_s: float, clock: Clock, table: Table) -> list[Row]:
    """Send TERM to whatever is found, once each, and return what is left at the end of the grace."""
    told: set[Row] = set()
    while (rows := find()) and clock.monotonic_s() < ends_s:
        send([row for row in rows if row not in told], signal.SIGTERM)
        told.update(rows)
        while _any_alive(rows, table) and clock.monotonic_s() < ends_s:
            _pause()
    return rows


def _pause() -> None:
    time.sleep(_POLL_S)  # in a thread, for processes that are not its children: nothing would wake it


def _any_alive(rows: Iterable[Row], table: Table) -> bool:
    return any((now := table.row(row.pid)) and now.alive and now.started == row.started for row in rows)


def _send(table: Table, rows: Sequence[Row], signum: signal.Signals) -> None:
    for row in rows:
        with suppress(ProcessLookupError, PermissionError):  # gone, or another user's: the next look tells
            _send_one(table, row, signum)


def _send_one(table: Table, row: Row, signum: signal.Signals) -> None:
    """Signal exactly this process: hold its number by a descriptor, then compare the start time."""
    if not has_pidfds():
        if _any_alive([row], table):
            os.kill(row.pid, signum)
        return
    fd = os.pidfd_open(row.pid)
    try:
        if _any_alive([row], table):
            signal.pidfd_send_signal(fd, signum)
    finally:
        os.close(fd)


def has_pidfds() -> bool:
    """Return whether the kernel and Python know process descriptors (Linux 5.3)."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def this_machine() -> Table:
    """Return the table that fits this machine."""
    return ProcTable() if Path("/proc/self/stat").exists() else PsutilTable()


class ProcTable:
    """Linux: the files under /proc. Source: proc_pid_stat(5)."""

    def boot_id(self) -> str:
        """Return the identity of this boot."""
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def pids(self) -> list[int]:
        """Return all process ids."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]

    def row(self, pid: int) -> Row | None:
        """Return one process, or None when there is none."""
        try:
            line = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name stands in parentheses and may hold spaces and parentheses itself: everything counts from the last.
        fields = line[line.rindex(b")") + 2 :].split()
        alive = fields[0] not in (b"Z", b"X", b"x")
        return Row(pid, started=int(fields[19]), group=int(fields[2]), session=int(fields[3]), alive=alive)

    def environ(self, pid: int) -> bytes:
        """Return the environment a process started with."""
        path = Path(f"/proc/{pid}/environ")
        try:
            return path.read_bytes() if path.stat().st_uid == os.getuid() else b""
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return b""


class PsutilTable:
    """Machines without /proc (macOS). `started` is in milliseconds since 1970 there."""

    def boot_id(self) -> str:
        """Return the identity of this boot."""
        import psutil

        return f"boot-{psutil.boot_time():.0f}"

    def pids(self) -> list[int]:
        """Return all process ids."""
        import psutil

        return psutil.pids()

    def row(self, pid: int) -> Row | None:
        """Return one process, or None when there is none."""
        import psutil

        try:
            process = psutil.Process(pid)
            started = round(process.create_time() * 1000)
            alive = process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return Row(pid, started, os.getpgid(pid), os.getsid(pid), alive)
        except psutil.ZombieProcess:
            return None  # macOS tells nothing more of one
        except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError):
            return None

    def environ(self, pid: int) -> bytes:
        """Return the environment a process started with."""
        import psutil

        try:
            process = psutil.Process(pid)
            if process.uids().real != os.getuid():
                return b""
            return b"\0".join(os.fsencode(f"{name}={value}") for name, value in process.environ().items())
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            return b""
