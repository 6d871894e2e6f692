"""A tiny process that stops the agents of any shard that dies.

Shards connect to its socket and register every process they start. End of file on a connection without a goodbye
means that the shard died: its registered groups get TERM, then KILL after the grace, and then whatever still carries
the shard's mark in its environment. The guardian itself ignores the signals a person sends to the engine and ends
when the supervisor and all shards are gone. It decides nothing and knows no store.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from hive.agent import proctable
from hive.clock import Clock, SystemClock
from hive.model import ProcessRecord

_SEND_S = 1.0  # a stopped guardian must not stop a shard


@dataclass(slots=True)
class _Shard:
    """What one connection told."""

    connection: socket.socket
    name: str = ""
    groups: dict[int, tuple[ProcessRecord, str]] = field(default_factory=dict)  # by pid: process, mark
    buffer: bytes = b""
    said_goodbye: bool = False


def main(listener: socket.socket, lifeline: int, directory: Path, *, grace_s: float) -> None:
    """Run until the supervisor and every shard are gone.

    Args:
        listener: Listening Unix socket that shards connect to.
        lifeline: Read end of a pipe only the supervisor holds open for writing.
        directory: Holds the socket; removed at the end, since a supervisor that was killed cannot.
        grace_s: Seconds between TERM and KILL.
    """
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    Guardian(listener, lifeline, grace_s=grace_s, clock=SystemClock()).run()
    shutil.rmtree(directory, ignore_errors=True)


class Guardian:
    """The loop behind `main`."""

    def __init__(self, listener: socket.socket, lifeline: int, *, grace_s: float, clock: Clock) -> None:
        self._grace_s = grace_s
        self._clock = clock
        self._boot_id = proctable.boot_id()
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(lifeline, selectors.EVENT_READ)
        self._lifeline = lifeline
        self._supervised = True
        self._shards: dict[int, _Shard] = {}
        self._stopping: list[threading.Thread] = []

    def run(self) -> None:
        """Watch until nobody is left to watch."""
        while self._supervised or self._shards:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._lifeline:
                    self._selector.unregister(self._lifeline)
                    self._supervised = False
                else:
                    self._hear(self._shards[key.fd])
        for thread in self._stopping:
            thread.join()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._shards[connection.fileno()] = _Shard(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, shard: _Shard) -> None:
        try:
            data = shard.connection.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self._bury(shard)
            return
        *lines, shard.buffer = (shard.buffer + data).split(b"\n")
        for line in lines:
            self._note(shard, line.decode().split(" "))

    def _note(self, shard: _Shard, words: list[str]) -> None:
        match words:
            case ["shard", name]:
                shard.name = name
            case ["+", pid, started, mark]:
                shard.groups[int(pid)] = (ProcessRecord(int(pid), int(started), self._boot_id), mark)
            case ["-", pid]:
                shard.groups.pop(int(pid), None)
            case ["bye"]:
                shard.said_goodbye = True
            case _:
                return  # an empty line only asks whether anybody listens

    def _bury(self, shard: _Shard) -> None:
        self._selector.unregister(shard.connection)
        del self._shards[shard.connection.fileno()]
        shard.connection.close()
        if shard.said_goodbye:
            return
        # In a thread, because a grace period for one shard must not delay the others.
        thread = threading.Thread(target=self._stop, args=(shard,))
        thread.start()
        self._stopping = [known for known in self._stopping if known.is_alive()] + [thread]

    def _stop(self, shard: _Shard) -> None:
        groups = list(shard.groups.values())
        proctable.stop_blocking(
            [record for record, _ in groups],
            {mark for _, mark in groups},
            shards=[shard.name] if shard.name else [],
            grace_s=self._grace_s,
            clock=self._clock,
        )


class GuardClient:
    """A shard's line to the guardian. Never blocks for long; reconnects when the guardian was replaced.

    What a guardian does not take at once is kept for later: to hang up on a slow one would look like the shard's death.
    """

    def __init__(self, path: Path, shard: str) -> None:
        self._path = path
        self._shard = shard
        self._known: dict[int, str] = {}
        self._socket: socket.socket | None = None
        self._unsent = b""
        self._connect()

    def register(self, process: ProcessRecord, mark: str) -> None:
        """Tell the guardian of a process before anything is awaited, so that a kill right after still finds it."""
        line = f"+ {process.pid} {process.started} {mark}\n"
        self._known[process.pid] = line
        self._send(line)

    def forget(self, pid: int) -> None:
        """Tell the guardian that a process has ended and its group is empty."""
        if self._known.pop(pid, None) is not None:
            self._send(f"- {pid}\n")

    def check(self) -> None:
        """Reconnect if the guardian died; called with every lease renewal."""
        self._send("\n")

    def close(self) -> None:
        """Say goodbye: no agent is left."""
        if self._socket is not None:
            self._socket.settimeout(_SEND_S)
        self._send("bye\n")
        if self._socket is not None:
            self._socket.close()

    def _send(self, text: str) -> None:
        if self._socket is None:
            self._connect()
            return
        self._unsent += text.encode()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            self._socket.close()
            self._connect()

    def _connect(self) -> None:
        """Connect and tell everything again; without a guardian for now, the next message tries again."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_SEND_S)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            self._socket = None
            return
        connection.setblocking(False)
        self._socket = connection
        self._unsent = b""
        self._send(f"shard {self._shard}\n{''.join(self._known.values())}")
