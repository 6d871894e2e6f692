from __future__ import annotations

import re

from hive.cli import VERBS
from hive.cli.codes import CODES
from hive.cli.exits import MEANINGS
from hive.cli.topics import TOPICS
from hive.model import State
from tests.cli.conftest import ROOT, Cli

_CODE = re.compile(r"""["'\[](H\d{3})["'\]]""")


def used_codes() -> dict[str, set[str]]:
    """Return every code that stands in the product, with the files it stands in."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "hive").rglob("*.py"):
        if path.name != "codes.py":
            for code in _CODE.findall(path.read_text()):
                found.setdefault(code, set()).add(path.name)
    return found


def test_every_code_is_explained() -> None:
    """The catalogue has a paragraph for each code in use and none that nobody uses."""
    used = used_codes()
    assert not {code: used[code] for code in used.keys() - CODES.keys()}
    assert not CODES.keys() - used.keys()
    assert list(CODES) == sorted(CODES)


def test_a_code_is_explained_offline(cli: Cli) -> None:
    """`hive help H230` prints its paragraph, whatever the case; a terminal gets it wrapped."""
    answer = cli("help", "h230")
    assert answer.code == 0
    assert " ".join(answer.out.split()) == CODES["H230"]
    assert max(map(len, cli("help", "H230", environ={"COLUMNS": "50"}).lines)) <= 50
    data = cli("help", "H230", "--json").data
    assert (data["schema"], data["topic"], data["text"]) == ("hive.help/1", "H230", CODES["H230"])


def test_topics_are_listed_and_printed(cli: Cli) -> None:
    """Without a topic all are listed; each prints its text."""
    listed = cli("help").out
    for name, topic in TOPICS.items():
        assert f"hive help {name}" in listed
        assert cli("help", name).out == f"{topic.text}\n"
    assert set(cli("help", "--json").data["topics"]) == set(TOPICS)


def test_exit_codes_are_a_topic(cli: Cli) -> None:
    """Every exit code is in the help."""
    shown = cli("help", "exit-codes").out
    assert all(f"  {code:<4} {meaning}" in shown for code, meaning in MEANINGS.items())


def test_an_unknown_topic_is_refused(cli: Cli) -> None:
    """A misspelt topic exits with 2 and names the one that was meant."""
    answer = cli("help", "selectrs")
    assert (answer.code, answer.err.splitlines()[1]) == (2, "fix: did you mean `selectors`?")


def test_topics_fit_a_page() -> None:
    """No line of a topic is wider than 120 columns."""
    assert max(len(line) for topic in TOPICS.values() for line in topic.text.splitlines()) <= 120


def test_topics_promise_only_what_is_there() -> None:
    """Each verb and each state that a topic names exists, and those of other versions are not named."""
    text = "\n".join(topic.text for topic in TOPICS.values())
    named = set(re.findall(r"(?:^  |\$\(|`|or `)hive ([a-z]+)", text, re.MULTILINE))
    assert named
    assert named <= {row.name for row in VERBS}
    rows = re.findall(r"^  ([a-z_]+) +\S", TOPICS["states"].text, re.MULTILINE)
    assert set(rows) == {state.value for state in State} - {State.WAITING}


def test_only_phases_of_this_version_are_offered(cli: Cli) -> None:
    """`hive retry --from` names the phases a task can have."""
    assert "[apply|test]" in cli("retry", "--help").out
