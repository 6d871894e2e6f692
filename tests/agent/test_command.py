from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import replace

import pytest

from hive.agent import AgentEvent, Brief, Spawned
from hive.agent.command import CommandAgent
from hive.agent.output import output_file
from hive.agent.process import Launcher
from hive.agent.proctable import carriers
from hive.clock import SystemClock
from hive.model import Errored, Outcome, Rejected, Succeeded, TimedOut

from .conftest import until


@pytest.fixture
def agent(launcher: Launcher, base_env: Mapping[str, str]) -> CommandAgent:
    """An agent that runs commands."""
    return CommandAgent(launcher, base_env, SystemClock())


def shell(brief: Brief, script: str) -> Brief:
    return replace(brief, argv=("sh", "-c", script))


async def run(agent: CommandAgent, brief: Brief) -> Outcome:
    return await agent.run(brief, lambda _: None)


async def test_exit_code_zero_is_success(agent: CommandAgent, brief: Brief, events: list[AgentEvent]) -> None:
    """The last line that says something is the summary; the process was announced."""
    outcome = await agent.run(shell(brief, r"echo first; printf '\033[32mall good\033[0m\n\n'"), events.append)
    assert isinstance(outcome, Succeeded)
    assert (outcome.exit_code, outcome.summary) == (0, "all good")
    assert outcome.usage.duration_s > 0
    assert [type(event) for event in events] == [Spawned]


async def test_prompt_arrives_on_stdin_and_the_command_works_in_the_directory(
    agent: CommandAgent, brief: Brief
) -> None:
    """Prompt, directory, mark and the task's environment reach the program; the engine's environment does not."""
    script = 'cat > prompt; echo "$PWD|$HIVE_RUN_ID|$HIVE_SHARD|$COLOUR|$SECRET|$TERM"'
    private = CommandAgent(agent._launcher, {**agent._base_env, "SECRET": "s"}, SystemClock())
    outcome = await run(private, shell(replace(brief, prompt="do it", env={"COLOUR": "red"}), script))
    assert (brief.directory / "prompt").read_text() == "do it"
    assert isinstance(outcome, Succeeded)
    assert outcome.summary == f"{brief.directory}|{brief.mark}|{brief.shard}|red||dumb"[:200]


async def test_failure_tells_the_end_of_stderr(agent: CommandAgent, brief: Brief) -> None:
    """The reason holds the code and the last words, free of control characters and short."""
    script = (
        r"echo out; i=0; while [ $i -lt 900 ]; do echo line $i >&2; i=$((i+1)); done; printf 'bad\007\033[1mend\n' >&2"
    )
    outcome = await run(agent, shell(brief, f"{script}; exit 3"))
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.exit_code, outcome.retryable) == ("exit", 3, True)
    assert outcome.reason.startswith("exit code 3: ")
    assert outcome.reason.endswith("badend")
    assert 1500 < len(outcome.reason) <= 2000


@pytest.mark.parametrize(("script", "reason"), [("echo why; exit 1", "exit code 1: why"), ("exit 2", "exit code 2")])
async def test_failure_without_stderr_tells_the_end_of_stdout(
    agent: CommandAgent, brief: Brief, script: str, reason: str
) -> None:
    """Where nothing was said the code stands alone."""
    outcome = await run(agent, shell(brief, script))
    assert isinstance(outcome, Errored)
    assert outcome.reason == reason


async def test_killed_by_a_signal(agent: CommandAgent, brief: Brief) -> None:
    """The signal has its name and the exit code is negative."""
    outcome = await run(agent, shell(brief, "kill -SEGV $$"))
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.reason, outcome.exit_code) == ("signal", "killed by SIGSEGV", -signal.SIGSEGV)


async def test_missing_program_is_not_retried(agent: CommandAgent, brief: Brief, events: list[AgentEvent]) -> None:
    """Nothing was started, so nothing is announced."""
    outcome = await agent.run(replace(brief, argv=("no-such-program",)), events.append)
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.retryable, events) == ("spawn", False, [])


