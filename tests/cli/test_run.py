from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hive.api import open_sync
from hive.cli.progress import PlainProgress
from hive.clock import SystemClock
from hive.model import NewTask, Phase, State, TaskId, WorkspaceKind
from hive.store import Steer
from tests.cli.conftest import Answer, Seed, done, failed, hive, hive_process

FORMS = pytest.mark.parametrize("form", [("--sync",), ("--cores", "1")], ids=["sync", "forked"])


def command(*argv: str, **fields: Any) -> NewTask:
    """Return a task that runs a program, without a workspace unless told."""
    return NewTask(**{"title": "t", "agent": "command", "command": argv, "workspace": WorkspaceKind.NONE, **fields})


def states(seed: Seed) -> list[State]:
    with open_sync(seed.url) as queue:
        return [task.state for task in queue.tasks()]


def run(directory: Path, *words: str) -> Answer:
    return hive("run", *words, cwd=directory, environ={"HOME": str(directory)})


# --- what stops a run


def test_one_queued_task_that_cannot_run_does_not_stop_the_others(seed: Seed, repo: Path) -> None:
    """A base that is gone is noted and shows in that task's own run; everything else is worked."""
    in_repo = {"workspace": WorkspaceKind.REPO, "allow_no_change": True, "retries": 0}
    seed.add(command("true", base="gone", **in_repo), command("true", **in_repo), command("true"))
    answer = run(repo, "--sync")
    assert states(seed)[1:] == [State.COMPLETED, State.COMPLETED]
    assert states(seed)[0] in {State.FAILED, State.NEEDS_YOU}
    assert answer.code in {1, 3}
    assert "hive: base 'gone' is no commit of this repository (hive help H212)" in answer.err


def test_a_missing_claude_stops_the_run_before_it_starts(seed: Seed, tmp_path: Path) -> None:
    """What concerns all queued tasks of claude is an error at once, and nothing was run."""
    (tmp_path / "hive.toml").write_text('claude = "claude-that-is-not-there"\n')
    seed.add(command("true"), NewTask("for claude", prompt="p", workspace=WorkspaceKind.NONE))
    answer = run(tmp_path, "--sync")
    assert (answer.code, "error[H201]" in answer.err) == (5, True)
    assert states(seed) == [State.QUEUED, State.QUEUED]


def test_held_tasks_and_phases_that_are_over_need_nothing(seed: Seed, tmp_path: Path) -> None:
    """Neither a held task of claude nor one that is only to be tested needs the claude CLI."""
    (tmp_path / "hive.toml").write_text('claude = "claude-that-is-not-there"\n')
    (half,) = seed.add(
        NewTask("half", prompt="p", workspace=WorkspaceKind.NONE, phases=(Phase.APPLY, Phase.TEST), test=("true",))
    )
    seed.work(half, done())
    seed.add(NewTask("held", prompt="p", workspace=WorkspaceKind.NONE, hold=True))
    answer = run(tmp_path, "--sync")
    assert "H201" not in answer.err
    assert states(seed) == [State.COMPLETED, State.QUEUED]


def test_a_task_of_this_very_command_stops_it(seed: Seed, repo: Path) -> None:
    """What is wrong with a task that is being added is an error; it is not added and nothing runs."""
    seed.add(command("true"))
    (repo / "tasks.jsonl").write_text('{"key": "a", "command": ["true"], "base": "gone", "phases": ["apply"]}\n')
    answer = run(repo, "--sync", "tasks.jsonl")
    assert (answer.code, "error[H212]" in answer.err) == (2, True)
    assert states(seed) == [State.QUEUED]


# --- what it says


@FORMS
@pytest.mark.parametrize("words", [("--jsonl",), ("--progress", "json")])
def test_the_stream_of_events_is_data(
    seed: Seed, tmp_path: Path, form: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Events come on stdout, every one, one a line, and nothing else does."""
    seed.add(command("true"), command("false", retries=0))
    with open_sync(seed.url) as queue:
        before = queue.counts().last_seq
    answer = run(tmp_path, *form, *words)
    assert answer.code == 1
    rows = [json.loads(line) for line in answer.lines]
    with open_sync(seed.url) as queue:
        assert [row["seq"] for row in rows] == list(range(before + 1, queue.counts().last_seq + 1))
    assert {"run.finished", "task.completed", "task.failed"} <= {row["kind"] for row in rows}
    assert '"seq"' not in answer.err


def test_the_summary_is_the_last_line_of_a_stream(seed: Seed, tmp_path: Path) -> None:
    """With --json the one document comes after the events."""
    seed.add(command("true"))
    *events, last = run(tmp_path, "--sync", "--json", "--progress", "json").lines
    assert json.loads(last)["schema"] == "hive.run/1"
    assert all("seq" in json.loads(line) for line in events)


@FORMS
def test_a_reader_that_leaves_does_not_stop_the_work(seed: Seed, tmp_path: Path, form: tuple[str, ...]) -> None:
    """When nobody reads the events any more the queue is worked all the same, without a word."""
    seed.add(command("true"), command("true"))
    read, write = os.pipe()
    os.close(read)
    process = hive_process("run", *form, "--jsonl", cwd=tmp_path, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert states(seed) == [State.COMPLETED, State.COMPLETED]


def test_progress_for_people_survives_a_closed_pipe(seed: Seed) -> None:
    """The same holds for lines on stderr."""
    (task,) = seed.add(NewTask("one"))
    seed.work(task, failed())
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        progress = PlainProgress(open_sync(seed.url), after=0, clock=SystemClock(), out=out)
        progress.poll()
        progress.close()
        with pytest.raises(BrokenPipeError):
            out.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def test_a_paused_queue_is_told_at_the_start(seed: Seed, tmp_path: Path) -> None:
    """Whoever starts an engine on a paused queue is told so, once, and `hive resume` lets it start."""
    seed.add(command("true"))
    with open_sync(seed.url) as queue:
        queue.control(Steer(paused=True))
    process = hive_process("run", "--sync", cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "hive: paused: nothing starts until `hive resume`\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.8)
    assert states(seed) == [State.QUEUED]
    assert hive("resume", cwd=tmp_path).code == 0
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "paused" in err) == (0, False)
    assert out.startswith("1 completed")
    assert _runs(seed, TaskId(1)) == 1


def _runs(seed: Seed, task_id: TaskId) -> int:
    with open_sync(seed.url) as queue:
        return len(queue.runs(task_id))
