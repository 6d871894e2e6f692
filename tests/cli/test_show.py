from __future__ import annotations

import pytest

from hive.cli.output import cells_of
from hive.model import NewTask
from tests.cli.conftest import Cli, Seed, Zoo


def test_a_failed_task_says_what_was_asked_why_it_failed_and_what_to_do(cli: Cli, zoo: Zoo) -> None:
    """One screen: state, prompt, failure, runs and the next command."""
    answer = cli("show", zoo.failed)
    assert answer.code == 0
    assert answer.lines[0] == "task 2  convert ftp"
    assert answer.lines[1] == "state     failed (not_retryable), phase apply of apply"
    assert "key       pathlib/ftp" in answer.lines
    assert "  Replace os.path" in answer.lines
    assert "  No module named 'attrs'" in answer.lines
    assert any(line.startswith("why: exit (group ") for line in answer.lines)
    assert answer.lines[-1].startswith("next: hive logs 2; then: hive retry 2")


@pytest.mark.parametrize(
    ("which", "following"),
    [
        ("completed", "hive diff 1"),
        ("needs_you", "hive logs 3; then: hive retry 3"),
        ("cancelled", "hive retry 4"),
        ("in_progress", "hive logs 5 -f"),
        ("blocked", "hive wait 6"),
        ("queued", "hive run"),
        ("held", "hive release 8"),
    ],
)
def test_every_state_has_a_next_command(cli: Cli, zoo: Zoo, which: str, following: str) -> None:
    """`show` ends with what to type in the state the task is in."""
    assert cli("show", getattr(zoo, which)).lines[-1] == f"next: {following}"


def test_a_task_is_found_by_its_key(cli: Cli, zoo: Zoo) -> None:
    """TASK may be a key; what it needs is listed."""
    answer = cli("show", "later")
    assert answer.lines[0] == "task 6  after work"
    assert "needs     5" in answer.lines


def test_the_whole_record_is_in_the_json(cli: Cli, zoo: Zoo) -> None:
    """`--json` holds the task's row, its runs and its needs."""
    data = cli("show", zoo.needs_you, "--json").data
    assert (data["schema"], data["data"]["id"], len(data["runs"]), data["needs"]) == ("hive.task/1", 3, 2, [])
    assert data["runs"][0]["outcome"] == "errored"
    assert data["prompt"] == "p"
    assert cli("show", zoo.blocked, "--json").data["needs"] == [zoo.in_progress]


def test_hostile_text_fits_the_screen(cli: Cli, zoo: Zoo) -> None:
    """Prompt and title of a hostile task are harmless, cut lines."""
    for line in cli("show", "hostile", environ={"COLUMNS": "50"}).lines:
        assert line.isprintable()
        assert cells_of(line) <= 50


def test_long_prompts_are_cut(cli: Cli, seed: Seed) -> None:
    """Only the first lines of a long prompt are shown, and how many are left."""
    seed.add(NewTask("long", prompt="\n".join(f"line {number}" for number in range(30))))
    lines = cli("show", 1).lines
    assert "  line 5" in lines
    assert "  line 6" not in lines
    assert "  … 24 more lines with --json" in lines


def test_a_selector_for_many_is_refused(cli: Cli, zoo: Zoo) -> None:
    """`show` is about one task; several or none exit with 2."""
    assert "H132" in cli("show", "1..3").err
    assert "H132" in cli("show", "@waiting").err
    answer = cli("show", 99)
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error[H130]: there is no task 99")


def test_a_key_used_twice_needs_its_batch(cli: Cli, seed: Seed) -> None:
    """BATCH/KEY tells apart what a key alone does not."""
    seed.add(NewTask("one", key="k", batch="a"), NewTask("two", key="k", batch="b"))
    assert "H132" in cli("show", "k").err
    assert cli("show", "b/k").lines[0] == "task 2  two"
