"""The nouns of Hive: tasks, runs, outcomes, events. Plain frozen values without behaviour of their own.

How they change is in `lifecycle`; how they are kept is in `store`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, TypeAlias

TaskId = NewType("TaskId", int)
RunId = NewType("RunId", int)

Json: TypeAlias = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


class Phase(StrEnum):
    """What a task needs next."""

    PLAN = "plan"
    APPLY = "apply"
    TEST = "test"
    REVIEW = "review"
    MERGE = "merge"


class State(StrEnum):
    """Where a task stands; exactly one at any time."""

    BLOCKED = "blocked"  # waits for a need
    QUEUED = "queued"  # may be claimed, at once or after `not_before_at_ms`
    IN_PROGRESS = "in_progress"  # has exactly one open run
    WAITING = "waiting"  # a goal whose children work
    NEEDS_YOU = "needs_you"  # a person must decide
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


class Reason(StrEnum):
    """Why a task is where it is."""

    BACKOFF = "backoff"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    REWORK = "rework"
    CONFLICT = "conflict"
    DEPENDENCY = "dependency"
    BUDGET = "budget"
    HOLD = "hold"
    APPROVAL = "approval"
    ESCALATED = "escalated"
    REJECTED = "rejected"
    SAME_FAILURE = "same_failure"
    REWORK_EXHAUSTED = "rework_exhausted"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    NOT_RETRYABLE = "not_retryable"
    CHILD_FAILED = "child_failed"
    CANCELLED = "cancelled"


class WorkspaceKind(StrEnum):
    """What directory a task works in."""

    REPO = "repo"  # a git worktree and branch of its own
    FRESH = "fresh"  # an empty directory with task.json
    NONE = "none"  # the directory `hive` was started for; nothing is made or removed


@dataclass(frozen=True, slots=True)
class NewTask:
    """One unit of change as it was asked for. ``None`` means: what the settings say when it runs.

    Attributes:
        key: Unique in its batch; adding it again returns the task that exists. None: never the same as another.
        title: One line for people.
        prompt: What the agent is asked to do; empty for `command` tasks.
        phases: Pipeline in order, a subset of `Phase` without repetition, never empty.
        priority: Higher is claimed first; -1000..1000.
        after: Keys of the same batch that must be completed first.
        agent: Name of the agent for phase apply: claude, command, scripted.
        command: Argument list for the `command` agent; run without a shell.
        script: Text for the `scripted` agent.
        repo: Absolute path of the git repository; None: the repository `hive` was started in.
        base: Commit-ish the branch starts from; None: the repository's current branch when it starts.
        test: Argument list of the test command, run without a shell; empty: none.
        budget_usd: Cap for one run, handed to the agent; also what is reserved before a launch.
        timeout_s, idle_timeout_s: Longest run, longest silence; seconds > 0.
        retries: Attempts after the first one in each phase; >= 0.
        rounds: Times a red test or a review may send the work back; >= 0.
        hold: Queued but not started until released.
        allow_no_change: An apply that changes nothing counts as done.
        allowed_tools: Permission rules for the claude CLI; empty: the settings' list.
        env: Extra environment for agent and test command; names and values are not secret.
    """

    title: str
    prompt: str = ""
    key: str | None = None
    batch: str = "default"
    role: str = "coder"
    phases: tuple[Phase, ...] = (Phase.APPLY,)
    priority: int = 0
    after: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    agent: str | None = None
    command: tuple[str, ...] = ()
    script: str = ""
    workspace: WorkspaceKind = WorkspaceKind.REPO
    repo: str | None = None
    base: str | None = None
    test: tuple[str, ...] = ()
    model: str | None = None
    max_turns: int | None = None
    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] = ()
    budget_usd: float | None = None
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    retries: int | None = None
    rounds: int | None = None
    hold: bool = False
    allow_no_change: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run, or all runs of a task, consumed. Cost is the agent's own estimate."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    cost_usd: float = 0.0
    duration_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_creation_tokens + other.cache_creation_tokens,
            self.cost_usd + other.cost_usd,
            self.duration_s + other.duration_s,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task is not completed, as shown to people and programs.

    Attributes:
        code: A short stable word such as ``exit``, ``timeout``, ``no_change``, ``rate_limit``.
        message: At most 2,000 characters, already free of control characters.
        group: Fingerprint shared by failures that are alike.
    """

    code: str
    message: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A task and where it stands. `attempt` counts runs in this phase since it last began; `round` rework cycles."""

    id: TaskId
    spec: NewTask
    state: State
    phase: Phase
    created_at_ms: int
    reason: Reason | None = None
    attempt: int = 0
    round: int = 0
    held: bool = False
    cancel_requested: bool = False
    not_before_at_ms: int | None = None
    session_id: str | None = None
    branch: str | None = None
    base_commit: str | None = None
    commit: str | None = None
    workspace: str | None = None
    feedback: str = ""
    failure: Failure | None = None
    alike: int = 0  # how many endings in a row had the fingerprint in `failure.group`
    exit_code: int | None = None
    usage: Usage = Usage()
    runs: int = 0
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    parent: TaskId | None = None


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """An agent's process, precise enough never to stop a stranger.

    Attributes:
        pid: Process id; also its process group and session.
        started: Start time in clock ticks since boot (field 22 of /proc/PID/stat); 0 where unknown.
        boot_id: Identity of this boot of this machine; another boot means the process is gone.
    """

    pid: int
    started: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at one phase of one task. Its id is the fence: only an open run may be finished."""

    id: RunId
    task_id: TaskId
    phase: Phase
    attempt: int
    round: int
    shard: str  # name of the shard incarnation that carries it
    host: str
    opened_at_ms: int
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    process: ProcessRecord | None = None
    outcome: str | None = None
    failure: Failure | None = None
    exit_code: int | None = None
    session_id: str | None = None
    usage: Usage = Usage()
    reserved_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before the store has numbered it. `kind` is ``noun.past``; `data` holds no secrets."""

    kind: str
    task_id: TaskId | None = None
    run_id: RunId | None = None
    data: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An appended record; `seq` grows in commit order without gaps."""

    seq: int
    at_ms: int
    kind: str
    task_id: TaskId | None
    run_id: RunId | None
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What Hive itself saw, never what an agent said.

    Attributes:
        commit: Tip of the task's branch if it holds new commits, else None.
        no_change: Nothing changed and the task allows that.
        files, insertions, deletions: Size of the diff against the base.
        test_exit_code: Exit code of the test command, when it ran.
    """

    commit: str | None = None
    no_change: bool = False
    files: int = 0
    insertions: int = 0
    deletions: int = 0
    test_exit_code: int | None = None


class Decision(StrEnum):
    """The reviewer's word, or a person's."""

    APPROVE = "approve"
    REWORK = "rework"
    REJECT = "reject"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A parsed review."""

    decision: Decision
    summary: str = ""
    must_fix: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """What every outcome carries."""

    usage: Usage = Usage()
    session_id: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Planned(_Ending):
    """The planner gave subtasks that form a DAG."""

    subtasks: tuple[NewTask, ...]


