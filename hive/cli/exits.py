"""One verdict for a set of tasks: the exit code and its reason in a word.

Errors that stop a command before it has a verdict carry their own exit code: 70, 2 and 5 (`hive.errors`).
"""

from __future__ import annotations

from collections.abc import Mapping

from hive.model import State

COMPLETED = 0
FAILED = 1
USAGE = 2
NEEDS_YOU = 3
STOPPED = 4
NOT_READY = 5
BUG = 70
TIMED_OUT = 124

OUTSTANDING = (State.BLOCKED, State.QUEUED, State.IN_PROGRESS, State.WAITING)

MEANINGS: Mapping[int, str] = {
    130: "interrupted by Ctrl-C; nothing is lost, the same command goes on",
    143: "terminated by a signal; nothing is lost, the same command goes on",
    BUG: "a bug in Hive, or its processes kept dying",
    USAGE: "a flag, selector, setting or task file is wrong; nothing was done",
    NOT_READY: "something this machine must have is missing; `hive doctor` says what",
    FAILED: "some task failed",
    NEEDS_YOU: "some task needs you",
    STOPPED: "stopped early, with work outstanding or cancelled",
    TIMED_OUT: "`hive wait` timed out",
    COMPLETED: "all tasks are completed",
}
"""What each code means, strongest first."""


def verdict(
    by_state: Mapping[State, int],
    *,
    signal: int | None = None,
    gave_up: bool = False,
    stopped: bool = False,
) -> tuple[int, str]:
    """Return the exit code and its reason; when several hold, the strongest.

    Args:
        by_state: How many tasks stand where; only those the command was about.
        signal: Number of the signal that ended the command, if one did.
        gave_up: The engine could not go on.
        stopped: A person had the engine stop.
    """
    if signal is not None:
        return 128 + signal, {2: "interrupted", 15: "terminated"}.get(signal, f"signal_{signal}")
    if gave_up:
        return BUG, "gave_up"
    if by_state.get(State.FAILED, 0):
        return FAILED, "failed"
    if by_state.get(State.NEEDS_YOU, 0):
        return NEEDS_YOU, "needs_you"
    if any(by_state.get(state, 0) for state in OUTSTANDING):
        return STOPPED, "stopped" if stopped else "outstanding"
    if by_state.get(State.CANCELLED, 0):
        return STOPPED, "cancelled"
    return COMPLETED, "completed"
