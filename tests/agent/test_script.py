from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.agent.script import Verb, parse_script
from hive.errors import UsageError

EVERY_STEP = """\
# a comment

say hello there
edit a/b.txt <<END
  two
END lines
  END
append b.txt one line
delete b.txt
commit first  words
run printf '%s\\n' "a b"
sleep 0.5
cost 0.25
flood 1024
limit 60
fail not yet
fatal never
exit 7
hang
"""


def test_every_step_is_read() -> None:
    """Arguments have their types, texts their newline, and all verbs are covered."""
    steps = parse_script(EVERY_STEP).steps
    assert [(s.verb, s.path, s.text, s.number, s.argv) for s in steps] == [
        (Verb.SAY, "", "hello there", 0, ()),
        (Verb.EDIT, "a/b.txt", "  two\nEND lines\n", 0, ()),
        (Verb.APPEND, "b.txt", "one line\n", 0, ()),
        (Verb.DELETE, "b.txt", "", 0, ()),
        (Verb.COMMIT, "", "first  words", 0, ()),
        (Verb.RUN, "", "", 0, ("printf", "%s\\n", "a b")),
        (Verb.SLEEP, "", "", 0.5, ()),
        (Verb.COST, "", "", 0.25, ()),
        (Verb.FLOOD, "", "", 1024, ()),
        (Verb.LIMIT, "", "", 60, ()),
        (Verb.FAIL, "", "not yet", 0, ()),
        (Verb.FATAL, "", "never", 0, ()),
        (Verb.EXIT, "", "", 7, ()),
        (Verb.HANG, "", "", 0, ()),
    ]
    assert {step.verb for step in steps} == set(Verb)
    assert [step.line for step in steps][:3] == [3, 4, 8]


def test_say_may_have_several_lines() -> None:
    """What a planner or reviewer says is often JSON."""
    assert parse_script("say <<J\n{\n}\nJ").steps[0].text == "{\n}"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("[attempt 1]", [(1, 0), (1, 2)]),
        ("[round 2]", [(1, 2), (3, 2)]),
        ("[attempt > 1]", [(3, 2)]),
        ("[attempt<=2][round != 0]", [(1, 2)]),
        ("[round >= 0]", [(1, 0), (1, 2), (3, 2)]),
    ],
)
def test_conditions(condition: str, holds: list[tuple[int, int]]) -> None:
    """All conditions before a step must hold."""
    (step,) = parse_script(f"{condition} say x").steps
    assert [pair for pair in [(1, 0), (1, 2), (3, 2)] if step.applies(*pair)] == holds


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("shout hello", "there is no step `shout`"),
        ("say", "say what?"),
        ("hang on", "hang takes no argument"),
        ("[attempt one] say x", "a condition looks like"),
        ("[attempt 1]", "a condition looks like"),
        ("edit ../x <<E\nE", "stays inside the directory"),
        ("edit /etc/x y", "stays inside the directory"),
        ("delete .", "stays inside the directory"),
        ("delete a b", "stays inside the directory"),
        ("edit x <<E\nno end", "no line `E` ends the text"),
        ("run 'open", "no closing quotation"),
        ("sleep -1", "no number of 0 or more"),
        ("sleep nan", "no number of 0 or more"),
        ("exit 256", "no whole number from 0 to 255"),
        ("flood 1.5", "no whole number of 0 or more"),
    ],
)
def test_mistakes_are_told_with_their_line(line: str, what: str) -> None:
    """The line counts from 1, and nothing else of the script matters."""
    with pytest.raises(UsageError) as wrong:
        parse_script(f"say fine\n\n{line}\n")
    assert what in wrong.value.message
    assert wrong.value.message.startswith("script line 3: ")
    assert wrong.value.where == "script:3:1"


@given(st.text())
def test_any_text_is_a_script_or_a_usage_error(text: str) -> None:
    """No text makes the reader fail in another way."""
    with suppress(UsageError):
        assert all(step.line >= 1 for step in parse_script(text).steps)
