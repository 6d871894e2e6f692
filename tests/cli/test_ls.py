from __future__ import annotations

import json

from hive.cli.output import cells_of
from hive.model import NewTask
from tests.cli.conftest import Cli, Seed, Zoo


def test_tasks_are_listed_newest_first(cli: Cli, zoo: Zoo) -> None:
    """One line a task with state, reason, phase, runs, time and cost."""
    answer = cli("ls")
    heading, *rows = answer.lines
    assert heading.split() == ["ID", "STATE", "PHASE", "RUNS", "TIME", "COST", "TITLE"]
    assert [row.split()[0] for row in rows] == ["8", "7", "6", "5", "4", "3", "2", "1"]
    assert rows[0].split()[1:3] == ["queued", "(hold)"]
    assert rows[-1].split()[1:] == ["completed", "apply", "1", "3m12s", "$0.25", "convert", "utils"]
    assert [row.split()[0] for row in cli("ls", "--oldest", "--limit", 2).lines[1:]] == ["1", "2"]


def test_a_hostile_title_stays_in_its_line(cli: Cli, zoo: Zoo) -> None:
    """Escape sequences, line breaks and directions in a title never reach the terminal, and no row wraps."""
    answer = cli("ls", environ={"COLUMNS": "60", "FORCE_COLOR": "1"})
    assert len(answer.lines) == 9
    for line in answer.lines:
        plain = line.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[33m", "").replace("\x1b[36m", "")
        plain = plain.replace("\x1b[2m", "").replace("\x1b[0m", "")
        assert plain.isprintable()
        assert cells_of(plain) <= 60


def test_rows_of_tasks_are_the_agreed_json(cli: Cli, zoo: Zoo) -> None:
    """`--json` is one `hive.tasks/1` document, `--jsonl` a row a line; both hold all tasks unless limited."""
    data = cli("ls", "--json").data
    assert (data["schema"], data["more"], len(data["data"])) == ("hive.tasks/1", False, 8)
    first = data["data"][-1]
    assert (first["id"], first["state"], first["batch"], first["cost_usd"]) == (1, "completed", "pathlib", 0.25)
    lines = [json.loads(line) for line in cli("ls", "--jsonl").lines]
    assert lines == data["data"]
    limited = cli("ls", "--json", "--limit", 3).data
    assert ([row["id"] for row in limited["data"]], limited["more"]) == ([8, 7, 6], True)


def test_selecting_nothing_says_so(cli: Cli, zoo: Zoo) -> None:
    """An empty selection prints nothing to stdout and exits with 0."""
    answer = cli("ls", "@waiting")
    assert (answer.code, answer.out, answer.err) == (0, "", "no task matches\n")
    assert cli("ls", "@waiting", "--json").data["data"] == []


def test_a_long_queue_is_cut_for_people_only(cli: Cli, seed: Seed) -> None:
    """People see the newest fifty and how to see more, programs everything."""
    seed.add(*(NewTask(f"task {number}") for number in range(60)))
    answer = cli("ls")
    assert len(answer.lines) == 51
    assert answer.err == "the first 50 tasks; more with --limit\n"
    assert cli("ls", "-q").err == ""
    assert len(cli("ls", "--json").data["data"]) == 60
    assert len(cli("ls", "--limit", 60).lines) == 61
