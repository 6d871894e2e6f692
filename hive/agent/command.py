"""Any command line as an agent: a project's own tests, another coding CLI, a script.

The prompt goes to its stdin; exit code 0 is success. What it printed stays in ``<files>.out`` and ``<files>.err``.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Collection, Mapping
from pathlib import Path

from hive.agent import Brief, Emit
from hive.agent.environment import secrets_of
from hive.agent.output import last_text, output_file
from hive.agent.process import Ending, Launcher, SpawnFailed, Sweep, child_env, supervise
from hive.clock import Clock
from hive.model import Errored, Outcome, Rejected, Succeeded, Usage

_REASON_CHARACTERS = 2000
_SUMMARY_CHARACTERS = 200
_FEEDBACK_CHARACTERS = 8000
_FEEDBACK_LINES = 60


class CommandAgent:
    """Runs `brief.argv`, without a shell.

    Args:
        base_env: Hive's own environment; little of it is passed on (`child_env`).
        pass_env: Names passed on as well; their values appear in no outcome.
    """

    name = "command"

    def __init__(
        self, launcher: Launcher, base_env: Mapping[str, str], clock: Clock, pass_env: Collection[str] = ()
    ) -> None:
        self._launcher = launcher
        self._base_env = base_env
        self._clock = clock
        self._pass_env = tuple(pass_env)
        self._secrets = secrets_of(base_env, self._pass_env)

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        """Run the command to its end; see `Agent.run`."""
        env = child_env(self._base_env, mark=brief.mark, shard=brief.shard, pass_env=self._pass_env, extra=brief.env)
        stdin = brief.prompt.encode(errors="replace") or None
        try:
            process = await self._launcher.start(brief.argv, brief.directory, env, brief.files, stdin)
        except SpawnFailed as failure:
            return failure.outcome()
        sweep = Sweep.NOW if brief.examined else Sweep.LATER
        return outcome_of(await supervise(process, brief, self._clock, emit=emit, sweep=sweep), brief, self._secrets)


def outcome_of(ending: Ending, brief: Brief, secrets: Collection[str] = ()) -> Outcome:
    """Say what the ending of a program means whose word is its exit code."""
    if ending.stopped is not None:
        return ending.stopped
    usage = Usage(duration_s=ending.duration_s)
    if ending.exit_code == 0:
        summary = _last_line(output_file(brief.files, "out"), secrets)
        return Succeeded(summary=summary, usage=usage, exit_code=0)
    what = _ended_by(ending.exit_code)
    if brief.is_test:
        return Rejected(feedback=_feedback(brief, what, secrets), usage=usage, exit_code=ending.exit_code)
    tail = _failure_tail(brief.files, secrets)
    reason = f"{what}: {tail}" if tail else what
    code = "exit" if ending.exit_code is not None and ending.exit_code > 0 else "signal"
    return Errored(code=code, reason=reason[:_REASON_CHARACTERS], usage=usage, exit_code=ending.exit_code)


def _ended_by(exit_code: int | None) -> str:
    if exit_code is None:
        return "killed, but it would not die"
    if exit_code > 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # real-time signals have no names
        return f"killed by signal {-exit_code}"


def _feedback(brief: Brief, what: str, secrets: Collection[str]) -> str:
    """Return the command, the end of what it printed, standard error last, and how it ended."""
    texts = (last_text(output_file(brief.files, kind), secrets)[-_FEEDBACK_CHARACTERS:] for kind in ("out", "err"))
    lines = "\n".join(text.strip("\n") for text in texts).strip().splitlines()
    return "\n".join([f"$ {shlex.join(brief.argv)}", *lines[-_FEEDBACK_LINES:], f"({what})"])


def _last_line(path: Path, secrets: Collection[str]) -> str:
    lines = [line.strip() for line in last_text(path, secrets).splitlines()]
    return next((line for line in reversed(lines) if line), "")[:_SUMMARY_CHARACTERS]


def _failure_tail(files: Path, secrets: Collection[str]) -> str:
    """Return the end of stderr, or of stdout if nothing was said there; short enough to follow the exit code."""
    for kind in ("err", "out"):
        text = last_text(output_file(files, kind), secrets).strip()
        if text:
            return text[-(_REASON_CHARACTERS - 100) :].strip()
    return ""
