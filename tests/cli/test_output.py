from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.cli.context import Context
from hive.cli.output import Column, cells_of, fit, lines_of, pad, painted, several, span, table

COLUMNS = (Column("ID", right=True), Column("STATE"), Column("TITLE", flexible=True))
ANY = st.text(max_size=80)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(rows=st.lists(st.tuples(ANY, ANY, ANY), max_size=5), width=st.integers(20, 120))
def test_no_line_of_a_table_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    """Whatever a title holds, each row is one line that fits, without control characters."""
    lines = table(Context({"COLUMNS": str(width)}), COLUMNS, rows)
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert cells_of(line) <= width
        assert line.isprintable()


@given(text=ANY, width=st.integers(1, 40))
def test_padding_gives_exactly_the_width(text: str, width: int) -> None:
    """A padded cell takes as many terminal cells as its column, wide and combining characters included."""
    printable = "".join(char for char in text if char.isprintable())
    assert cells_of(pad(printable, width)) == width
    assert cells_of(fit(printable, width)) <= width


def test_without_a_terminal_nothing_is_cut() -> None:
    """A pipe gets whole titles."""
    assert table(Context({}), COLUMNS, [("1", "queued", "t" * 400)])[1].endswith("t" * 400)


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07red",
        "\x1b]8;;http://x\x1b\\red\x1b]8;;\x1b\\",
        "\x9b31mred",
        "\x1bPq\x1b\\red",
    ],
)
def test_escape_sequences_leave_only_their_text(hostile: str) -> None:
    """Colours, titles, links and device control are removed as a whole."""
    assert lines_of(hostile) == "red"


@given(st.text())
def test_text_of_several_lines_is_made_harmless(text: str) -> None:
    """Of all that is not printable only newlines and tabs are left."""
    assert all(char in "\n\t" or char.isprintable() for char in lines_of(text))


@pytest.mark.parametrize(
    ("color", "environ", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colours_follow_the_conventions(color: str, environ: dict[str, str], *, terminal: bool, expected: bool) -> None:
    """The flag is stronger than NO_COLOR, that than FORCE_COLOR, and without them only a terminal gets colours."""
    stream = Terminal() if terminal else io.StringIO()
    assert Context(environ, color=color).colored(stream) is expected


def test_a_colour_wraps_only_the_word_of_the_state() -> None:
    """The state keeps its word, with or without colour."""
    assert painted(Context({}, color="always"), "1  failed  x", "failed") == "1  \x1b[31mfailed\x1b[0m  x"
    assert painted(Context({}, color="never"), "1  failed  x", "failed") == "1  failed  x"


def test_durations_and_counts_are_short() -> None:
    """Durations take at most six characters; one task is no `tasks`."""
    shown = [span(seconds) for seconds in (0.04, 9.96, 59.4, 60, 3599, 3600, 90_000)]
    assert shown == ["0.0s", "10.0s", "59s", "1m00s", "59m59s", "1h00m", "1d01h"]
    assert (several(1, "task"), several(0, "task"), several(5000, "task")) == ("1 task", "0 tasks", "5,000 tasks")
