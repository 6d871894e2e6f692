"""Where the truth lives: the store's verbs, and how to open one.

Every verb is one transaction. No verb returns a connection and no SQL exists outside this package.
`tests/store/test_contract.py` is the definition of what each verb promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from hive.clock import Clock
from hive.errors import UsageError
from hive.lifecycle import Rules
from hive.model import (
    Event,
    NewEvent,
    NewTask,
    Outcome,
    Phase,
    ProcessRecord,
    Run,
    RunId,
    State,
    Step,
    Task,
    TaskId,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Added:
    """The answer to one added task; `created` is False when the key was there before."""

    id: TaskId
    created: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a claim may not exceed: open runs in all, and per role (roles not named are unlimited)."""

    agents: int
    per_role: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A new open run, and the shard incarnation it was given to."""

    run_id: RunId
    task_id: TaskId
    shard: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """An open run with its task."""

    run: Run
    task: Task


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a shard learns when it renews: runs that are no longer its own, and runs a person cancelled."""

    lost: frozenset[RunId]
    cancelled: frozenset[RunId]


class Finish(StrEnum):
    """Whether an ending was recorded."""

    COMMITTED = "committed"  # also when this very run was already finished: repeating is harmless
    LOST = "lost"  # the run was released meanwhile, or never was; nothing changed


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel tasks and the children of goals. Running ones are marked and end when their agent is stopped."""

    ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep tasks from starting their next phase."""

    ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Undo `Hold`."""

    ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Queue failed, cancelled or stuck tasks again, from `phase` or where they stopped; counts start at 0."""

    ids: tuple[TaskId, ...]
    phase: Phase | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reprioritise:
    """Give unfinished tasks another priority."""

    ids: tuple[TaskId, ...]
    priority: int


@dataclass(frozen=True, slots=True)
class Steer:
    """Change how a running engine behaves: a None leaves the value.

    `agents` 0 means again what the engine was started with; `stop` is ``drain``, ``now`` or ``no``.
    """

    paused: bool | None = None
    agents: int | None = None
    stop: str | None = None


Command: TypeAlias = Cancel | Hold | Release | Retry | Reprioritise | Steer


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a command did: tasks it changed, and tasks it left alone with the reason."""

    changed: tuple[TaskId, ...] = ()
    refused: tuple[tuple[TaskId, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Steering:
    """What people asked of the engine. `agents` None means: what it was started with."""

    paused: bool = False
    agents: int | None = None
    stop: str = "no"
    changes: int = 0  # grows with every cancel that marked a running task, so that the engine looks at once


@dataclass(frozen=True, slots=True)
class LimitSignal:
    """An agent met a limit: `kind` such as ``five_hour``; `until_at_ms` when it is over."""

    kind: str
    until_at_ms: int | None
    host: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which tasks: every field that is set must hold. Ordered by id; `after_id` continues a page."""

    ids: tuple[TaskId, ...] = ()
    states: frozenset[State] = frozenset()
    batch: str | None = None
    tag: str | None = None
    group: str | None = None
    text: str | None = None
    after_id: int = 0
    limit: int = 1000
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How the queue stands, from counters kept with every change.

    Attributes:
        by_state: Every state, zero included.
        open_runs: Runs without an end, per shard incarnation.
        startable: Queued, not held, not waiting for a moment.
        parked: Queued, not held, waiting for a moment (back-off, limit).
        next_due_at_ms: When the earliest parked task becomes startable.
        last_seq: Sequence number of the newest event; 0 when there is none.
    """

    by_state: Mapping[State, int]
    open_runs: Mapping[str, int]
    startable: int
    parked: int
    next_due_at_ms: int | None
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Sums over one batch."""

    batch: str
    by_state: Mapping[State, int]
    usage: Usage
    runs: int


