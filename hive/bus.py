"""Events inside a process: a bounded buffer of chatter, and the one place that turns an event into a line.

Facts never pass through here: they are written by the transaction they describe.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

from hive.model import Event, Json, NewEvent

MOST_BUFFERED = 2000


class Chatter:
    """What agents say on its way to the store; the oldest is dropped and counted when it comes too fast."""

    def __init__(self, most: int = MOST_BUFFERED) -> None:
        self._events: deque[NewEvent] = deque(maxlen=most)
        self._dropped = 0

    def publish(self, event: NewEvent) -> None:
        """Take an event; never blocks."""
        if len(self._events) == self._events.maxlen:
            self._dropped += 1
        self._events.append(event)

    def put_back(self, events: Sequence[NewEvent]) -> None:
        """Take back what could not be written, before what has come meanwhile; what finds no room is counted."""
        room = (self._events.maxlen or 0) - len(self._events)
        kept = events[max(0, len(events) - room) :]
        self._dropped += len(events) - len(kept)
        self._events.extendleft(reversed(kept))

    def take(self) -> list[NewEvent]:
        """Return and forget what has come, with a note of how much was dropped."""
        events = list(self._events)
        self._events.clear()
        if self._dropped:
            events.append(NewEvent("chatter.dropped", data={"count": self._dropped}))
            self._dropped = 0
        return events


def tell(text: str) -> None:
    """Say something about the engine itself to the person who started it, at once.

    Whoever listened may be gone, with the terminal or a pipe: that must not end the work.
    """
    try:
        sys.stderr.write(f"hive: {text}\n")
        sys.stderr.flush()
    except OSError:
        # What is buffered would fail again at every flush, the one at exit included.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def line(event: Event) -> str:
    """Return an event as one line for people: UTC time, kind, ids, what matters of its data."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.at_ms / 1000))
    ids = [f"task={event.task_id}"] if event.task_id is not None else []
    ids += [f"run={event.run_id}"] if event.run_id is not None else []
    return " ".join([moment, event.kind, *ids, *_words(event.data)])


def printable(text: str, most: int = 200) -> str:
    """Return hostile text as one harmless line: no control characters, no escape sequences, cut at `most`."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    flat = " ".join(flat.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _words(data: Mapping[str, Json]) -> list[str]:
    return [f"{key}={printable(str(value))}" for key, value in data.items() if value not in (None, "", [])]
