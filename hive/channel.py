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


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes over the pipe: ``run`` to a shard, ``ended`` and ``limit`` to the queen."""

    kind: str
    run_ids: tuple[RunId, ...] = ()


class Channel:
    """One end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        os.set_blocking(connection.fileno(), False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, kind: str, run_ids: Sequence[RunId] = ()) -> bool:
        """Send ids; False when the other end is gone or does not keep up, and it will be told again later."""
        ids = list(run_ids)
        try:
            for start in range(0, max(1, len(ids)), _IDS_PER_FRAME):
                self._connection.send_bytes(orjson.dumps([kind, ids[start : start + _IDS_PER_FRAME]]))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> Iterator[Frame]:
        """Yield every frame that has arrived.

        Raises:
            EOFError: The other end is closed.
        """
        while True:
            try:
                kind, ids = orjson.loads(self._connection.recv_bytes())
            except BlockingIOError:
                return
            except ConnectionResetError as error:
                raise EOFError from error
            yield Frame(kind, tuple(RunId(run_id) for run_id in ids))

    def close(self) -> None:
        self._connection.close()