async def test_limits_of_the_brief_hold(agent: CommandAgent, brief: Brief) -> None:
    """A timeout is an outcome of its own."""
    outcome = await run(agent, replace(shell(brief, "sleep 300"), timeout_s=0.2))
    assert isinstance(outcome, TimedOut)
    assert outcome.which == "total"


async def test_cancelling_stops_all_it_started(agent: CommandAgent, brief: Brief) -> None:
    """Daemons included, before the cancellation goes on."""
    running = asyncio.create_task(run(agent, shell(brief, "setsid sleep 300 & echo up; wait")))
    await until(lambda: output_file(brief.files, "out").exists() and output_file(brief.files, "out").read_bytes())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert carriers([brief.mark]) == []


async def test_a_failing_listener_does_not_leave_a_process(agent: CommandAgent, brief: Brief) -> None:
    """When nobody could note the process, it is stopped."""

    def refuse(event: AgentEvent) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await agent.run(shell(brief, "sleep 300"), refuse)
    assert carriers([brief.mark]) == []


SECRET = "correct-horse-battery"


@pytest.fixture
def trusted(launcher: Launcher, base_env: Mapping[str, str]) -> CommandAgent:
    """An agent whose commands are given a secret by name, and a short word."""
    env = {**base_env, "LICENCE": SECRET, "MODE": "fast"}
    return CommandAgent(launcher, env, SystemClock(), pass_env=("LICENCE", "MODE", "ABSENT"))


@pytest.mark.parametrize("script", ["echo $LICENCE", "echo $LICENCE >&2; exit 1", "echo $LICENCE; exit 1"])
@pytest.mark.parametrize("is_test", [False, True])
async def test_values_that_were_passed_on_are_not_told(
    trusted: CommandAgent, brief: Brief, script: str, *, is_test: bool
) -> None:
    """A secret a command prints stands in its files and in no summary, reason or feedback; a short word may be told."""
    halves = "$(printf '%s\\033[1m%s' ${LICENCE%horse*} ${LICENCE#correct-})"
    colours = script.replace("$LICENCE", f"$MODE {halves}")
    outcomes = [await run(trusted, replace(shell(brief, text), is_test=is_test)) for text in (script, colours)]
    files = "".join(output_file(brief.files, kind).read_text() for kind in ("out", "err"))
    assert "horse-battery" in files
    assert not any("-battery" in _told(outcome) for outcome in outcomes)
    assert all("[redacted]" in _told(outcome) for outcome in outcomes)
    assert "fast [redacted]" in _told(outcomes[1])


def _told(outcome: Outcome) -> str:
    return outcome.summary if isinstance(outcome, Succeeded) else str(getattr(outcome, "feedback", outcome))


async def test_a_secret_is_not_told_in_part(trusted: CommandAgent, brief: Brief) -> None:
    """Where the reason is cut, no half of a secret is left."""
    flood = 'i=0; while [ $i -lt 400 ]; do printf "$LICENCE" >&2; i=$((i+1)); done; exit 1'
    outcome = await run(trusted, shell(brief, flood))
    assert isinstance(outcome, Errored)
    assert "horse" not in outcome.reason
    assert "battery" not in outcome.reason


async def test_a_red_test_is_a_verdict(agent: CommandAgent, brief: Brief) -> None:
    """What a test says comes back as feedback: the command, standard output, standard error, how it ended."""
    outcome = await run(agent, replace(shell(brief, "echo bad >&2; printf one; exit 3"), is_test=True))
    assert isinstance(outcome, Rejected)
    assert outcome.feedback == "$ sh -c 'echo bad >&2; printf one; exit 3'\none\nbad\n(exit code 3)"
    assert outcome.exit_code == 3


async def test_a_red_test_that_deleted_its_output_is_still_red(agent: CommandAgent, brief: Brief) -> None:
    """Feedback is then no more than how it ended."""
    argv = ("sh", "-c", 'rm "$0.out" "$0.err"; kill -KILL $$', str(brief.files))
    outcome = await run(agent, replace(brief, argv=argv, is_test=True))
    assert isinstance(outcome, Rejected)
    assert outcome.feedback.splitlines()[1:] == ["(killed by SIGKILL)"]
