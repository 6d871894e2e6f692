from __future__ import annotations

import json
import threading
from pathlib import Path

from hive.api import SyncHive
from hive.model import NewTask
from tests.cli.conftest import Cli, Seed, Zoo, hive_process


def test_events_are_lines_for_people(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """Each event is one harmless line with its time, kind and ids."""
    answer = cli("events")
    assert len(answer.lines) == len(queue.past_events(0))
    assert answer.lines[0].split()[1:3] == ["task.added", "task=1"]
    assert all(line.isprintable() for line in answer.lines)


def test_a_reader_goes_on_where_it_stopped(cli: Cli, zoo: Zoo) -> None:
    """`--since SEQ --jsonl` prints one row a line, only those after SEQ, in order and without gaps."""
    rows = [json.loads(line) for line in cli("events", "--jsonl").lines]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert set(rows[0]) == {"seq", "at_ms", "kind", "task_id", "run_id", "data"}
    rest = [json.loads(line) for line in cli("events", "--jsonl", "--since", 5).lines]
    assert rest == rows[5:]
    assert cli("events", "--json").data["data"] == rows


def test_events_of_one_task(cli: Cli, zoo: Zoo) -> None:
    """`--task` takes an id or key and leaves out all others."""
    rows = [json.loads(line) for line in cli("events", "--jsonl", "--task", "ftp").lines]
    assert {row["task_id"] for row in rows} == {zoo.failed}
    assert rows[-1]["kind"] == "task.failed"


def test_following_prints_new_events_as_they_come(seed: Seed, tmp_path: Path) -> None:
    """`-f` goes on with what is added later."""
    seed.add(NewTask("first"))
    process = hive_process("events", "--jsonl", "-f", cwd=tmp_path)
    giving_up = threading.Timer(20, process.kill)
    giving_up.start()
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["data"]["title"] == "first"
        seed.add(NewTask("second"))
        assert json.loads(process.stdout.readline())["data"]["title"] == "second"
    finally:
        giving_up.cancel()
        process.kill()
        process.communicate()


def test_more_events_than_a_page(cli: Cli, seed: Seed) -> None:
    """A long history is printed to its end."""
    seed.add(*(NewTask(f"t{number}") for number in range(2100)))
    assert len(cli("events", "--jsonl").lines) == 2100
