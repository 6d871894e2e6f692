from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hive.agent import AgentEvent, Brief, LimitSeen, Said, Spawned
from hive.agent.output import output_file
from hive.agent.process import Launcher
from hive.agent.proctable import carriers
from hive.agent.scripted import ScriptedAgent
from hive.clock import ManualClock, SystemClock
from hive.model import Errored, Limited, Outcome, Succeeded, TimedOut

from .conftest import until

# Ends once the process it leaves behind has left its group and session.
DAEMON = 'setsid sh -c "echo up > up; exec sleep 300" & until [ -s up ]; do sleep 0.01; done'


@pytest.fixture
def agent(launcher: Launcher, base_env: Mapping[str, str]) -> ScriptedAgent:
    """An agent on the machine's clock."""
    return ScriptedAgent(launcher, base_env, SystemClock())


@pytest.fixture
def clock() -> ManualClock:
    """A clock the test moves."""
    return ManualClock()


@pytest.fixture
def timeless(launcher: Launcher, base_env: Mapping[str, str], clock: ManualClock) -> ScriptedAgent:
    """An agent on a clock the test moves."""
    return ScriptedAgent(launcher, base_env, clock)


async def run(agent: ScriptedAgent, brief: Brief, script: str) -> Outcome:
    return await agent.run(replace(brief, script=script), lambda _: None)


async def start(agent: ScriptedAgent, brief: Brief, script: str) -> asyncio.Task[Outcome]:
    """Start a script and let it come to its first wait."""
    task = asyncio.create_task(run(agent, brief, script))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


def git(directory: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(directory.parent)}
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=env, check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    return done.stdout.strip()


async def test_what_it_says_and_does_is_written_and_told(
    agent: ScriptedAgent, brief: Brief, events: list[AgentEvent]
) -> None:
    """Files change, the output holds a JSON object a line, the last word is the summary, and usage has the cost."""
    script = "say one\nedit a/x.txt <<E\n1\n2\nE\nappend a/x.txt 3\ncost 0.5\ncost 0.25\nsay two"
    outcome = await agent.run(replace(brief, script=script, session_id="s-1"), events.append)
    assert isinstance(outcome, Succeeded)
    assert (outcome.summary, outcome.exit_code, outcome.session_id) == ("two", 0, "s-1")
    assert outcome.usage.cost_usd == 0.75
    assert (brief.directory / "a/x.txt").read_text() == "1\n2\n3\n"
    lines = output_file(brief.files, "out").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["say", "edit", "append", "say"]
    assert [event.kind for event in events if isinstance(event, Said)] == [
        "agent.text",
        "agent.tool",
        "agent.tool",
        "agent.text",
    ]


async def test_delete_removes_files_and_directories(agent: ScriptedAgent, brief: Brief) -> None:
    """A path that does not exist is no error."""
    script = "edit d/a x\nedit b y\ndelete d\ndelete b\ndelete never"
    assert isinstance(await run(agent, brief, script), Succeeded)
    assert list(brief.directory.iterdir()) == []


