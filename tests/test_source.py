from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.source import EXCERPT_WIDTH, Source, Span, did_you_mean, nearest, printable, quoted
from hive.toml_places import toml_error_span, toml_places

TEXT = (
    'a = 1\n"b c".d = """\nx"""\r\n[t]\nlist = [\n  1, # one\n  { k = "v" },\n]\n'
    "day = 1979-05-27 07:32:00\n[[n.m]]\nx = 1\n[[n.m]]\nx = '''y''''\n"
)


def test_positions_count_from_one() -> None:
    """The first character is 1:1, the end of the text is a position too, and an empty text has one."""
    source = Source("f", "ab\ncd")
    assert [source.position(offset) for offset in (0, 1, 2, 3, 5)] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3)]
    assert Source("f", "").where(0) == "f:1:1"


def test_an_excerpt_of_a_long_line_is_a_window() -> None:
    """Of a line of a megabyte the part around the place is shown, with the caret below it."""
    text = "x" * 1_000_000 + "HERE" + "y" * 1_000_000
    line, carets = Source("f", text).excerpt(Span(1_000_000, 1_000_004)).splitlines()
    assert len(line) <= EXCERPT_WIDTH + 10
    assert carets.count("^") == 4
    assert line[carets.index("^") : carets.rindex("^") + 1] == "HERE"


def test_an_excerpt_is_safe_and_aligned() -> None:
    """Control characters are replaced, and wide characters take two columns before the caret."""
    assert (
        Source("f", "\x1b[31m漢x").excerpt(Span(6, 7), "note")
        == "1 | \N{REPLACEMENT CHARACTER}[31m漢x\n  |        ^ note"
    )
    assert printable("a\tb\x07") == "a b\N{REPLACEMENT CHARACTER}"


def test_quoted_is_one_short_line() -> None:
    """A value in a message is one line of at most sixty characters."""
    assert quoted("a\n  b") == "`a b`"
    assert (quoted(None), quoted(value=True)) == ("`null`", "`true`")
    assert len(quoted("x" * 1000)) == 62


def test_the_nearest_word() -> None:
    """A word close enough is suggested, among however many."""
    assert did_you_mean("promt", ["prompt", "key"]) == "did you mean `prompt`?"
    assert nearest("zzz", ["prompt", "key"]) is None
    assert nearest("core/pahts", [f"core/p{i}" for i in range(50_000)] + ["core/paths"]) == "core/paths"


def test_places_of_toml_values() -> None:
    """Every key, value, list item and table is found where it stands."""
    places, repeated = toml_places(TEXT)
    cut = {path: TEXT[place.value.start : place.value.end] for path, place in places.items()}
    assert repeated is None
    assert cut["a",] == "1"
    assert cut["b c", "d"] == '"""\nx"""'
    assert cut["t",] == "[t]"
    assert (cut["t", "list", 0], cut["t", "list", 1], cut["t", "list", 1, "k"]) == ("1", '{ k = "v" }', '"v"')
    assert cut["t", "day"] == "1979-05-27 07:32:00"
    assert (cut["n", "m", 0, "x"], cut["n", "m", 1, "x"]) == ("1", "'''y''''")
    key = places["b c", "d"].key
    assert key is not None
    assert TEXT[key.start : key.end] == "d"


@pytest.mark.parametrize(
    ("text", "at"), [("a = 1\na = 2\n", 6), ("[t]\nx = 1\n[t]\n", 11), ("a = {b = 1, b = 2}\n", 12)]
)
def test_the_second_of_two_definitions_is_found(text: str, at: int) -> None:
    """A key or table that is defined twice is found at its second place."""
    _, repeated = toml_places(text)
    assert repeated is not None
    assert repeated.start == at


def test_places_of_tomllib_errors() -> None:
    """The position in tomllib's message becomes an offset, the end of the document too."""
    assert toml_error_span("Invalid value (at line 2, column 5)", "a = 1\nb = ?\n") == Span(10, 11)
    assert toml_error_span("Expected ']' (at end of document)", "a = [") == Span(5, 5)


def _paths(value: object, path: tuple[str | int, ...]) -> set[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path}.union(*(_paths(item, (*path, key)) for key, item in inner))


_LINES = st.sampled_from(
    [
        "a = 1",
        "b.c = 'x'",
        'd = "#]"',
        "e = [1, [2, 3], {f = 4}]",
        "[t]",
        "[t.u]",
        "[[l]]",
        "[[l.m]]",
        "[l.n]",
        "# [x]",
        'g = """\n[x]\\""""',
        "h = [ # c\n 1,\n]",
        '"q.r" = 1',
        "i = {}",
        "'s' . t = 2020-01-01 00:00:00Z",
        "[w] # c",
    ]
)


@given(lines=st.lists(_LINES, max_size=10))
def test_whatever_tomllib_reads_has_a_place(lines: list[str]) -> None:
    """For every document tomllib accepts, each of its values has a place, and there are no others."""
    text = "\n".join(lines)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        toml_places(text)
        return
    places, repeated = toml_places(text)
    assert set(places) == _paths(tree, ()) - {()}
    assert repeated is None


@given(text=st.text(alphabet="a=[]{}\"'\n#.,1 ", max_size=60))
def test_any_text_is_scanned_to_an_end(text: str) -> None:
    """The scanner ends on any text, TOML or not."""
    toml_places(text)
