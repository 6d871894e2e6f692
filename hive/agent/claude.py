"""The claude CLI as an agent: its arguments, its environment, and one run from start to outcome.

With its neighbours the only place that knows the CLI: `claude_stream` reads what it prints, `claude_endings` says what
an ending means, `claude_messages` knows the shapes, `claude_slot` the directories. Source: claude 2.1.330.

**What a repository may decide.** Nothing about the CLI: a checked-in ``.claude/settings.json`` could send the API key
to another server, run hooks and start servers. No setting source is read at all, not even the slot's own, which an
agent could have written. Only the text of ``CLAUDE.md`` is passed on, as part of the system prompt.

**What the agent sees.** An environment built from nothing, and the HOME of the person who runs Hive, because git's
identity and tools' caches live there; hiding it would protect nothing, since any command can look the home directory
up. The configuration of the CLI itself is not read from there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from hive.agent import Brief, Emit, Said, Spawned
from hive.agent.claude_endings import SESSION, Exit, outcome_of
from hive.agent.claude_slot import open_slot_blocking, set_aside_blocking
from hive.agent.claude_stream import Stream
from hive.agent.environment import secrets_of
from hive.agent.output import last_bytes, output_file
from hive.agent.process import Launcher, LineFramer, SpawnFailed, Sweep, child_env, supervise
from hive.clock import Clock
from hive.model import Errored, Outcome, Usage

BASE_TOOLS = ("Bash", "Read", "Edit", "Write", "Glob", "Grep")
"""Built-in tools that exist for an agent; rules for others add them. The CLI's own 22 cost 32 KB in every request."""

LOGIN = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN")
"""Variables by which the CLI is logged in."""

_LOGIN_SECRETS = tuple(name for name in LOGIN if name != "ANTHROPIC_BASE_URL")