@pytest.mark.parametrize("step", ["edit link/x text", "append link/x text", "delete link/x", "edit file text"])
async def test_symbolic_links_do_not_lead_out(agent: ScriptedAgent, brief: Brief, tmp_path: Path, step: str) -> None:
    """A script changes nothing outside its directory, also through a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("kept")
    (brief.directory / "link").symlink_to(outside)
    (brief.directory / "file").symlink_to(outside / "x")
    outcome = await run(agent, brief, step)
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.retryable) == ("script", False)
    assert (outside / "x").read_text() == "kept"


async def test_commit_is_a_real_one(agent: ScriptedAgent, brief: Brief) -> None:
    """All changes are in it, by Hive Scripted; without changes there is no second one and no error."""
    git(brief.directory, "init", "--quiet")
    (brief.directory / ".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (brief.directory / ".git/hooks/pre-commit").chmod(0o755)
    outcome = await run(agent, brief, "edit a x\nedit b y\ncommit both files\ncommit nothing")
    assert isinstance(outcome, Succeeded), outcome
    assert git(brief.directory, "log", "--format=%an|%ae|%s") == "Hive Scripted|scripted@hive.invalid|both files"
    assert git(brief.directory, "status", "--porcelain") == ""


async def test_commit_outside_a_repository_fails(agent: ScriptedAgent, brief: Brief) -> None:
    """What git says is the reason."""
    outcome = await run(agent, replace(brief, env={"GIT_CEILING_DIRECTORIES": str(brief.state_dir)}), "commit x")
    assert isinstance(outcome, Errored)
    assert "not a git repository" in outcome.reason


async def test_run_starts_a_real_program(agent: ScriptedAgent, brief: Brief, events: list[AgentEvent]) -> None:
    """The program works in the directory with the mark, and the script goes on after exit code 0."""
    script = "run sh -c 'echo $HIVE_RUN_ID > here'\nsay after"
    outcome = await agent.run(replace(brief, script=script), events.append)
    assert isinstance(outcome, Succeeded)
    assert outcome.summary == "after"
    assert (brief.directory / "here").read_text().strip() == brief.mark
    assert len([event for event in events if isinstance(event, Spawned) and event.process is not None]) == 1


@pytest.mark.parametrize(
    ("program", "code", "exit_code"),
    [("sh -c 'echo no >&2; exit 4'", "exit", 4), ("sh -c 'kill -9 $$'", "signal", -9), ("no-such", "spawn", None)],
)
async def test_a_program_that_fails_ends_the_run(
    agent: ScriptedAgent, brief: Brief, program: str, code: str, exit_code: int | None
) -> None:
    """Nothing after it is done."""
    outcome = await run(agent, brief, f"run {program}\nedit never x")
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.exit_code) == (code, exit_code)
    assert list(brief.directory.iterdir()) == []


async def test_what_programs_leave_behind_is_swept_later(
    agent: ScriptedAgent, brief: Brief, launcher: Launcher
) -> None:
    """A daemon serves the following steps and is gone after the sweep that follows the run."""
    assert isinstance(await run(agent, brief, f"run sh -c '{DAEMON}'\nrun true"), Succeeded)
    assert len(carriers([brief.mark])) == 1
    await launcher.sweeper.sweep()
    assert carriers([brief.mark]) == []


async def test_cancelling_stops_programs_and_their_daemons(agent: ScriptedAgent, brief: Brief) -> None:
    """Before the cancellation goes on, nothing carries the mark, whichever step it was in."""
    task = await start(agent, brief, f"run sh -c '{DAEMON}'\nedit reached x\nhang")
    await until((brief.directory / "reached").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert carriers([brief.mark]) == []


@pytest.mark.parametrize(("step", "retryable"), [("fail boom", True), ("fatal boom", False)])
async def test_failures(agent: ScriptedAgent, brief: Brief, step: str, retryable: bool) -> None:  # noqa: FBT001
    """The message is the reason, and the script says whether another attempt makes sense."""
    outcome = await run(agent, brief, f"cost 1\n{step}\nsay never")
    assert isinstance(outcome, Errored)
    assert (outcome.reason, outcome.retryable, outcome.usage.cost_usd) == ("boom", retryable, 1)


async def test_exit_ends_like_a_program(agent: ScriptedAgent, brief: Brief) -> None:
    """0 is success, anything else is not."""
    good = await run(agent, brief, "say fine\nexit 0\nfail never")
    bad = await run(agent, brief, "exit 9")
    assert isinstance(good, Succeeded)
    assert (good.summary, good.exit_code) == ("fine", 0)
    assert isinstance(bad, Errored)
    assert (bad.code, bad.exit_code) == ("exit", 9)


async def test_attempt_and_round_choose_the_steps(agent: ScriptedAgent, brief: Brief) -> None:
    """The first attempt fails, the second does not."""
    script = "[attempt 1] fail not yet\n[round >= 1] say reworked\n[round 0] say fresh"
    assert isinstance(await run(agent, brief, script), Errored)
    second = await run(agent, replace(brief, attempt=2, round=1), script)
    assert isinstance(second, Succeeded)
    assert second.summary == "reworked"


async def test_a_wrong_script_does_nothing(agent: ScriptedAgent, brief: Brief) -> None:
    """The line is named, and trying again is pointless."""
    outcome = await run(agent, brief, "edit x y\nnonsense")
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.retryable) == ("script", False)
    assert outcome.reason.startswith("script line 2: ")
    assert list(brief.directory.iterdir()) == []


async def test_limit_says_when_it_is_over(timeless: ScriptedAgent, brief: Brief, clock: ManualClock) -> None:
    """The moment is in the outcome and in an event."""
    events: list[AgentEvent] = []
    outcome = await timeless.run(replace(brief, script="limit 90"), events.append)
    assert isinstance(outcome, Limited)
    assert outcome.resets_at_ms == clock.now_ms() + 90_000
    assert events == [Spawned(None), LimitSeen("scripted", rejected=True, resets_at_ms=outcome.resets_at_ms)]


async def test_sleep_waits_on_the_clock(timeless: ScriptedAgent, brief: Brief, clock: ManualClock) -> None:
    """It goes on when the time has come, not before, and the duration says so."""
    task = await start(timeless, brief, "sleep 60\nsay awake")
    clock.advance(59)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(1)
    outcome = await task
    assert isinstance(outcome, Succeeded)
    assert outcome.usage.duration_s == 60


@pytest.mark.parametrize("step", ["hang", "sleep 100000"])
@pytest.mark.parametrize("which", ["total", "idle"])
async def test_limits_end_a_wait(
    timeless: ScriptedAgent, brief: Brief, clock: ManualClock, step: str, which: str
) -> None:
    """A script that hangs is timed out like any other agent."""
    limited = replace(brief, timeout_s=50.0) if which == "total" else replace(brief, idle_timeout_s=50.0)
    task = await start(timeless, limited, step)
    clock.advance(50)
    outcome = await task
    assert isinstance(outcome, TimedOut)
    assert (outcome.which, outcome.after_s, outcome.usage.duration_s) == (which, 50, 50)


async def test_the_time_limit_counts_over_all_programs(
    timeless: ScriptedAgent, brief: Brief, clock: ManualClock
) -> None:
    """A program gets what is left of the run's time."""
    script = "run sh -c 'touch one; until [ -e go ]; do sleep 0.01; done'\nrun sh -c 'touch two; exec sleep 300'"
    task = await start(timeless, replace(brief, timeout_s=50.0), script)
    await until((brief.directory / "one").exists)
    clock.advance(30)
    (brief.directory / "go").touch()
    await until((brief.directory / "two").exists)
    clock.advance(25)
    outcome = await asyncio.wait_for(task, 20)
    assert isinstance(outcome, TimedOut)
    assert (outcome.which, outcome.after_s) == ("total", 55)


async def test_hang_ends_when_cancelled(timeless: ScriptedAgent, brief: Brief) -> None:
    """A hanging script is no obstacle."""
    task = await start(timeless, brief, "hang")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_flood_writes_as_much_as_it_says(agent: ScriptedAgent, brief: Brief) -> None:
    """To the byte, below the limit."""
    assert isinstance(await run(agent, brief, "flood 3000001"), Succeeded)
    assert output_file(brief.files, "out").stat().st_size == 3_000_001


async def test_flood_ends_at_the_output_limit(agent: ScriptedAgent, brief: Brief) -> None:
    """200 MB against a limit of 1 MB is an error, and the file stays small."""
    outcome = await run(agent, replace(brief, output_limit_bytes=1_000_000), "flood 200000000")
    assert isinstance(outcome, Errored)
    assert outcome.code == "output_limit"
    assert output_file(brief.files, "out").stat().st_size < 2_000_000
