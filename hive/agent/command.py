"""Any command line as an agent: a project's own tests, another coding CLI, a script.

The prompt goes to its stdin; exit code 0 is success. What it printed stays in ``<files>.out`` and ``<files>.err``.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Mapping
from pathlib import Path

from hive.agent import Brief, Emit
from hive.agent.output import last_bytes, output_file
from hive.agent.process import Ending, Launcher, SpawnFailed, child_env, supervise
from hive.clock import Clock
from hive.model import Errored, Outcome, Succeeded, Usage

_REASON_CHARACTERS = 2000
_SUMMARY_CHARACTERS = 200
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CommandAgent:
    """Runs `brief.argv`, without a shell.

    Args:
        base_env: Hive's own environment; little of it is passed on (`child_env`).
        pass_env: Names passed on as well.
    """

    name = "command"

    def __init__(
        self, launcher: Launcher, base_env: Mapping[str, str], clock: Clock, pass_env: Collection[str] = ()
    ) -> None:
        self._launcher = launcher
        self._base_env = base_env
        self._clock = clock
        self._pass_env = tuple(pass_env)

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        """Run the command to its end; see `Agent.run`."""
        env = child_env(self._base_env, mark=brief.mark, shard=brief.shard, pass_env=self._pass_env, extra=brief.env)
        stdin = brief.prompt.encode(errors="replace") or None
        try:
            process = await self._launcher.start(brief.argv, brief.directory, env, brief.files, stdin)
        except SpawnFailed as failure:
            return failure.outcome()
        return outcome_of(await supervise(process, brief, self._clock, emit=emit), brief)


def outcome_of(ending: Ending, brief: Brief) -> Outcome:
    """Say what the ending of a program means whose word is its exit code."""
    if ending.stopped is not None:
        return ending.stopped
    usage = Usage(duration_s=ending.duration_s)
    if ending.exit_code == 0:
        summary = _last_line(output_file(brief.files, "out"))
        return Succeeded(summary=summary, usage=usage, exit_code=0)
    tail = _failure_tail(brief.files)
    what = _ended_by(ending.exit_code)
    reason = f"{what}: {tail}" if tail else what
    code = "exit" if ending.exit_code is not None and ending.exit_code > 0 else "signal"
    return Errored(code=code, reason=reason[:_REASON_CHARACTERS], usage=usage, exit_code=ending.exit_code)


def printable(data: bytes) -> str:
    """Return output as text for people: no escape sequences, no control characters but newline and tab."""
    return _CONTROL.sub("", data.decode(errors="replace").replace("\r\n", "\n"))


def _ended_by(exit_code: int | None) -> str:
    if exit_code is None:
        return "killed, but it would not die"
    if exit_code > 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # real-time signals have no names
        return f"killed by signal {-exit_code}"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in printable(last_bytes(path)).splitlines()]
    return next((line for line in reversed(lines) if line), "")[:_SUMMARY_CHARACTERS]


def _failure_tail(files: Path) -> str:
    """Return the end of stderr, or of stdout if nothing was said there; short enough to follow the exit code."""
    for kind in ("err", "out"):
        text = printable(last_bytes(output_file(files, kind))).strip()
        if text:
            return text[-(_REASON_CHARACTERS - 100) :].strip()
    return ""
