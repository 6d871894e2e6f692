"""What does the work of a run: one protocol, four kinds of agent.

An agent gets a brief and gives an outcome. It knows nothing of tasks, stores or phases' meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from hive.model import Json, Outcome, ProcessRecord, Usage


@dataclass(frozen=True, slots=True)
class Brief:
    """All an agent is told.

    Attributes:
        mark: Value of ``HIVE_RUN_ID`` in the environment of everything the agent starts; unique among all stores.
        prompt: What to do; feedback of earlier rounds included.
        directory: Working directory; exists.
        files: Where this run's output goes: ``<files>.out``, ``<files>.err``, ``<files>.in`` are the agent's to make.
        env: Extra environment from the task and the engine (never secrets).
        argv: Argument list, for `command`.
        script: Text of the script, for `scripted`.
        attempt, round: As in the task, for `scripted`.
        session_id: Session chosen by Hive (a UUID); `resume` says that it exists and should be continued.
        spent: What earlier runs of this session reported: a resumed session's figures include it.
        model, max_turns, permission_mode, allowed_tools, budget_usd: Limits for `claude`; None: the CLI's own.
        timeout_s, idle_timeout_s: Longest run and longest silence; None: no limit.
        grace_s: Seconds between TERM and KILL.
        output_limit_bytes: Largest output file before the agent is stopped.
        examined: The directory is looked at or used again right afterwards, so whatever the agent left behind must
            have stopped before it ends.
        is_test: The program's exit code is a verdict, for `command`: any but 0 is `Rejected`, with the end of its
            output as feedback.
        slot: Number of the slot in the shard; one configuration directory per slot.
        state_dir: Directory of this store for things kept between runs (configuration directories).
        shard: Value of ``HIVE_SHARD``, the incarnation that owns the process.
    """

    mark: str
    directory: Path
    files: Path
    state_dir: Path
    prompt: str = ""
    shard: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    script: str = ""
    attempt: int = 1
    round: int = 0
    session_id: str | None = None
    resume: bool = False
    spent: Usage = Usage()
    model: str | None = None
    max_turns: int | None = None
    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] = ()
    budget_usd: float | None = None
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    grace_s: float = 5.0
    output_limit_bytes: int = 1 << 30
    is_test: bool = False
    examined: bool = False
    slot: int = 0


@dataclass(frozen=True, slots=True)
class Spawned:
    """The agent is at work; register and attach its process. None: it works inside Hive's own."""

    process: ProcessRecord | None


@dataclass(frozen=True, slots=True)
class Said:
    """Chatter: `kind` such as ``agent.text``, ``agent.tool``, ``agent.retry``; `data` is small and free of secrets."""

    kind: str
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class LimitSeen:
    """A usage window was reported: `rejected` means it is used up."""

    kind: str
    rejected: bool
    resets_at_ms: int | None
    utilization: float | None = None


AgentEvent: TypeAlias = Spawned | Said | LimitSeen
Emit: TypeAlias = Callable[[AgentEvent], None]


class Agent(Protocol):
    """Something that can carry out a brief."""

    name: str

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        """Do the work and say how it ended.

        Never raises for anything the agent's process does. When cancelled, stops the process and everything it
        started before the cancellation goes on. `emit` never blocks.
        """
        ...