_FIXED_ENV: Mapping[str, str] = {
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",  # what one task noted must not steer another
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # a forgotten one holds the process for 600 s
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_MAX_RETRIES": "2",  # one wait of Hive serves the whole fleet, ten of each CLI take 183 s
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
_OWN_PREFIXES = ("ANTHROPIC_", "CLAUDE")
_GUIDE_LIMIT_BYTES = 256 * 1024


class ClaudeAgent:
    """Runs the claude CLI headless, once for a brief, at most twice.

    Args:
        base_env: Hive's own environment; login, PATH, HOME and `pass_env` are taken from it.
        executable: Program name or path.
        pass_env: Names passed on as well: proxies, certificates, credentials of cloud providers.
        linger_s: How long the process may stay after its result before it is stopped; the result stands.
    """

    name = "claude"

    def __init__(
        self,
        launcher: Launcher,
        base_env: Mapping[str, str],
        clock: Clock,
        executable: str = "claude",
        pass_env: Collection[str] = (),
        *,
        linger_s: float = 10.0,
    ) -> None:
        self._launcher = launcher
        self._base_env = base_env
        self._clock = clock
        self._executable = executable
        self._pass_env = tuple(pass_env)
        self._linger_s = linger_s
        self._secrets = secrets_of(base_env, (*_LOGIN_SECRETS, *self._pass_env))

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        """Run the CLI to its end; see `Agent.run`.

        Whether a session exists is known for sure only to the CLI: a process killed in its first second has left none,
        one that was never recorded may have left one. When it says that the other way is right, that way is tried once.
        """
        began_s = self._clock.monotonic_s()
        outcome = await self._attempt(brief, emit)
        if isinstance(outcome, Errored) and outcome.code == SESSION and brief.session_id:
            emit(Said("agent.restart", {"resume": not brief.resume, "why": outcome.reason}))
            if brief.resume:
                await asyncio.to_thread(set_aside_blocking, brief.state_dir, brief.session_id)
            outcome = await self._attempt(_other_way(brief, self._clock.monotonic_s() - began_s), emit)
        usage = replace(outcome.usage, duration_s=self._clock.monotonic_s() - began_s)
        return replace(outcome, usage=usage, session_id=outcome.session_id or brief.session_id)

    async def _attempt(self, brief: Brief, emit: Emit) -> Outcome:
        watch = _Watch(Stream(brief.spent if brief.resume else Usage(), self._secrets), emit, self._clock)
        try:
            slot = await asyncio.to_thread(open_slot_blocking, brief.state_dir, brief.slot, self._base_env)
            process = await self._launcher.start(
                arguments(brief, self._executable),
                brief.directory,
                self._environment(brief, slot),
                brief.files,
                brief.prompt.encode("utf-8", "replace"),
            )
        except SpawnFailed as failure:
            return failure.outcome()
        except OSError as error:
            return Errored(code="spawn", reason=f"cannot prepare the directories of claude: {error}")
        emit(Spawned(process.record))
        # What the run left behind must be gone before anybody looks at the workspace.
        ending = await supervise(
            process,
            brief,
            self._clock,
            watch.take,
            stop_when=lambda: watch.must_stop(self._linger_s, self._patience),
            sweep=Sweep.NOW,
        )
        watch.finish()
        stderr = last_bytes(output_file(brief.files, "err"), 4096).decode("utf-8", "replace")
        return outcome_of(watch.stream, Exit(ending.exit_code, stderr, ending.stopped), self._secrets)

    @property
    def _patience(self) -> int:
        """Retries to wait for after refused credentials: a key stays wrong, a saved login may be renewed by the CLI."""
        return 1 if any(self._base_env.get(name) for name in _LOGIN_SECRETS) else 2

    def _environment(self, brief: Brief, slot: Path) -> dict[str, str]:
        # A task may not redirect the login: its names are left out, and what is fixed comes last.
        task_env = {name: value for name, value in brief.env.items() if not name.startswith(_OWN_PREFIXES)}
        extra = {"LANG": "C.UTF-8", **task_env, **_FIXED_ENV, "CLAUDE_CONFIG_DIR": str(slot)}
        names = (*LOGIN, *self._pass_env)
        return child_env(self._base_env, mark=brief.mark, shard=brief.shard, pass_env=names, extra=extra)


def arguments(brief: Brief, executable: str = "claude") -> list[str]:
    """Return the command line. The prompt is not in it: anybody can read command lines, and they are short.

    Values from tasks stand behind ``=``, so that none of them is taken for a flag.
    """
    argv = [executable, "-p", "--output-format", "stream-json", "--verbose"]
    argv += ["--setting-sources", "", "--strict-mcp-config"]
    argv += ["--tools", ",".join(_tools(brief.allowed_tools))]
    argv.append(f"--permission-mode={brief.permission_mode or 'acceptEdits'}")
    if brief.session_id:
        argv.append(f"--{'resume' if brief.resume else 'session-id'}={brief.session_id}")
    if brief.model:
        argv.append(f"--model={brief.model}")
    if brief.max_turns is not None:
        argv.append(f"--max-turns={brief.max_turns}")
    if brief.budget_usd is not None:
        argv.append(f"--max-budget-usd={brief.budget_usd:.6f}")
    guide = _guide(brief.directory)
    if guide is not None:
        argv.append(f"--append-system-prompt-file={guide}")
    argv += [f"--allowedTools={rule}" for rule in brief.allowed_tools]
    return argv


def _tools(rules: Collection[str]) -> list[str]:
    """Return the tools that exist: the base, and those named by rules; servers' tools need no naming."""
    named = [match[0] for rule in rules if (match := re.match(r"\w+", rule)) and not rule.startswith("mcp__")]
    return list(dict.fromkeys((*BASE_TOOLS, *named)))


def _guide(directory: Path) -> Path | None:
    """Return the repository's CLAUDE.md, unless it is huge or leads out of the workspace."""
    path = directory / "CLAUDE.md"
    real = path.resolve()
    inside = real.is_relative_to(directory.resolve()) and real.is_file()
    return path if inside and 0 < real.stat().st_size <= _GUIDE_LIMIT_BYTES else None


def _other_way(brief: Brief, gone_s: float) -> Brief:
    left_s = None if brief.timeout_s is None else max(1.0, brief.timeout_s - gone_s)
    return replace(brief, resume=not brief.resume, timeout_s=left_s)


class _Watch:
    """Feeds the stream, passes chatter on, and says when the process must go."""

    def __init__(self, stream: Stream, emit: Emit, clock: Clock) -> None:
        self.stream = stream
        self._emit = emit
        self._clock = clock
        self._framer = LineFramer()
        self._settled_at_s: float | None = None

    def take(self, data: bytes) -> None:
        """Take bytes of the output."""
        self._read(self._framer.feed(data))

    def finish(self) -> None:
        """Take what follows the last newline, and tell what could not be read."""
        self._read(self._framer.flush())
        skipped = self.stream.skipped + self._framer.skipped
        if skipped:
            self._emit(Said("agent.skipped", {"lines": skipped}))

    def must_stop(self, linger_s: float, patience: int) -> bool:
        """Say whether waiting longer is pointless: the credentials are wrong, or the result was long ago."""
        if self.stream.retrying in (401, 403) and self.stream.retry_attempt >= patience:
            return True
        return self._settled_at_s is not None and self._clock.monotonic_s() - self._settled_at_s >= linger_s

    def _read(self, lines: list[bytes]) -> None:
        for line in lines:
            for event in self.stream.read(line):
                self._emit(event)
        if not self.stream.settled:
            self._settled_at_s = None
        elif self._settled_at_s is None:
            self._settled_at_s = self._clock.monotonic_s()
