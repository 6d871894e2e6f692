"""Progress of a running engine: on stderr one line per ended task and a summary a minute, or on stdout every event.

Reads events and counts; never asks a process. Whoever listened may be gone: that must not end the work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from hive import bus
from hive.api import SyncHive
from hive.cli.output import discard_stdout, raw
from hive.clock import Clock
from hive.model import Event, Json, State

_SUMMARY_S = 60.0
_WORDS = {
    "task.completed": "completed",
    "task.failed": "FAILED",
    "task.needs_you": "NEEDS YOU",
    "task.cancelled": "cancelled",
}


class PlainProgress:
    """Prints what happens from event `after` on.

    Args:
        hive: Open; closed by `close`.
        jsonl: Print every event as a JSON line on stdout instead.
    """

    def __init__(
        self, hive: SyncHive, *, after: int, clock: Clock, out: TextIO = sys.stderr, jsonl: bool = False
    ) -> None:
        self._hive = hive
        self._after = after
        self._clock = clock
        self._out = out
        self._jsonl = jsonl
        self._spoke_at_s = clock.monotonic_s()
        self._unheard = False

    def poll(self) -> None:
        """Print what is new."""
        if self._unheard:
            return
        try:
            self._print_news()
        except BrokenPipeError:
            self._unheard = True
            if self._jsonl:
                discard_stdout()

    def close(self) -> None:
        """Print what is left and let go of the store."""
        self.poll()
        self._hive.close()

    def _print_news(self) -> None:
        while page := self._hive.past_events(self._after):
            self._after = page[-1].seq
            if self._jsonl:
                _stream(page)
                continue
            for event in page:
                self._show(event)
            self._out.flush()
        if not self._jsonl and self._clock.monotonic_s() - self._spoke_at_s > _SUMMARY_S:
            self._say(self._summary())

    def _show(self, event: Event) -> None:
        if event.kind in _WORDS and event.task_id is not None:
            self._say(self._ended(event.kind, event.task_id, event.data))
        elif event.kind == "task.queued" and event.data.get("reason") == "rework":
            self._say(f"  SENT BACK {event.task_id}: {self._title(event.task_id)}, round {event.data.get('round')}")
        elif event.kind == "task.queued" and event.data.get("reason") == "backoff":
            said = bus.printable(str(event.data.get("message") or event.data.get("code") or "lost"), 60)
            self._say(f"      RETRY {event.task_id}: {self._title(event.task_id)} ({said})")
        elif event.kind in {"engine.recovered", "limit.met"}:
            self._say(f"{event.kind:>11} {' '.join(f'{key}={value}' for key, value in event.data.items())}")

    def _ended(self, kind: str, task_id: int, data: Mapping[str, Json]) -> str:
        task = self._hive.task(task_id)
        if task is None:
            return f"{_WORDS[kind]:>11} {task_id}"
        cost = f" ${task.usage.cost_usd:.2f}" if task.usage.cost_usd else ""
        said = f" {bus.printable(str(data['message']), 60)}" if data.get("message") else ""
        branch = f" -> {task.branch}" if task.branch and kind == "task.completed" else ""
        title = bus.printable(task.spec.title, 44)
        return f"{_WORDS[kind]:>11} {task_id} {title:<44} {task.usage.duration_s:6.1f}s{cost}{said}{branch}"

    def _title(self, task_id: int | None) -> str:
        task = self._hive.task(task_id) if task_id is not None else None
        return bus.printable(task.spec.title, 44) if task else ""

    def _summary(self) -> str:
        by_state = self._hive.counts().by_state
        done = by_state[State.COMPLETED] + by_state[State.FAILED] + by_state[State.CANCELLED]
        total = sum(by_state.values())
        return (
            f"   progress {done}/{total} completed {by_state[State.COMPLETED]} needs you {by_state[State.NEEDS_YOU]} "
            f"failed {by_state[State.FAILED]} running {by_state[State.IN_PROGRESS]} queued {by_state[State.QUEUED]}"
        )

    def _say(self, text: str) -> None:
        self._spoke_at_s = self._clock.monotonic_s()
        moment = time.strftime("%H:%M:%SZ", time.gmtime(self._clock.now_ms() / 1000))
        self._out.write(f"{moment} {text}\n")


def _stream(events: Sequence[Event]) -> None:
    import orjson

    from hive.export import event_row

    raw(b"".join(orjson.dumps(event_row(event)) + b"\n" for event in events))
