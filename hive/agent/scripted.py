"""An agent that plays a script (`hive.agent.script` describes the steps): for tests, benchmarks and `hive demo`.

The same protocol as the others and real effects: files, commits, programs, waits. Says what it does to ``<files>.out``,
one JSON object a line. Programs it runs write to ``<files>.1.out``, ``<files>.2.out`` and so on.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hive.agent import Brief, Emit, LimitSeen, Said, Spawned
from hive.agent.command import outcome_of
from hive.agent.output import last_text, output_file
from hive.agent.process import Launcher, SpawnFailed, Sweep, child_env, supervise
from hive.agent.script import Script, Step, Verb, parse_script
from hive.clock import Clock
from hive.errors import UsageError
from hive.model import Errored, Json, Limited, Outcome, Succeeded, TimedOut, Usage

__all__ = ["Script", "ScriptedAgent", "parse_script"]

_HANG_S = 3600.0
_FLOOD_BYTES = 256 * 1024
_SAID_CHARACTERS = 2000

# Nothing of the person's git configuration that could ask, sign, run hooks or start background work.
_GIT = (
    *("git", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "gc.auto=0", "-c", "maintenance.auto=false"),
)
_GIT_ENV = (
    ("GIT_AUTHOR_NAME", "Hive Scripted"),
    ("GIT_AUTHOR_EMAIL", "scripted@hive.invalid"),
    ("GIT_COMMITTER_NAME", "Hive Scripted"),
    ("GIT_COMMITTER_EMAIL", "scripted@hive.invalid"),
    ("GIT_TERMINAL_PROMPT", "0"),
)


class ScriptedAgent:
    """Plays `brief.script`.

    Args:
        launcher: Starts git and the programs of ``run``.
        base_env: Hive's own environment; little of it reaches those programs (`child_env`).
        clock: Measures the limits of the brief, and waits.
    """

    name = "scripted"

    def __init__(self, launcher: Launcher, base_env: Mapping[str, str], clock: Clock) -> None:
        self._launcher = launcher
        self._base_env = base_env
        self._clock = clock

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        """Do the steps that apply to this attempt and round, in order; see `Agent.run`."""
        try:
            script = parse_script(brief.script)
        except UsageError as error:
            return Errored(code="script", reason=error.message, retryable=False)
        play = _Play(self._launcher, self._base_env, self._clock, brief, emit)
        try:
            return await play.run(script)
        finally:
            play.close()


class _Play:
    """One run of a script."""

    def __init__(self, launcher: Launcher, base_env: Mapping[str, str], clock: Clock, brief: Brief, emit: Emit) -> None:
        self._launcher = launcher
        self._base_env = base_env
        self._clock = clock
        self._brief = brief
        self._emit = emit
        self._began_s = self._wrote_s = clock.monotonic_s()
        self._cost_usd = 0.0
        self._summary = ""
        self._children = 0
        self._written_bytes = 0
        path = output_file(brief.files, "out")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    async def run(self, script: Script) -> Outcome:
        """Do the steps until one ends the run."""
        self._emit(Spawned(None))
        try:
            return self._complete(await self._steps(script))
        except asyncio.CancelledError:
            if self._children:
                await self._launcher.sweeper.finish((), [self._brief.mark], self._brief.grace_s)
            raise

    def close(self) -> None:
        """Let go of the output, and have what the programs left behind looked for."""
        os.close(self._out)
        if self._children:
            self._launcher.sweeper.later(self._brief.mark)

    async def _steps(self, script: Script) -> Outcome:
        for step in script.steps:
            if not step.applies(self._brief.attempt, self._brief.round):
                continue
            try:
                outcome = self._exceeded() or await self._do(step)
            except OSError as error:
                reason = f"script line {step.line}: {step.verb}: {error.strerror} ({error.filename})"
                outcome = Errored(code="script", reason=reason)
            if outcome is not None:
                return outcome
        return self._exceeded() or Succeeded(summary=self._summary, exit_code=0)

    def _complete(self, outcome: Outcome) -> Outcome:
        usage = Usage(cost_usd=self._cost_usd, duration_s=self._clock.monotonic_s() - self._began_s)
        return replace(outcome, usage=usage, session_id=self._brief.session_id)

    async def _do(self, step: Step) -> Outcome | None:
        match step.verb:
            case Verb.SAY | Verb.COST:
                self._note(step)
            case Verb.EDIT | Verb.APPEND:
                return self._write(step)
            case Verb.DELETE:
                return self._delete(step)
            case Verb.COMMIT:
                return await self._commit(step.text)
            case Verb.RUN:
                return await self._program(step.argv)
            case Verb.SLEEP | Verb.HANG:
                return await self._pause(step)
            case Verb.FLOOD:
                return await self._flood(int(step.number))
            case Verb.LIMIT | Verb.FAIL | Verb.FATAL | Verb.EXIT:
                return self._end(step)
        return None

    def _end(self, step: Step) -> Outcome:
        match step.verb:
            case Verb.LIMIT:
                return self._limit(step.number)
            case Verb.EXIT if step.number == 0:
                return Succeeded(summary=self._summary, exit_code=0)
            case Verb.EXIT:
                code = int(step.number)
                return Errored(code="exit", reason=f"exit code {code}", exit_code=code)
            case _:
                return Errored(code="script", reason=step.text, retryable=step.verb is Verb.FAIL)

    def _limit(self, seconds: float) -> Limited:
        resets_at_ms = self._clock.now_ms() + round(seconds * 1000)
        self._emit(LimitSeen(kind="scripted", rejected=True, resets_at_ms=resets_at_ms))
        return Limited(resets_at_ms, reason="scripted")

    def _note(self, step: Step) -> None:
        if step.verb is Verb.COST:
            self._cost_usd += step.number
            return
        self._summary = step.text
        self._emit(Said("agent.text", {"text": step.text[:_SAID_CHARACTERS]}))
        self._record({"step": "say", "text": step.text})

    def _did(self, tool: str, data: Mapping[str, Json]) -> None:
        self._emit(Said("agent.tool", {"tool": tool, **data}))
        self._record({"step": tool, **data})

    def _record(self, entry: Mapping[str, Json]) -> None:
        self._put(json.dumps(entry, ensure_ascii=True).encode() + b"\n")

    def _put(self, data: bytes) -> None:
        self._written_bytes += os.write(self._out, data)
        self._wrote_s = self._clock.monotonic_s()

    def _write(self, step: Step) -> Outcome | None:
        path = self._inside(step.path)
        if path is None:
            return _outside(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if step.verb is Verb.EDIT else "a", encoding="utf-8", newline="") as file:
            file.write(step.text)
        self._did(step.verb, {"path": step.path})
        return None

    def _delete(self, step: Step) -> Outcome | None:
        path = self._inside(step.path)
        if path is None:
            return _outside(step)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        self._did(step.verb, {"path": step.path})
        return None

    def _inside(self, relative: str) -> Path | None:
        """Return the real path, or None when a symbolic link leads out of the directory."""
        root = self._brief.directory.resolve()
        path = (root / relative).resolve()
        return path if path.is_relative_to(root) and path != root else None

    async def _commit(self, message: str) -> Outcome | None:
        added = await self._child((*_GIT, "add", "--all"), dict(_GIT_ENV))
        if not isinstance(added, Succeeded):
            return added
        changed = await self._child((*_GIT, "diff", "--cached", "--quiet"), dict(_GIT_ENV))
        if isinstance(changed, Succeeded):
            self._did("commit", {"message": message, "committed": False})
            return None
        if changed.exit_code != 1:
            return changed
        done = await self._child((*_GIT, "commit", "--quiet", "--message", message), dict(_GIT_ENV))
        if not isinstance(done, Succeeded):
            return done
        self._did("commit", {"message": message, "committed": True})
        return None

    async def _program(self, argv: tuple[str, ...]) -> Outcome | None:
        outcome = await self._child(argv, {})
        tail = last_text(output_file(self._child_files(), "out"))[-_SAID_CHARACTERS:]
        self._did("run", {"argv": argv, "exit_code": outcome.exit_code, "output": tail})
        return None if isinstance(outcome, Succeeded) else outcome

    async def _child(self, argv: tuple[str, ...], more_env: Mapping[str, str]) -> Outcome:
        """Run a program to its end, within what is left of the run's time."""
        self._children += 1
        files = self._child_files()
        brief = self._brief
        extra = {**brief.env, **more_env}
        env = child_env(self._base_env, mark=brief.mark, shard=brief.shard, extra=extra)
        try:
            process = await self._launcher.start(argv, brief.directory, env, files)
        except SpawnFailed as failure:
            return failure.outcome()
        limits = replace(brief, files=files, timeout_s=self._left_s())
        ending = await supervise(process, limits, self._clock, emit=self._emit, sweep=Sweep.NOT_YET)
        outcome = outcome_of(ending, limits)
        self._wrote_s = self._clock.monotonic_s()
        if isinstance(outcome, TimedOut):
            return self._exceeded() or outcome  # in terms of the whole run
        return outcome

    def _child_files(self) -> Path:
        return self._brief.files.with_name(f"{self._brief.files.name}.{self._children}")

    def _left_s(self) -> float | None:
        if self._brief.timeout_s is None:
            return None
        return max(0.0, self._began_s + self._brief.timeout_s - self._clock.monotonic_s())

    async def _pause(self, step: Step) -> Outcome | None:
        if step.verb is Verb.SLEEP:
            return await self._wait(step.number)
        while (outcome := await self._wait(_HANG_S)) is None:
            pass
        return outcome

    async def _wait(self, seconds: float) -> Outcome | None:
        """Wait, but not beyond the moment a limit of the brief is reached."""
        now_s = self._clock.monotonic_s()
        waits = [seconds]
        if self._brief.timeout_s is not None:
            waits.append(self._began_s + self._brief.timeout_s - now_s)
        if self._brief.idle_timeout_s is not None:
            waits.append(self._wrote_s + self._brief.idle_timeout_s - now_s)
        await self._clock.sleep(min(waits))
        return self._exceeded()

    async def _flood(self, size_bytes: int) -> Outcome | None:
        line = b"x" * 1023 + b"\n"
        chunk = line * (_FLOOD_BYTES // len(line))
        while size_bytes > 0:
            data = chunk[:size_bytes]
            self._put(data)  # in the loop: a thread could still be writing after a cancellation closed the file
            await self._clock.sleep(0)
            size_bytes -= len(data)
            exceeded = self._exceeded()
            if exceeded is not None:
                return exceeded
        return None

    def _exceeded(self) -> TimedOut | Errored | None:
        brief, now_s = self._brief, self._clock.monotonic_s()
        if self._written_bytes > brief.output_limit_bytes:
            limit = f"output of {self._written_bytes} bytes exceeds the limit of {brief.output_limit_bytes} bytes"
            return Errored(code="output_limit", reason=limit)
        if brief.timeout_s is not None and now_s - self._began_s >= brief.timeout_s:
            return TimedOut(which="total", after_s=now_s - self._began_s)
        if brief.idle_timeout_s is not None and now_s - self._wrote_s >= brief.idle_timeout_s:
            return TimedOut(which="idle", after_s=now_s - self._wrote_s)
        return None


def _outside(step: Step) -> Errored:
    reason = f"script line {step.line}: {step.path} leads out of the directory"
    return Errored(code="script", reason=reason, retryable=False)
