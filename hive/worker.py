"""One run from its assignment to its recorded ending.

A worker opens the workspace, briefs the agent of the phase, turns its outcome into evidence, and has the store write
what follows. It does not decide what follows (`lifecycle.advance`) nor what runs next (`queen`).
"""

from __future__ import annotations

import asyncio
import shlex
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from string import Template
from typing import TypeVar

from hive import bus, lifecycle
from hive.agent import Agent, AgentEvent, Brief, LimitSeen, Said, Spawned
from hive.clock import Clock
from hive.config import Settings
from hive.errors import HiveError, StoreUnavailable, WorkspaceError
from hive.model import (
    Cancelled,
    Errored,
    Interrupted,
    Limited,
    Lost,
    NewEvent,
    Outcome,
    Phase,
    ProcessRecord,
    State,
    Succeeded,
    Task,
    Usage,
    WorkspaceKind,
)
from hive.store import Assignment, Finish, LimitSignal, Store
from hive.workspace import Workspace, Workspaces

T = TypeVar("T")
PROMPTS = Path(__file__).parent / "prompts"
_STORE_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What all workers of a shard share.

    Attributes:
        blocking: Runs a blocking function on a thread kept for git and files.
        jitter: Gives numbers in [0, 1).
        publish: Takes chatter; never blocks.
        registered, forgotten: Tell the guardian of a process and its end.
    """

    store: Store
    settings: Settings
    clock: Clock
    agents: Callable[[str], Agent]
    workspaces: Workspaces
    blocking: Callable[[Callable[[], object]], Awaitable[object]]
    jitter: Callable[[], float]
    publish: Callable[[NewEvent], None]
    registered: Callable[[ProcessRecord, str], None]
    forgotten: Callable[[int], None]
    host: str
    shard: str


class Worker:
    """Carries one open run."""

    def __init__(self, assignment: Assignment, tools: Tools, *, slot: int) -> None:
        self.run_id = assignment.run.id
        self.mark = f"{tools.store.store_id}.{assignment.run.id}"
        self._task = assignment.task
        self._tools = tools
        self._slot = slot
        self._stop_as: Outcome | None = None
        self._attaching: set[asyncio.Task[None]] = set()
        self._pids: set[int] = set()
        self._workspace: Workspace | None = None
        self._stoppable: asyncio.Task[None] | None = None

    async def carry(self) -> None:
        """Do the run and record its ending; returns when the store has answered."""
        self._stoppable = asyncio.current_task()
        outcome = self._stop_as or await self._guarded_outcome()
        self._stoppable = None  # the run has ended: whoever stops it now must not keep that from being recorded
        for pid in self._pids:
            self._tools.forgotten(pid)
        if self._attaching:
            await asyncio.wait(self._attaching)
        if not isinstance(outcome, Lost):
            await self._record(outcome)

    def stop(self, outcome: Cancelled | Interrupted | Lost) -> None:
        """Stop the agent; the run then ends as `outcome`. The first reason stands."""
        if self._stop_as is None:
            self._stop_as = outcome
            if self._stoppable is not None:
                self._stoppable.cancel()

    async def _guarded_outcome(self) -> Outcome:
        """Return how the run ended; the one place where an exception becomes an outcome."""
        started_s = self._tools.clock.monotonic_s()
        try:
            outcome = await self._outcome()
        except asyncio.CancelledError:
            if self._stop_as is None:
                raise
            outcome = self._stop_as
        except HiveError as error:
            passing = isinstance(error, (WorkspaceError, StoreUnavailable))
            outcome = Errored(code=error.code, reason=" ".join(error.lines()), retryable=passing)
        except Exception as error:  # noqa: BLE001 - a bug in Hive must not lose the run
            outcome = Errored(code="internal", reason=f"{type(error).__name__}: {error}", retryable=True)
            self._say("hive.error", {"traceback": traceback.format_exc(limit=-8)})
        elapsed_s = self._tools.clock.monotonic_s() - started_s
        return replace(outcome, usage=replace(outcome.usage, duration_s=round(elapsed_s, 3)))

    async def _outcome(self) -> Outcome:
        match self._task.phase:
            case Phase.APPLY:
                return await self._apply()
            case Phase.TEST:
                return await self._test()
            case phase:
                return Errored(
                    code="phase", reason=f"this version of Hive does not work phase {phase}", retryable=False
                )

    async def _apply(self) -> Outcome:
        workspace = await self._open_workspace()
        settings, spec = self._tools.settings, self._task.spec
        agent = self._tools.agents(spec.agent or settings.agent)
        outcome = await agent.run(self._apply_brief(workspace), self._hear)
        if isinstance(outcome, Limited):
            signal = LimitSignal("usage", outcome.resets_at_ms, self._tools.host, outcome.reason)
            await self._insist(lambda: self._tools.store.limit(signal))
        if not isinstance(outcome, Succeeded) or spec.workspace is not WorkspaceKind.REPO:
            return outcome
        evidence = await self._blocking(
            partial(self._tools.workspaces.seal_blocking, workspace, self._task, outcome.summary)
        )
        return replace(outcome, evidence=evidence)

    async def _test(self) -> Outcome:
        """Run the task's test command in the worktree; the exit code is Hive's own observation."""
        settings, spec = self._tools.settings, self._task.spec
        argv = spec.test or settings.test
        if not argv:
            return Errored(code="no_test", reason="phase test without a test command", retryable=False)
        workspace = await self._open_workspace()
        brief = replace(self._brief(workspace), argv=argv, timeout_s=settings.test_timeout_s, is_test=True)
        kept = await self._tried(partial(self._tools.workspaces.salvage_blocking, workspace, self._task))
        outcome = await self._tools.agents("command").run(brief, self._hear)
        if kept:
            await self._undo(workspace)
        if not isinstance(outcome, Succeeded):
            return outcome
        passed = replace(outcome.evidence, test_exit_code=0, commit=self._task.commit)
        return replace(outcome, evidence=passed, summary=f"{shlex.join(argv)} passed")

    async def _undo(self, workspace: Workspace) -> None:
        """Take away what the test command left; what was there before it, perhaps a person's work, is salvaged."""
        # A run that was taken away meanwhile must not touch what its successor's agent is doing.
        if await self._insist(lambda: self._tools.store.load([self.run_id])):
            await self._tried(partial(self._tools.workspaces.restore_blocking, workspace, self._task))

    async def _tried(self, work: Callable[[], object]) -> bool:
        """Do what keeps the worktree as the agent left it; a failure of that is no verdict about the agent's work."""
        try:
            await self._blocking(work)
        except HiveError as error:
            self._say("restore.failed", {"code": error.code, "why": f"{error.message}: {error.why}".rstrip(": ")})
            return False
        return True

    async def _open_workspace(self) -> Workspace:
        tools, task = self._tools, self._task
        workspace = await self._blocking(partial(tools.workspaces.open_blocking, task, tools.settings.root))
        self._workspace = workspace
        if workspace.kind is not WorkspaceKind.NONE and str(workspace.path) != task.workspace:
            await self._note_workspace(workspace, str(workspace.path))
        return workspace

    async def _note_workspace(self, workspace: Workspace, path: str) -> None:
        tools, task = self._tools, self._task
        await self._insist(lambda: tools.store.workspace(task.id, path, workspace.branch, workspace.base_commit))

    def _apply_brief(self, workspace: Workspace) -> Brief:
        settings, spec, task = self._tools.settings, self._task.spec, self._task
        return replace(
            self._brief(workspace),
            prompt=prompt_for(task, test=spec.test or settings.test) if spec.prompt else "",
            argv=spec.command,
            script=spec.script,
            model=spec.model or settings.model,
            max_turns=spec.max_turns or settings.max_turns,
            permission_mode=spec.permission_mode or settings.permission_mode,
            allowed_tools=spec.allowed_tools or settings.allowed_tools,
            budget_usd=spec.budget_usd or settings.task_budget_usd,
            timeout_s=spec.timeout_s or settings.timeout_s,
            idle_timeout_s=spec.idle_timeout_s or settings.idle_timeout_s,
            session_id=task.session_id or session_for(self._tools.store.store_id, task),
            resume=task.runs > 0,
            spent=task.usage if task.session_id else Usage(),
        )

    def _brief(self, workspace: Workspace) -> Brief:
        settings, task = self._tools.settings, self._task
        return Brief(
            mark=self.mark,
            shard=self._tools.shard,
            directory=workspace.path,
            files=run_files(settings.state_dir, self.run_id),
            state_dir=settings.state_dir,
            env={**workspace.env, **task.spec.env, "HIVE_TASK_ID": str(task.id)},
            attempt=task.attempt,
            round=task.round,
            grace_s=settings.grace_s,
            output_limit_bytes=settings.output_limit_bytes,
            slot=self._slot,
            examined=workspace.kind is not WorkspaceKind.NONE,
        )

    def _hear(self, event: AgentEvent) -> None:
        match event:
            case Spawned(process):
                if process is not None:
                    self._pids.add(process.pid)
                    self._tools.registered(process, self.mark)
                self._attaching.add(asyncio.create_task(self._attach(process)))
            case Said(kind, data):
                self._say(kind, data)
            case LimitSeen(kind, rejected, resets_at_ms, utilization):
                self._say(
                    "limit.seen",
                    {"kind": kind, "rejected": rejected, "resets_at_ms": resets_at_ms, "utilization": utilization},
                )

    async def _attach(self, process: ProcessRecord | None) -> None:
        if not await self._insist(lambda: self._tools.store.attach(self.run_id, process)):
            self.stop(Lost())

    def _say(self, kind: str, data: Mapping[str, object]) -> None:
        self._tools.publish(NewEvent(kind, self._task.id, self.run_id, data))  # type: ignore[arg-type]

    async def _record(self, outcome: Outcome) -> None:
        tools = self._tools
        rules = tools.settings.rules(tools.clock.now_ms(), tools.jitter())
        step = lifecycle.advance(self._task, outcome, rules)
        answer = await self._insist(lambda: tools.store.finish(self.run_id, step))
        if answer is Finish.COMMITTED and step.state is State.COMPLETED:
            await self._tidy()

    async def _tidy(self) -> None:
        """Remove a completed task's worktree: its branch holds everything, and what it does not is salvaged first."""
        workspace = self._workspace
        if workspace is None or workspace.kind is not WorkspaceKind.REPO:
            return
        try:
            removal = await self._blocking(partial(self._tools.workspaces.remove_blocking, workspace, self._task))
        except HiveError as error:
            self._say("workspace.kept", {"code": error.code, "why": error.message})
            return
        if removal.removed:
            await self._note_workspace(workspace, "")
        else:
            self._say("workspace.kept", {"why": removal.why})

    async def _blocking(self, work: Callable[[], T]) -> T:
        return await self._tools.blocking(work)  # type: ignore[return-value]

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a write until the store takes it: a full disk must not lose an ending."""
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                self._say("store.unavailable", {"code": error.code, "why": error.why})
                await self._tools.clock.sleep(_STORE_RETRY_S)


def prompt_for(task: Task, *, test: tuple[str, ...]) -> str:
    """Return what the agent is asked: the task, and what came back if it was sent back."""
    name = "rework" if task.feedback else "resume" if task.runs else "apply"
    template = Template((PROMPTS / f"{name}.md").read_text("utf-8"))
    return template.substitute(
        prompt=task.spec.prompt,
        feedback=task.feedback,
        failure=f" ({bus.printable(task.failure.message, 500)})" if task.failure else "",
        scope=f", and only in: {', '.join(task.spec.paths)}" if task.spec.paths else "",
        test=f"It is then tested with `{shlex.join(test)}`." if test else "",
    ).rstrip()


def session_for(store_id: str, task: Task) -> str:
    """Return the session a task's coder uses: derived, so that it is known even if its first run was never recorded."""
    import uuid

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"hive:{store_id}/{task.id}/{task.spec.role}"))


def run_files(state_dir: Path, run_id: int) -> Path:
    """Return the stem of a run's output files, ``<stem>.out`` and ``<stem>.err``; at most 1,000 runs a directory."""
    return state_dir / "runs" / str(run_id // 1000) / str(run_id)
