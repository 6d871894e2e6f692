from __future__ import annotations

from collections.abc import Mapping

import pytest

from hive.cli.exits import MEANINGS, verdict
from hive.model import State

S = State


@pytest.mark.parametrize(
    ("by_state", "options", "expected"),
    [
        ({}, {}, (0, "completed")),
        ({S.COMPLETED: 3}, {}, (0, "completed")),
        ({S.COMPLETED: 3, S.FAILED: 1}, {}, (1, "failed")),
        ({S.NEEDS_YOU: 1, S.COMPLETED: 1}, {}, (3, "needs_you")),
        ({S.NEEDS_YOU: 1, S.FAILED: 1}, {}, (1, "failed")),
        ({S.QUEUED: 1}, {"stopped": True}, (4, "stopped")),
        ({S.QUEUED: 1}, {}, (4, "outstanding")),
        ({S.QUEUED: 1, S.NEEDS_YOU: 1}, {"stopped": True}, (3, "needs_you")),
        ({S.COMPLETED: 1}, {"stopped": True}, (0, "completed")),
        ({S.CANCELLED: 1, S.COMPLETED: 1}, {}, (4, "cancelled")),
        ({S.QUEUED: 1, S.FAILED: 1}, {"stopped": True}, (1, "failed")),
        ({S.FAILED: 1}, {"gave_up": True}, (70, "gave_up")),
        ({S.FAILED: 1}, {"signal": 2, "gave_up": True}, (130, "interrupted")),
        ({S.COMPLETED: 1}, {"signal": 15}, (143, "terminated")),
        ({S.COMPLETED: 1}, {"signal": 1}, (129, "signal_1")),
    ],
)
def test_the_strongest_ending_wins(
    by_state: Mapping[State, int], options: Mapping[str, int], expected: tuple[int, str]
) -> None:
    """Of all endings that hold, the one listed first in the table gives the code."""
    assert verdict(by_state, **options) == expected  # type: ignore[arg-type]  # flags and a number by name


def test_every_code_a_verdict_gives_is_explained() -> None:
    """The table for people has each exit code that can happen, strongest first, and none that cannot."""
    assert list(MEANINGS) == [130, 143, 70, 2, 5, 1, 3, 4, 124, 0]
