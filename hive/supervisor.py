"""The process that keeps the others alive: fork, reap, restart with back-off, signals.

It has one thread, no event loop and no database, so that it may fork at any time. It knows nothing of tasks: the
queen says when nothing is left. Signal handlers only record; the loop decides.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import selectors
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from hive import bus, guardian, queen, shard
from hive.channel import Channel
from hive.clock import Clock, SystemClock
from hive.config import Settings
from hive.ending import Ending, meaning
from hive.forked import become_subreaper, fork, raise_descriptor_limit
from hive.lock import EngineLock

_FLAP_WINDOW_S = 30.0
_FLAP_FREE = 3  # so many deaths within the window are restarted at once
_FLAP_MOST = 10
_LONGEST_TMPDIR = 80
_FLAP_DELAY_S = 2.0  # longest wait; so short that one process which dies at once reaches `_FLAP_MOST` in the window
# To shards, by severity: drain, interrupt, kill. Three kinds, because two pending signals of one kind are only one.
_ORDERS = {1: signal.SIGTERM, 2: signal.SIGUSR2, 3: signal.SIGKILL}
_QUEEN_PATIENCE_S = 2.0
_GUARDIAN_PATIENCE_S = 10.0
_WATCHER_PATIENCE_S = 10.0


# What every child needs: imported once here, shared by all. Modules only: no loop, thread or connection is made.
_PRELOADED = ("uvloop", "hive.store.sqlite_library", "aiosqlite", "hive.store.sqlite_threaded", "hive.agent.command")


@dataclass(slots=True)
class _Seat:
    """The place of one shard: its present incarnation, if it lives."""

    index: int
    pid: int = 0
    name: str = ""
    queen_end: Connection | None = None
    restart_at_s: float = 0.0


@dataclass(slots=True)
class _Pids:
    """Who else is alive; 0 means nobody."""

    queen: int = 0
    guardian: int = 0
    watcher: int = 0


@dataclass(slots=True)
class _Intent:
    """What the loop is about to do; grows more severe, never less."""

    ending: bool = False
    severity: int = 0  # 1 drain, 2 interrupt, 3 kill
    ended_by: int | None = None
    gave_up: str = ""
    stopped: bool = False


def run(
    settings: Settings, *, host: str, shards: int, agents: int, lock: EngineLock, watcher: Callable[[], None] | None
) -> Ending:
    """Work the queue until nothing is left, a person stops it, or it cannot go on.

    Args:
        shards: Number of shard processes; >= 1.
        agents: Most runs at once over all shards.
        lock: Held; every process of the engine keeps it until it ends.
        watcher: Runs in a process of its own beside the engine, until SIGTERM; prints progress.

    Must be called from a process with one thread and no open store.
    """
    return Supervisor(settings, host=host, shards=shards, agents=agents, lock=lock, watcher=watcher).run()


class Supervisor:
    """The loop behind `run`."""

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        shards: int,
        agents: int,
        lock: EngineLock,
        watcher: Callable[[], None] | None,
    ) -> None:
        self._settings = settings
        self._host = host
        self._agents = agents
        self._lock = lock
        self._watcher = watcher
        self._clock: Clock = SystemClock()
        self._seats = [_Seat(index) for index in range(shards)]
        self._pids = _Pids()
        self._intent = _Intent()
        self._deaths: list[float] = []
        self._queen_stale_since_s: float | None = None
        self._queen_at_s = self._guardian_at_s = float("-inf")  # not to be started before
        self._ending_since_s = 0.0
        self._told = 0  # the hardest order the shards have heard
        self._recorded: list[int] = []
        self._selector = selectors.DefaultSelector()

    def run(self) -> Ending:
        """Start everything, supervise, end everything."""
        self._prepare()
        try:
            self._fork_guardian()
            if self._watcher is not None:
                self._pids.watcher = fork("watcher", set(), self._watcher)
            while self._alive():
                self._maintain()
                self._wait()
                self._reap()
                self._obey()
        finally:
            self._clean_up()
        return Ending(self._intent.ended_by, self._intent.gave_up, self._intent.stopped)

    # --- before the first fork

    def _prepare(self) -> None:
        become_subreaper()
        raise_descriptor_limit()
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._queen_read, self._queen_write = os.pipe()
        os.set_blocking(self._queen_read, False)
        # A socket's path has at most 104 characters (macOS); a deep TMPDIR would leave no room.
        deep = len(tempfile.gettempdir()) > _LONGEST_TMPDIR
        self._directory = Path(tempfile.mkdtemp(prefix="hive-", dir="/tmp" if deep else None))  # noqa: S108 - 0700
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._directory / "guardian"))
        self._listener.listen(64)
        self._catch_signals()
        self._selector.register(self._queen_read, selectors.EVENT_READ)
        for name in _PRELOADED:
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
        # Children share these pages for good: a collector run in a child would copy them.
        gc.collect()
        gc.freeze()

    def _catch_signals(self) -> None:
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        self._wake = wake_read, wake_write
        self._selector.register(wake_read, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, lambda caught, _: self._recorded.append(caught))

    # --- forking

    def _fork_guardian(self) -> None:
        keep = {self._listener.fileno(), self._lifeline_read, self._lock.fileno()}
        self._pids.guardian = fork(
            "guardian",
            keep,
            lambda: guardian.main(self._listener, self._lifeline_read, self._directory, grace_s=self._settings.grace_s),
        )

    def _fork_shard(self, seat: _Seat) -> None:
        seat.queen_end, shard_end = Pipe()
        seat.name = f"{self._host}.{seat.index}.{uuid.uuid4().hex[:8]}"
        seat.pid = fork(
            f"shard-{seat.index}",
            {shard_end.fileno(), self._lifeline_read, self._lock.fileno()},
            lambda: shard.main(
                self._settings,
                seat.name,
                self._host,
                seat.index,
                pipe=Channel(shard_end),
                lifeline=self._lifeline_read,
                guardian=self._directory / "guardian",
            ),
        )
        shard_end.close()

    def _fork_queen(self) -> None:
        ends = {seat.name: seat.queen_end for seat in self._seats if seat.pid and seat.queen_end is not None}
        keep = {end.fileno() for end in ends.values()}
        self._queen_stale_since_s = None
        self._pids.queen = fork(
            "queen",
            {*keep, self._queen_write, self._lifeline_read, self._lock.fileno()},
            lambda: queen.main(
                self._settings,
                self._host,
                self._agents,
                shards={name: Channel(end) for name, end in ends.items()},
                up=self._queen_write,
                lifeline=self._lifeline_read,
            ),
        )

    # --- supervising

    def _alive(self) -> bool:
        if self._intent.ending:
            return any(seat.pid for seat in self._seats) or bool(self._pids.queen)
        return True

    def _maintain(self) -> None:
        """Fill empty seats, and give the queen the pipes of those who sit there now."""
        if self._intent.ending:
            self._press()
            return
        now_s = self._clock.monotonic_s()
        if not self._pids.guardian and now_s >= self._guardian_at_s:
            self._fork_guardian()
            self._signal_shards(signal.SIGUSR1)
        for seat in self._seats:
            if not seat.pid and now_s >= seat.restart_at_s:
                self._fork_shard(seat)
                self._stale()
        if self._pids.queen and self._queen_stale_since_s is not None:
            patient = now_s - self._queen_stale_since_s < _QUEEN_PATIENCE_S
            os.kill(self._pids.queen, signal.SIGTERM if patient else signal.SIGKILL)
        if not self._pids.queen and now_s >= self._queen_at_s and any(seat.pid for seat in self._seats):
            self._fork_queen()

    def _stale(self) -> None:
        if self._queen_stale_since_s is None:
            self._queen_stale_since_s = self._clock.monotonic_s()

    def _wait(self) -> None:
        for key, _ in self._selector.select(timeout=0.1 if self._is_busy() else None):
            if key.fileobj is self._wake[0]:
                self._wake[0].recv(4096)
            else:
                self._hear_queen()

    def _is_busy(self) -> bool:
        """Return whether something is due that no descriptor will tell."""
        if self._intent.ending:
            return self._told < self._intent.severity
        everybody = self._pids.queen and self._pids.guardian and all(seat.pid for seat in self._seats)
        return self._queen_stale_since_s is not None or not everybody

    def _hear_queen(self) -> None:
        for word in os.read(self._queen_read, 4096).decode().split():
            if word == "done":
                self._end(1)
            elif word in {"drain", "now"}:
                self._intent.stopped = True
                self._end(1 if word == "drain" else 2)
            else:
                self._kill_silent(word.removeprefix("silent:"))

    def _kill_silent(self, name: str) -> None:
        """Kill a shard whose lease ran out though it lives: stopped, or stuck; its agents and runs are taken over."""
        for seat in self._seats:
            if seat.pid and seat.name == name:
                bus.tell(f"shard {seat.index} has been silent for longer than its lease")
                os.kill(seat.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Collect every child that ended; strangers are what agents left behind and are collected too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._bury(pid, status)

    def _bury(self, pid: int, status: int) -> None:
        if pid == self._pids.queen:
            self._pids.queen = 0
            if self._queen_stale_since_s is None and not self._intent.ending and status != 0:
                self._queen_at_s = self._count_death("the queen", status)
        elif pid == self._pids.guardian:
            self._pids.guardian = 0
            if not self._intent.ending:
                self._guardian_at_s = self._count_death("the guardian", status)
        elif pid == self._pids.watcher:
            self._pids.watcher = 0
        else:
            self._bury_shard(pid, status)

    def _bury_shard(self, pid: int, status: int) -> None:
        for seat in self._seats:
            if seat.pid == pid:
                seat.pid = 0
                if seat.queen_end is not None:
                    seat.queen_end.close()
                    seat.queen_end = None
                if not self._intent.ending:
                    self._stale()
                    seat.restart_at_s = self._count_death(f"shard {seat.index}", status)

    def _count_death(self, who: str, status: int) -> float:
        """Say who died of what; return when to start it again, or end the engine when it keeps happening."""
        now_s = self._clock.monotonic_s()
        self._deaths = [at_s for at_s in self._deaths if now_s - at_s < _FLAP_WINDOW_S] + [now_s]
        cause = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        many = len(self._deaths)
        delay_s = flap_delay_s(many)
        if many >= _FLAP_MOST:
            self._intent.gave_up = f"{many} processes died within {_FLAP_WINDOW_S:g} s, last {who} ({cause})"
            bus.tell(f"{who} died ({cause}); giving up")
            self._end(2)
        else:
            bus.tell(f"{who} died ({cause}); starting it again{f' in {delay_s:g} s' if delay_s else ''}")
        return now_s + delay_s

    # --- ending

    def _obey(self) -> None:
        recorded, self._recorded = self._recorded, []
        for number in recorded:
            self._intent.ended_by = signal.SIGTERM if number == signal.SIGHUP else number
            self._end(min(3, self._intent.severity + 1))
            bus.tell(meaning(self._intent.severity, self._settings.drain_s))

    def _end(self, severity: int) -> None:
        """Begin to end, or end harder: 1 drain, 2 interrupt, 3 kill."""
        if not self._intent.ending:
            self._intent.ending = True
            self._ending_since_s = self._clock.monotonic_s()
        self._intent.severity = max(self._intent.severity, severity)
        self._press()

    def _press(self) -> None:
        """Pass the order on, the queen first: no claim of hers may come after a shard has given everything back."""
        killing = self._intent.severity == 3 or self._clock.monotonic_s() - self._ending_since_s > _QUEEN_PATIENCE_S
        if self._pids.queen:
            os.kill(self._pids.queen, signal.SIGKILL if killing else signal.SIGTERM)
        if self._pids.queen and self._intent.severity < 3:
            return
        while self._told < self._intent.severity:
            self._told += 1
            self._signal_shards(_ORDERS[self._told])

    def _signal_shards(self, number: int) -> None:
        # Our own children, not yet waited for: their pids cannot belong to anybody else.
        for seat in self._seats:
            if seat.pid:
                os.kill(seat.pid, number)

    def _clean_up(self) -> None:
        self._intent.ending = True
        self._signal_shards(signal.SIGKILL)  # only if the loop failed: in good order there are none left
        os.close(self._lifeline_write)
        self._await("guardian", _GUARDIAN_PATIENCE_S + self._settings.grace_s)
        if self._pids.watcher:
            os.kill(self._pids.watcher, signal.SIGTERM)
            self._await("watcher", _WATCHER_PATIENCE_S)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._reap()
        self._selector.close()
        for end in (*self._wake, self._listener):
            end.close()
        for descriptor in (self._lifeline_read, self._queen_read, self._queen_write):
            os.close(descriptor)

    def _await(self, who: str, patience_s: float) -> None:
        deadline_s = self._clock.monotonic_s() + patience_s
        while getattr(self._pids, who):
            if self._clock.monotonic_s() > deadline_s:
                os.kill(getattr(self._pids, who), signal.SIGKILL)
            self._reap()
            time.sleep(0.01)


def flap_delay_s(deaths: int) -> float:
    """Return how long to wait before a process is started again, after so many deaths within the window."""
    return 0.0 if deaths <= _FLAP_FREE else min(_FLAP_DELAY_S, 0.25 * 2.0 ** (deaths - _FLAP_FREE))
