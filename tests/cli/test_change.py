from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from hive.api import SyncHive
from hive.model import Phase, State
from tests.cli.conftest import Cli, Zoo, hive_process


def state(queue: SyncHive, task_id: int) -> State:
    task = queue.task(task_id)
    assert task is not None
    return task.state


def test_cancel_says_what_it_did(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """One task needs no yes; a running one is marked, and it is said who stops it."""
    answer = cli("cancel", zoo.queued)
    assert (answer.code, answer.out) == (0, "cancel: 1 task (7)\n")
    assert state(queue, zoo.queued) is State.CANCELLED
    running = cli("cancel", zoo.in_progress)
    assert "cancelled when the engine has stopped the agents" in running.err
    assert state(queue, zoo.in_progress) is State.IN_PROGRESS


def test_more_than_one_task_needs_a_yes(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """Without a terminal, two tasks are refused with 2 and nothing changes; --yes does it."""
    answer = cli("retry", "@failed", "@needs_you")
    assert answer.code == 2
    assert answer.err.splitlines()[0] == "error[H133]: not without a yes: retry 2 tasks, $1.50 est. spent on them"
    assert state(queue, zoo.failed) is State.FAILED
    assert cli("retry", "@failed", "@needs_you", "--yes").code == 0
    assert state(queue, zoo.failed) is State.QUEUED


@pytest.mark.parametrize("verb", [["cancel"], ["retry"], ["hold"], ["release"], ["prio", "5"]])
def test_a_dry_run_changes_nothing(cli: Cli, zoo: Zoo, queue: SyncHive, verb: list[str]) -> None:
    """--dry-run of every changing verb lists the tasks it would be and needs no yes."""
    before = queue.past_events(0)
    answer = cli(*verb, "@all", "--dry-run")
    assert answer.code == 0
    assert answer.lines[0] == f"would {verb[0]} 8 tasks"
    assert len(answer.lines) == 10
    data = cli(*verb, "@all", "--dry-run", "--json").data
    assert (data["dry_run"], data["selected"], data["changed"]) == (True, list(zoo.all), [])
    assert queue.past_events(0) == before


def test_tasks_are_refused_one_by_one(cli: Cli, zoo: Zoo) -> None:
    """What makes no sense for some tasks is done to the others, and said for each reason."""
    answer = cli("hold", "@all", "-y")
    assert answer.code == 0
    assert "hold: 5 tasks (3, 5, 6, 7, 8)" in answer.lines
    assert "left alone: 1 task (1): already completed" in answer.lines
    data = cli("cancel", "@all", "-y", "--json").data
    assert data["schema"] == "hive.receipt/1"
    assert set(data["changed"]) == {3, 5, 6, 7, 8}
    assert {"id": 1, "why": "already completed"} in data["refused"]


def test_when_nothing_could_be_done_the_exit_code_says_so(cli: Cli, zoo: Zoo) -> None:
    """A command that changed nothing because it makes no sense exits with 2 and the reason."""
    answer = cli("cancel", zoo.completed)
    assert answer.code == 2
    assert answer.err.splitlines()[0] == "error[H134]: cannot cancel task 1: already completed"


def test_matching_nothing_is_no_error(cli: Cli, zoo: Zoo) -> None:
    """A filter that matches no task leaves all as it is and exits with 0."""
    answer = cli("retry", "@waiting")
    assert (answer.code, answer.out) == (0, "no task matches; nothing was changed\n")


def test_a_verb_without_tasks_asks_which(cli: Cli, zoo: Zoo) -> None:
    """Forgetting the selector never means all tasks."""
    answer = cli("cancel")
    assert answer.code == 2
    assert "cancel what?" in answer.err


def test_retry_takes_phase_and_note(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """--from and --note reach the task."""
    assert cli("retry", zoo.failed, "--from", "apply", "--note", "use attrs 23").code == 0
    task = queue.task(zoo.failed)
    assert task is not None
    assert (task.state, task.phase, task.feedback) == (State.QUEUED, Phase.APPLY, "use attrs 23")
    assert "no phase test" in cli("retry", zoo.needs_you, "--from", "test").err


def test_hold_release_and_prio_change_the_task(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """Each verb does what it says."""
    assert cli("hold", "hostile").code == 0
    assert cli("prio", "--", -7, "hostile").code == 0
    assert _held_and_priority(queue, zoo.queued) == (True, -7)
    assert cli("release", "hostile").code == 0
    assert _held_and_priority(queue, zoo.queued) == (False, -7)


def _held_and_priority(queue: SyncHive, task_id: int) -> tuple[bool, int]:
    task = queue.task(task_id)
    assert task is not None
    return task.held, task.spec.priority


@pytest.mark.parametrize(("reply", "code", "becomes"), [("y\n", 0, State.CANCELLED), ("n\n", 2, State.QUEUED)])
def test_on_a_terminal_one_is_asked(
    zoo: Zoo, queue: SyncHive, tmp_path: Path, *, reply: str, code: int, becomes: State
) -> None:
    """With a terminal the question is put there, and the answer counts."""
    ours, theirs = pty.openpty()
    process = hive_process("cancel", "7..8", cwd=tmp_path, stdin=theirs, stderr=theirs)
    os.close(theirs)
    asked = b""
    while b"[y/N]" not in asked:
        asked += os.read(ours, 1024)
    assert b"cancel 2 tasks?" in asked
    os.write(ours, reply.encode())
    process.communicate(timeout=20)
    os.close(ours)
    assert process.returncode == code
    assert state(queue, zoo.queued) is becomes
