from __future__ import annotations

import pytest

from hive import values
from hive.model import Phase
from hive.values import BadValueError, Kind


@pytest.mark.parametrize(
    ("kind", "raw", "parsed"),
    [
        (values.duration(0, 1e6), "1.5h", 5400.0),
        (values.duration(0, 1e6), "250 ms", 0.25),
        (values.duration(0, 1e6), 7, 7.0),
        (values.size(0, 1 << 40), "1GiB", 1 << 30),
        (values.size(0, 1 << 40), "500mb", 500_000_000),
        (values.amount(10), 2, 2.0),
        (values.flag(), False, False),
        (values.argv(from_string=True), "pytest -q 'a b'", ("pytest", "-q", "a b")),
        (values.argv(from_string=True), "grep 'a;b' \"x > y\"", ("grep", "a;b", "x > y")),
        (values.argv(from_string=True), ["sh", "-c", "a && b"], ("sh", "-c", "a && b")),
        (values.argv(from_string=True), [], ()),
        (values.argv(from_string=False), ("a", ""), ("a", "")),
        (values.phases(), ["apply", "test"], (Phase.APPLY, Phase.TEST)),
        (values.several(values.text()), "x", ("x",)),
        (values.optional(values.whole(1, 2)), "none", None),
        (values.counts(0, 5), {"a": 1}, {"a": 1}),
        (values.environment(), {"A_1": ""}, {"A_1": ""}),
        (values.variable_names(), ["HOME"], ("HOME",)),
    ],
)
def test_what_is_accepted(kind: Kind[object], raw: object, parsed: object) -> None:
    """Each kind turns what people write into our types."""
    assert kind.parse(raw) == parsed


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (values.duration(0, 1e6), "10 parsecs"),
        (values.duration(0, 1e6), True),
        (values.duration(0, 1e6), float("nan")),
        (values.duration(0, 1e6), float("inf")),
        (values.duration(0, 1e6), 10**400),
        (values.duration(1, 1e6), "-5s"),
        (values.size(0, 100), "1KB"),
        (values.whole(0, 5), True),
        (values.whole(0, 5), 1.0),
        (values.whole(0, 5), "1"),
        (values.amount(10), 0),
        (values.amount(10), float("nan")),
        (values.flag(), 1),
        (values.flag(), "true"),
        (values.text(), " "),
        (values.text(), "a\0"),
        (values.text(), "\ud800"),
        (values.text(), 1),
        (values.word("a word"), "a b"),
        (values.word("a word"), "-x"),
        (values.word("a word"), ""),
        (values.name("a name"), "a "),
        (values.name("a name"), "x" * 201),
        (values.choice("a", "b"), "c"),
        (values.choice("a", "b"), ["a"]),
        (values.argv(from_string=True), "make test 2>&1"),
        (values.argv(from_string=True), "echo $(pwd)"),
        (values.argv(from_string=True), "cd x; make"),
        (values.argv(from_string=True), [" ", "x"]),
        (values.argv(from_string=False), "a b"),
        (values.argv(from_string=False), []),
        (values.argv(from_string=False), [["a"]]),
        (values.phases(), []),
        (values.phases(), ["apply", "apply"]),
        (values.phases(), ["merge"]),
        (values.several(values.text()), {"a": 1}),
        (values.environment(), {"1A": "x"}),
        (values.environment(), {"HIVE_X": "x"}),
        (values.counts(0, 5), {"a": 6}),
        (values.counts(0, 5), [1]),
    ],
)
def test_what_is_refused(kind: Kind[object], raw: object) -> None:
    """Each kind refuses what is not its own, and never with another exception."""
    with pytest.raises(BadValueError):
        kind.parse(raw)


def test_ranges_are_told_in_units_people_use() -> None:
    """The longest duration is named in days, an odd one in seconds."""
    assert "from 0.5s to 30d" in values.duration(0.5, 30 * 86_400).noun
    assert "from 0s to 90s" in values.duration(0, 90).noun


def test_errors_know_which_item() -> None:
    """The error of one item says its index, that of a table its key."""
    with pytest.raises(BadValueError) as caught:
        values.several(values.text()).parse(["a", " "])
    assert (caught.value.at, caught.value.message) == ((1,), "is empty")
    with pytest.raises(BadValueError) as caught:
        values.counts(0, 5).parse({"a": 1, "b": 9})
    assert caught.value.at == ("b",)


def test_a_phase_of_another_version_has_its_code() -> None:
    """Phases this version lacks are told apart from words that are no phase."""
    with pytest.raises(BadValueError) as caught:
        values.phases().parse(["apply", "merge"])
    assert (caught.value.code, caught.value.at) == ("H120", (1,))
    with pytest.raises(BadValueError) as caught:
        values.phases().parse(["aply"])
    assert (caught.value.code, caught.value.note) == ("", "did you mean `apply`?")


@pytest.mark.parametrize(
    ("kind", "text", "parsed"),
    [
        (values.whole(0, 9), "7", 7),
        (values.amount(9), "1.5", 1.5),
        (values.flag(), "ON", True),
        (values.flag(), "0", False),
        (values.several(values.text()), "Bash(a, b), Read", ("Bash(a, b)", "Read")),
        (values.counts(0, 9), "a=1,b=2", {"a": 1, "b": 2}),
        (values.environment(), "A=1,B=x=y", {"A": "1", "B": "x=y"}),
        (values.optional(values.whole(0, 9)), "none", None),
        (values.optional(values.whole(0, 9)), "3", 3),
    ],
)
def test_text_from_outside(kind: Kind[object], text: str, parsed: object) -> None:
    """Variables and flags are text, and mean the same as the typed value of a file."""
    assert kind.parse(kind.from_text(text)) == parsed
