"""The queue between the queen and one shard: a `multiprocessing.Pipe` that both ends read from their event loop.

One pipe per shard and never a shared queue: a reader that is killed while it holds a shared queue's lock starves all
others. Frames are small lists of ids and hints, never the only copy of anything, so a full pipe may drop them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import orjson

from hive.model import RunId

# A frame up to this size is one write of one kernel buffer: it arrives whole or not at all, even if the writer dies.
_IDS_PER_FRAME = 500
_READ_BYTES = 1 << 20  # more than the kernel keeps for one pipe


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes over the pipe: ``run`` to a shard, ``ended`` and ``limit`` to the queen."""

    kind: str
    run_ids: tuple[RunId, ...] = ()


class Channel:
    """One end of the pipe; a frame is a line of JSON."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unsent = b""
        self._unread = b""
        os.set_blocking(connection.fileno(), False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, kind: str, run_ids: Sequence[RunId] = ()) -> bool:
        """Send ids; False when the other end is gone or does not keep up, and it will be told again later."""
        ids = list(run_ids)
        try:
            for start in range(0, max(1, len(ids)), _IDS_PER_FRAME):
                frame = orjson.dumps([kind, ids[start : start + _IDS_PER_FRAME]]) + b"\n"
                if not (self._write(self._unsent) and self._write(frame)):
                    return False
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> Iterator[Frame]:
        """Yield every frame that has arrived.

        Takes all that waits in one read: if it is killed between two, the next process at this end would find half of
        a frame.

        Raises:
            EOFError: The other end is closed.
        """
        while True:
            try:
                data = os.read(self.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            *lines, self._unread = (self._unread + data).split(b"\n")
            yield from filter(None, map(_frame, lines))

    def close(self) -> None:
        self._connection.close()

    def _write(self, data: bytes) -> bool:
        """Write; False when only a part went, whose rest goes first the next time."""
        if data:
            self._unsent = data[os.write(self.fileno(), data) :]
        return not self._unsent


def _frame(line: bytes) -> Frame | None:
    """Return a frame; None for half of one, left by a writer that was killed: it will be told again."""
    try:
        kind, ids = orjson.loads(line)
    except ValueError:
        return None
    return Frame(kind, tuple(RunId(run_id) for run_id in ids))
