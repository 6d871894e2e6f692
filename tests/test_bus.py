from __future__ import annotations

import pytest

from hive import bus
from hive.bus import Chatter
from hive.model import Event, NewEvent, RunId, TaskId


def test_chatter_is_taken_in_order_and_once() -> None:
    """What was published comes out in order, and a second look finds nothing."""
    chatter = Chatter()
    events = [NewEvent("agent.text", data={"n": number}) for number in range(3)]
    for event in events:
        chatter.publish(event)
    assert chatter.take() == events
    assert chatter.take() == []


def test_too_much_chatter_drops_the_oldest_and_counts_it() -> None:
    """A flood keeps the newest, and one more event says how much was dropped; the count starts anew."""
    chatter = Chatter(most=10)
    for number in range(25):
        chatter.publish(NewEvent("agent.text", data={"n": number}))
    taken = chatter.take()
    assert [event.data["n"] for event in taken[:-1]] == list(range(15, 25))
    assert (taken[-1].kind, taken[-1].data) == ("chatter.dropped", {"count": 15})
    chatter.publish(NewEvent("agent.text"))
    assert [event.kind for event in chatter.take()] == ["agent.text"]


def test_a_full_buffer_has_dropped_nothing() -> None:
    """Exactly as much as fits is passed on without a complaint."""
    chatter = Chatter(most=2)
    for _ in range(2):
        chatter.publish(NewEvent("agent.text"))
    assert [event.kind for event in chatter.take()] == ["agent.text"] * 2


def test_a_line_holds_time_kind_ids_and_data() -> None:
    """An event reads as UTC time, kind, ids, then its data without what is empty."""
    event = Event(7, 1_800_000_000_123, "run.finished", TaskId(4), RunId(9), {"outcome": "succeeded", "code": None})
    assert bus.line(event) == "2027-01-15T08:00:00Z run.finished task=4 run=9 outcome=succeeded"


def test_a_line_of_the_engine_names_no_ids() -> None:
    """Events that belong to no task and no run leave the ids out; a zero is a value."""
    event = Event(1, 0, "engine.recovered", None, None, {"runs": 0, "note": "", "list": []})
    assert bus.line(event) == "1970-01-01T00:00:00Z engine.recovered runs=0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n", "two lines"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("tab\tand\x00nul", "tab and nul"),
        ("right\u202eleft", "right left"),
        ("  much   space ", "much space"),
    ],
)
def test_hostile_text_becomes_one_harmless_line(text: str, shown: str) -> None:
    """No control character, line break or direction mark of an agent's words reaches a terminal."""
    assert bus.printable(text) == shown


def test_long_text_is_cut_visibly() -> None:
    """A text over the limit ends with an ellipsis and has exactly the length allowed."""
    assert bus.printable("x" * 300, 20) == "x" * 19 + "…"
    assert bus.printable("x" * 20, 20) == "x" * 20


def test_the_engine_speaks_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """What concerns the engine goes to stderr with its name, since stdout is for data."""
    bus.tell("draining")
    assert capsys.readouterr() == ("", "hive: draining\n")