@dataclass(frozen=True, slots=True)
class Succeeded(_Ending):
    """The phase did what it is for; `evidence` says how Hive knows."""

    summary: str = ""
    evidence: Evidence = Evidence()


@dataclass(frozen=True, slots=True)
class Rejected(_Ending):
    """The test command was red; `feedback` is the tail of its output."""

    feedback: str


@dataclass(frozen=True, slots=True)
class Reviewed(_Ending):
    """The reviewer gave a verdict that parsed, or `escalate` when it did not."""

    verdict: Verdict
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Merged(_Ending):
    """The branch landed as `commit`."""

    commit: str


@dataclass(frozen=True, slots=True)
class Conflicted(_Ending):
    """The branch does not apply any more."""

    with_ref: str
    paths: tuple[str, ...]
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Errored(_Ending):
    """The run failed; `code` as in `Failure.code`, `reason` for people."""

    code: str
    reason: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class TimedOut(_Ending):
    """The run was stopped: `which` is ``total`` or ``idle``."""

    which: str
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limited(_Ending):
    """The account's usage limit was reached; `resets_at_ms` is None when nobody said when it ends."""

    resets_at_ms: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled(_Ending):
    """A person cancelled the task and its agent is stopped."""


@dataclass(frozen=True, slots=True)
class Interrupted(_Ending):
    """Hive shut down before the run ended."""


@dataclass(frozen=True, slots=True)
class Lost(_Ending):
    """The shard died or fell silent; what became of the run is not known."""


Outcome: TypeAlias = (
    Planned
    | Succeeded
    | Rejected
    | Reviewed
    | Merged
    | Conflicted
    | Errored
    | TimedOut
    | Limited
    | Cancelled
    | Interrupted
    | Lost
)


@dataclass(frozen=True, slots=True)
class Step:
    """What one ending makes of a task; `store.finish` writes all of it in one transaction.

    Attributes:
        outcome: Name of the outcome in lower case with underscores, for the run row.
        attempt, round, alike: New values for the task.
        feedback: What the next apply is told; empty clears it.
        subtasks: Children to add; only from Planned.
        commit: New tip, or None to keep what is there.
        summary: One line for the event.
    """

    outcome: str
    state: State
    phase: Phase
    reason: Reason | None = None
    attempt: int = 0
    round: int = 0
    alike: int = 0
    not_before_at_ms: int | None = None
    feedback: str = ""
    failure: Failure | None = None
    session_id: str | None = None
    commit: str | None = None
    exit_code: int | None = None
    usage: Usage = Usage()
    subtasks: tuple[NewTask, ...] = ()
    summary: str = ""