class Store(Protocol):
    """The verbs. All of them raise `StoreUnavailable` when the database stays locked, full or unreachable."""

    @property
    def store_id(self) -> str:
        """Return the store's own name, 12 hex digits, made once; marks agents' processes as this store's."""
        ...

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        """Add tasks, all or none; answers in the same order.

        `after` names keys of the same batch, in this call or stored. A task without unmet needs is queued, with
        unmet ones blocked, with a failed or cancelled one failed. An existing (batch, key) returns its id and
        changes nothing.

        Raises:
            UsageError: A need is unknown or the needs form a cycle; nothing was added.
        """
        ...

    async def claim(self, host: str, slots: Mapping[str, int], limits: Limits) -> list[Claimed]:
        """Turn startable tasks into open runs: highest priority first, then oldest; emptiest shard first.

        Args:
            host: Name of the machine the shards run on.
            slots: Room per shard incarnation; its open runs in the store are subtracted here.
            limits: Open runs never exceed `limits.agents` in all and `limits.per_role` per role.
        """
        ...

    async def load(self, run_ids: Sequence[RunId]) -> list[Assignment]:
        """Return those of the runs that are open, with their tasks."""
        ...

    async def attach(self, run_id: RunId, process: ProcessRecord | None) -> bool:
        """Note that the agent is at work, and its process; False when the run is no longer open (stop the agent then).

        Called again when the agent goes on in another process; the run has started only once.
        """
        ...

    async def workspace(self, task_id: TaskId, path: str, branch: str | None, base: str | None) -> None:
        """Note where the task works; `base` is the commit the branch started from."""
        ...

    async def renew(self, shard: str, host: str, run_ids: Sequence[RunId], lease_s: float) -> Renewal:
        """Extend the lease of a shard incarnation, made known by its first renewal.

        Args:
            run_ids: Runs this shard believes it is carrying; may be empty.
            lease_s: Seconds from now; more than twice the renewal interval.
        """
        ...

    async def finish(self, run_id: RunId, step: Step) -> Finish:
        """Record an ending if the run is open: run, task, children, dependents, cost and events, all or nothing."""
        ...

    async def open_runs(self, host: str) -> list[Run]:
        """Return the open runs of a machine, oldest first."""
        ...

    async def lost(self, host: str, live: Sequence[str]) -> list[Assignment]:
        """Return open runs nobody carries: of this host's incarnations not in `live`, of any whose lease ran out."""
        ...

    async def release(self, run_ids: Sequence[RunId], why: Outcome, rules: Rules) -> list[RunId]:
        """End open runs as `why` (Lost or Interrupted) after their agents were stopped; returns those it ended."""
        ...

    async def control(self, command: Command) -> Receipt:
        """Do what a person asked. Tasks for which it makes no sense are refused one by one, never all."""
        ...

    async def steering(self) -> Steering:
        """Return what people asked of the engine."""
        ...

    async def limit(self, signal: LimitSignal) -> None:
        """Record that a limit was met."""
        ...

    async def append(self, events: Sequence[NewEvent]) -> None:
        """Append chatter; facts are written by the verb they describe."""
        ...

    async def events(self, after: int = 0, limit: int = 1000, task_id: TaskId | None = None) -> list[Event]:
        """Return events with a greater sequence number than `after`, in order."""
        ...

    async def task(self, task_id: TaskId) -> Task | None:
        """Return one task."""
        ...

    async def tasks(self, query: TaskQuery) -> list[Task]:
        """Return the tasks a query selects."""
        ...

    async def runs(self, task_id: TaskId) -> list[Run]:
        """Return the runs of a task, oldest first."""
        ...

    async def needs(self, task_id: TaskId) -> list[TaskId]:
        """Return the tasks this one waits or waited for."""
        ...

    async def counts(self) -> Counts:
        """Return how the queue stands; takes constant time however long the queue is."""
        ...

    async def ledger(self) -> list[BatchTotals]:
        """Return sums per batch, by name."""
        ...

    async def prune(self, before_ms: int, budget: int) -> int:
        """Delete up to `budget` final tasks that ended before, with runs and events; returns how many.

        A task some unfinished task still needs, or whose parent is unfinished, stays.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted and let go of the database; twice is harmless."""
        ...


async def open_store(url: str, *, clock: Clock, boot_id: str, inline: bool = False) -> Store:
    """Open or create the store a URL names.

    Args:
        url: ``sqlite:///PATH``.
        boot_id: Identity of this boot of this machine, for leases.
        inline: Every verb runs in the calling thread and never waits; no event loop and no aiosqlite are needed.

    Raises:
        StoreError: It cannot be opened; see each error's fix.
        UsageError: The URL is not one of a store.
    """
    if not url.startswith("sqlite:///"):
        raise UsageError(f"`{url}` is not a store", code="H303", fix="use sqlite:///PATH")
    from hive.store.sqlite import SqliteStore

    path = Path(url.removeprefix("sqlite:///"))
    if inline:
        return await SqliteStore.open_inline(path, clock=clock, boot_id=boot_id)
    return await SqliteStore.open(path, clock=clock, boot_id=boot_id)


__all__ = [
    "Added",
    "Assignment",
    "BatchTotals",
    "Cancel",
    "Claimed",
    "Command",
    "Counts",
    "Finish",
    "Hold",
    "LimitSignal",
    "Limits",
    "Receipt",
    "Release",
    "Renewal",
    "Reprioritise",
    "Retry",
    "Steer",
    "Steering",
    "Store",
    "TaskQuery",
    "open_store",
]
