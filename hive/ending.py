"""How an engine ends, whichever form it has: by itself, by a person's word, or because it cannot go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ending:
    """How the engine ended: by a signal, by giving up, by a person's `stop`, or with nothing left to do."""

    signal: int | None = None
    gave_up: str = ""
    stopped: bool = False


class Watcher(Protocol):
    """What prints progress beside the engine."""

    def poll(self) -> None:
        """Look at the store and print what is new."""
        ...

    def close(self) -> None:
        """Print what is left and let go of the store."""
        ...


def meaning(severity: int, drain_s: float) -> str:
    """Say what a signal just did and what the next one would do: 1 drain, 2 interrupt, 3 kill."""
    match severity:
        case 1:
            return f"draining: nothing new starts, running agents get {drain_s:g} s; again to interrupt them now"
        case 2:
            return "interrupting: agents are stopped, their tasks are queued again; again to kill"
        case _:
            return "killed: the next `hive run` goes on from what is recorded"
