from __future__ import annotations

from pathlib import Path

from hive.api import SyncHive, open_sync
from hive.lock import EngineLock
from hive.model import Limited, NewTask
from hive.store import Steer
from tests.cli.conftest import RULES, Cli, Seed, Zoo, done


def test_status_says_what_needs_you_and_what_to_type(cli: Cli, zoo: Zoo) -> None:
    """Counts, the tasks that need a person with their reason, and one command at the end."""
    answer = cli("status")
    assert answer.code == 0
    assert (
        "8 tasks: 1 needs_you, 1 failed, 1 in_progress, 2 queued, 1 blocked, 1 completed, 1 cancelled" in answer.lines
    )
    assert "  3  needs_you (same_failure)  convert upload: same thing" in answer.lines
    assert any("failed (not_retryable)  convert ftp: No module named 'attrs'" in line for line in answer.lines)
    assert "1 held" in answer.lines
    assert "no engine runs" in answer.lines
    assert "spent $1.75 est., 90% of input from cache" in answer.lines
    assert answer.lines[-1] == f"next: hive show {zoo.needs_you}"


def test_status_as_json_is_the_agreed_document(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """`--json` prints `hive.status/1` with the counts, batches, engine and next command."""
    data = cli("status", "--json").data
    assert data["schema"] == "hive.status/1"
    assert data["as_of"].endswith("Z")
    assert data["states"] == {state.value: count for state, count in queue.counts().by_state.items()}
    assert {batch["batch"] for batch in data["batches"]} == {"pathlib", "default"}
    assert data["engine"] == {"running": False, "pid": None, "paused": False, "agents": None}
    assert data["next"] == f"hive show {zoo.needs_you}"


def test_an_empty_queue_is_told_how_to_fill_it(cli: Cli, seed: Seed) -> None:
    """Without any task, status names the command that adds one."""
    with open_sync(seed.url):
        pass
    assert cli("status").lines[1:] == ["no tasks yet", "no engine runs", "", 'next: hive add "what to do"']
    answer = cli("ls")
    assert (answer.out, "hive add" in answer.err) == ("", True)


def test_the_next_command_follows_the_queue(cli: Cli, seed: Seed, tmp_path: Path) -> None:
    """Run what is queued, release what is held, resume what is paused, look at what is done, wait for an engine."""

    def following() -> str:
        return str(cli("status", "--json").data["next"])

    (held,) = seed.add(NewTask("held", hold=True))
    assert following() == "hive release @held"
    (task,) = seed.add(NewTask("one"))
    assert following() == "hive run"
    with open_sync(seed.url) as queue:
        queue.control(Steer(paused=True))
        assert following() == "hive resume && hive run"
        queue.control(Steer(paused=False))
    lock = EngineLock(seed.path.with_name("hive.db.engine"))
    try:
        assert following() == "hive wait"
        assert cli("status", "--json").data["engine"]["running"] is True
        assert any(line.startswith("the engine runs (process ") for line in cli("status").lines)
    finally:
        lock.close()
    seed.work(task, done())
    with open_sync(seed.url) as queue:
        queue.cancel(held)
    assert following() == "hive show 2"


def test_status_says_how_long_parked_tasks_wait(cli: Cli, seed: Seed) -> None:
    """Tasks that wait for a limit are counted with the time until the first of them."""
    (task,) = seed.add(NewTask("limited"))
    (claimed,) = seed.claim()
    seed.end(claimed.run_id, Limited(resets_at_ms=4_000_000_000_000), RULES)
    assert any(line.startswith("1 wait for a back-off or limit, the first for ") for line in cli("status").lines)
    assert task == 1


def test_status_fits_a_narrow_terminal(cli: Cli, zoo: Zoo) -> None:
    """No line is wider than the terminal."""
    lines = cli("status", environ={"COLUMNS": "40"}).lines
    assert max(map(len, lines[:-1])) <= 40
