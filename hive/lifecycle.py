"""The life of a task: the table of legal moves, and the one function that says what an ending means.

Pure: no clock, no randomness, no store. The same table stands in `docs/life-cycle.md` and its states in the
schema's CHECK constraint; a test keeps the three alike.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from hive.errors import InvalidTransition
from hive.model import (
    FINAL,
    Cancelled,
    Conflicted,
    Decision,
    Errored,
    Failure,
    Interrupted,
    Limited,
    Lost,
    Merged,
    NewTask,
    Outcome,
    Phase,
    Planned,
    Reason,
    Rejected,
    Reviewed,
    State,
    Step,
    Succeeded,
    Task,
    TimedOut,
    WorkspaceKind,
)


class Trigger(StrEnum):
    """What can happen to a task."""

    ADD = "add"
    NEED_COMPLETED = "need_completed"
    NEED_ENDED = "need_ended"  # failed or cancelled
    NEED_REVIVED = "need_revived"  # a failed need was retried
    CLAIM = "claim"
    PLANNED = "planned"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    APPROVE = "approve"
    REWORK = "rework"
    REJECT = "reject"
    ESCALATE = "escalate"
    MERGED = "merged"
    CONFLICTED = "conflicted"
    ERRORED = "errored"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    LIMITED = "limited"
    INTERRUPTED = "interrupted"
    CANCEL = "cancel"
    CANCELLED = "cancelled"
    RETRY = "retry"
    LAST_CHILD = "last_child"


_S, _T = State, Trigger
_BACK_OR_STUCK = frozenset({_S.QUEUED, _S.NEEDS_YOU})
_RETRY_OR_END = frozenset({_S.QUEUED, _S.FAILED, _S.NEEDS_YOU})
_ON_OR_DONE = frozenset({_S.QUEUED, _S.COMPLETED})

TRANSITIONS: Mapping[tuple[State | None, Trigger], frozenset[State]] = {
    (None, _T.ADD): frozenset({_S.QUEUED, _S.BLOCKED, _S.FAILED}),
    (_S.BLOCKED, _T.NEED_COMPLETED): frozenset({_S.QUEUED, _S.BLOCKED}),
    (_S.BLOCKED, _T.NEED_ENDED): frozenset({_S.FAILED}),
    (_S.QUEUED, _T.CLAIM): frozenset({_S.IN_PROGRESS}),
    (_S.IN_PROGRESS, _T.PLANNED): frozenset({_S.WAITING, _S.NEEDS_YOU}),
    (_S.IN_PROGRESS, _T.SUCCEEDED): _ON_OR_DONE | _RETRY_OR_END,
    (_S.IN_PROGRESS, _T.REJECTED): _BACK_OR_STUCK,
    (_S.IN_PROGRESS, _T.APPROVE): _ON_OR_DONE,
    (_S.IN_PROGRESS, _T.REWORK): _BACK_OR_STUCK,
    (_S.IN_PROGRESS, _T.REJECT): frozenset({_S.FAILED}),
    (_S.IN_PROGRESS, _T.ESCALATE): frozenset({_S.NEEDS_YOU}),
    (_S.IN_PROGRESS, _T.MERGED): frozenset({_S.COMPLETED}),
    (_S.IN_PROGRESS, _T.CONFLICTED): _BACK_OR_STUCK,
    (_S.IN_PROGRESS, _T.ERRORED): _RETRY_OR_END,
    (_S.IN_PROGRESS, _T.TIMED_OUT): _RETRY_OR_END,
    (_S.IN_PROGRESS, _T.LOST): frozenset({_S.QUEUED, _S.FAILED}),
    (_S.IN_PROGRESS, _T.LIMITED): frozenset({_S.QUEUED}),
    (_S.IN_PROGRESS, _T.INTERRUPTED): frozenset({_S.QUEUED}),
    (_S.IN_PROGRESS, _T.CANCEL): frozenset({_S.IN_PROGRESS}),  # only asked for; the agent is stopped first
    (_S.IN_PROGRESS, _T.CANCELLED): frozenset({_S.CANCELLED}),
    (_S.BLOCKED, _T.CANCEL): frozenset({_S.CANCELLED}),
    (_S.QUEUED, _T.CANCEL): frozenset({_S.CANCELLED}),
    (_S.WAITING, _T.CANCEL): frozenset({_S.CANCELLED}),
    (_S.NEEDS_YOU, _T.CANCEL): frozenset({_S.CANCELLED}),
    (_S.NEEDS_YOU, _T.APPROVE): _ON_OR_DONE,
    (_S.NEEDS_YOU, _T.REWORK): frozenset({_S.QUEUED}),
    (_S.NEEDS_YOU, _T.REJECT): frozenset({_S.FAILED}),
    (_S.NEEDS_YOU, _T.RETRY): frozenset({_S.QUEUED}),
    (_S.FAILED, _T.RETRY): frozenset({_S.QUEUED, _S.BLOCKED}),
    (_S.CANCELLED, _T.RETRY): frozenset({_S.QUEUED, _S.BLOCKED}),
    (_S.FAILED, _T.NEED_REVIVED): frozenset({_S.BLOCKED}),
    (_S.WAITING, _T.LAST_CHILD): frozenset({_S.COMPLETED, _S.FAILED}),
}

# Endings that only some phases have; the others may come in any phase. Without this a review that ended well but gave
# no verdict would count as approved.
ENDS: Mapping[Trigger, frozenset[Phase]] = {
    _T.PLANNED: frozenset({Phase.PLAN}),
    _T.SUCCEEDED: frozenset({Phase.APPLY, Phase.TEST}),
    _T.REJECTED: frozenset({Phase.TEST}),
    _T.APPROVE: frozenset({Phase.REVIEW}),
    _T.REWORK: frozenset({Phase.REVIEW}),
    _T.REJECT: frozenset({Phase.REVIEW}),
    _T.ESCALATE: frozenset({Phase.REVIEW}),
    _T.MERGED: frozenset({Phase.MERGE}),
    _T.CONFLICTED: frozenset({Phase.MERGE}),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """All that `advance` needs to know beside the task and its ending.

    Attributes:
        now_ms: Wall clock at the ending.
        jitter: A number in [0, 1) from the caller's source of chance.
        retries, rounds: Defaults for tasks that say nothing of their own.
        backoff_base_s, backoff_cap_s: Wait before the second attempt, and the longest wait; full jitter below it.
        limit_wait_s: Wait after a limit that did not say when it ends.
        same_failure_stop: So many alike failures in a row ask a person.
        approve_plans: Whether a plan needs a person before its subtasks start.
    """

    now_ms: int
    jitter: float
    retries: int = 2
    rounds: int = 3
    backoff_base_s: float = 2.0
    backoff_cap_s: float = 300.0
    limit_wait_s: float = 60.0
    same_failure_stop: int = 2
    approve_plans: bool = False


def check(state: State | None, trigger: Trigger, becomes: State) -> None:
    """Raise `InvalidTransition` unless the table has this arrow."""
    if becomes not in TRANSITIONS.get((state, trigger), frozenset()):
        raise _no_way(state or "nothing", trigger, becomes)


def first_phase(task: NewTask) -> Phase:
    """Return the phase a new task starts in."""
    return task.phases[0]


def next_phase(task: NewTask, phase: Phase) -> Phase | None:
    """Return the phase after `phase` in the task's pipeline, or None at its end."""
    index = task.phases.index(phase)
    return task.phases[index + 1] if index + 1 < len(task.phases) else None


def advance(task: Task, outcome: Outcome, rules: Rules) -> Step:
    """Say what becomes of a task whose run has ended.

    Args:
        task: In progress, as it was loaded for this run.
        outcome: How the run ended.
        rules: Time, chance and limits.

    Raises:
        InvalidTransition: The task is not in progress, its phase cannot end so, or the table lacks the arrow.
    """
    trigger, step = _consequence(task, outcome, rules)
    # Not left to the table alone: a person may approve or rework a task in needs_you, an ending never does.
    if task.state is not State.IN_PROGRESS or task.phase not in ENDS.get(trigger, Phase):
        raise _no_way(f"{task.state}, phase {task.phase},", trigger, step.state)
    check(task.state, trigger, step.state)
    return step


def after_cancel(step: Step, *, cancel_requested: bool) -> Step:
    """Let a cancel that arrived during the run win over going on; a final ending stays what it is.

    Called by the stores inside the finishing transaction, since only they see a cancel that came meanwhile.
    """
    if not cancel_requested or step.state in FINAL:
        return step
    check(State.IN_PROGRESS, Trigger.CANCELLED, State.CANCELLED)
    return replace(step, state=State.CANCELLED, reason=Reason.CANCELLED, not_before_at_ms=None, subtasks=())


def _no_way(place: str, trigger: Trigger, becomes: State) -> InvalidTransition:
    return InvalidTransition(
        f"no way from {place} to {becomes} on {trigger}",
        code="H900",
        why="the life cycle has no such arrow",
        fix="run `hive show` on the task to see where it stands",
    )


def _consequence(task: Task, outcome: Outcome, rules: Rules) -> tuple[Trigger, Step]:
    match outcome:
        case Planned(subtasks=subtasks):
            state, reason = (State.NEEDS_YOU, Reason.APPROVAL) if rules.approve_plans else (State.WAITING, None)
            return Trigger.PLANNED, _step(task, outcome, state, reason=reason, subtasks=subtasks)
        case Succeeded():
            return _succeeded(task, outcome, rules)
        case Rejected(feedback=feedback):
            return Trigger.REJECTED, _send_back(task, outcome, rules, feedback, Reason.REWORK)
        case Reviewed(verdict=verdict, feedback=feedback):
            return _reviewed(task, outcome, rules, verdict.decision, feedback or verdict.summary)
        case Merged(commit=commit):
            return Trigger.MERGED, _step(task, outcome, State.COMPLETED, commit=commit)
        case Conflicted(with_ref=with_ref, paths=paths, feedback=feedback):
            told = feedback or f"conflict with {with_ref} in {', '.join(paths)}"
            return Trigger.CONFLICTED, _send_back(task, outcome, rules, told, Reason.CONFLICT)
        case Errored(code=code, reason=reason, retryable=retryable):
            return Trigger.ERRORED, _failed(task, outcome, rules, code, reason, retryable=retryable)
        case TimedOut(which=which, after_s=after_s):
            message = f"{'no output for' if which == 'idle' else 'still running after'} {after_s:g} s"
            return Trigger.TIMED_OUT, _failed(task, outcome, rules, f"timeout_{which}", message, retryable=True)
        case Lost():
            return Trigger.LOST, _lost(task, outcome, rules)
        case Limited():
            return Trigger.LIMITED, _limited(task, outcome, rules)
        case Interrupted():
            kept = _step(task, outcome, State.QUEUED, reason=Reason.INTERRUPTED, attempt=max(0, task.attempt - 1))
            return Trigger.INTERRUPTED, replace(kept, feedback=task.feedback, alike=task.alike, failure=task.failure)
        case Cancelled():
            return Trigger.CANCELLED, _step(task, outcome, State.CANCELLED, reason=Reason.CANCELLED)


def _succeeded(task: Task, outcome: Succeeded, rules: Rules) -> tuple[Trigger, Step]:
    missing = _missing_evidence(task, outcome)
    if missing:
        code, message = missing
        return Trigger.SUCCEEDED, _failed(task, outcome, rules, code, message, retryable=True)
    following = next_phase(task.spec, task.phase)
    commit = outcome.evidence.commit or task.commit
    if following is None:
        done = _step(task, outcome, State.COMPLETED, commit=commit, summary=outcome.summary)
        return Trigger.SUCCEEDED, done
    step = _step(task, outcome, State.QUEUED, phase=following, commit=commit, summary=outcome.summary)
    # The count of alike red tests must survive the apply between them, or work without progress never stops.
    return Trigger.SUCCEEDED, replace(step, alike=task.alike, failure=task.failure) if task.round else step


def _missing_evidence(task: Task, outcome: Succeeded) -> tuple[str, str] | None:
    """Return what a claimed success lacks as (code, message): done means evidence, never prose."""
    evidence = outcome.evidence
    if task.phase is Phase.APPLY and task.spec.workspace is WorkspaceKind.REPO:
        if not evidence.commit and not (evidence.no_change and task.spec.allow_no_change):
            return "no_change", "the agent ended well but left no change"
    if task.phase is Phase.TEST and evidence.test_exit_code != 0:
        return "no_test", f"the test command's exit code is {evidence.test_exit_code}, not 0"
    return None


def _reviewed(task: Task, outcome: Reviewed, rules: Rules, decision: Decision, feedback: str) -> tuple[Trigger, Step]:
    match decision:
        case Decision.APPROVE:
            following = next_phase(task.spec, task.phase)
            if following is None:
                return Trigger.APPROVE, _step(task, outcome, State.COMPLETED)
            return Trigger.APPROVE, _step(task, outcome, State.QUEUED, phase=following)
        case Decision.REWORK:
            return Trigger.REWORK, _send_back(task, outcome, rules, feedback, Reason.REWORK)
        case Decision.REJECT:
            failure = Failure("rejected", feedback[:2000], fingerprint(task.phase, feedback))
            return Trigger.REJECT, _step(task, outcome, State.FAILED, reason=Reason.REJECTED, failure=failure)
        case Decision.ESCALATE:
            return Trigger.ESCALATE, _step(task, outcome, State.NEEDS_YOU, reason=Reason.ESCALATED, feedback=feedback)


def _send_back(task: Task, outcome: Outcome, rules: Rules, feedback: str, reason: Reason) -> Step:
    """Return the work to its coder, or ask a person when rounds or progress have run out."""
    group = fingerprint(task.phase, feedback)
    alike = task.alike + 1 if task.failure and task.failure.group == group else 1
    rounds = task.spec.rounds if task.spec.rounds is not None else rules.rounds
    failure = Failure("rejected", feedback[-2000:], group)
    if task.round >= rounds or alike > 2 or Phase.APPLY not in task.spec.phases:
        stuck = Reason.CONFLICT if reason is Reason.CONFLICT else Reason.REWORK_EXHAUSTED
        step = _step(task, outcome, State.NEEDS_YOU, reason=stuck, feedback=feedback, failure=failure)
        return replace(step, alike=alike)
    step = _step(task, outcome, State.QUEUED, phase=Phase.APPLY, reason=reason, feedback=feedback, failure=failure)
    return replace(step, round=task.round + 1, alike=alike)


def _failed(task: Task, outcome: Outcome, rules: Rules, code: str, message: str, *, retryable: bool) -> Step:
    """Queue again after a back-off, ask a person when it failed the same way before, or give up."""
    group = fingerprint(task.phase, f"{code}: {message}")
    alike = task.alike + 1 if task.failure and task.failure.group == group else 1
    failure = Failure(code, message[:2000], group)
    if not retryable:
        return _step(task, outcome, State.FAILED, reason=Reason.NOT_RETRYABLE, failure=failure)
    if task.attempt >= _attempts(task, rules):
        return _step(task, outcome, State.FAILED, reason=Reason.ATTEMPTS_EXHAUSTED, failure=failure)
    if alike >= rules.same_failure_stop:
        step = _step(task, outcome, State.NEEDS_YOU, reason=Reason.SAME_FAILURE, failure=failure)
        return replace(step, alike=alike, attempt=task.attempt, feedback=task.feedback)
    step = _step(task, outcome, State.QUEUED, reason=Reason.BACKOFF, failure=failure, attempt=task.attempt)
    return replace(step, alike=alike, feedback=task.feedback, not_before_at_ms=_backoff(task, rules))


def _lost(task: Task, outcome: Lost, rules: Rules) -> Step:
    if task.attempt >= _attempts(task, rules):
        failure = Failure("lost", "the process that carried the run died", "")
        return _step(task, outcome, State.FAILED, reason=Reason.ATTEMPTS_EXHAUSTED, failure=failure)
    step = _step(task, outcome, State.QUEUED, reason=Reason.BACKOFF, attempt=task.attempt)
    return replace(
        step,
        feedback=task.feedback,
        alike=task.alike,
        failure=task.failure,
        not_before_at_ms=_backoff(task, rules),
    )


def _limited(task: Task, outcome: Limited, rules: Rules) -> Step:
    """Park until the limit resets; jitter keeps a whole fleet from returning in the same second."""
    resets = outcome.resets_at_ms
    if resets is None or resets <= rules.now_ms:
        resets = rules.now_ms + round(rules.limit_wait_s * 1000)
    step = _step(task, outcome, State.QUEUED, reason=Reason.LIMIT, attempt=max(0, task.attempt - 1))
    return replace(
        step,
        feedback=task.feedback,
        alike=task.alike,
        failure=task.failure,
        not_before_at_ms=resets + round(rules.jitter * 10_000),
    )


def _step(
    task: Task,
    outcome: Outcome,
    state: State,
    *,
    phase: Phase | None = None,
    reason: Reason | None = None,
    attempt: int | None = None,
    feedback: str = "",
    failure: Failure | None = None,
    commit: str | None = None,
    summary: str = "",
    subtasks: tuple[NewTask, ...] = (),
) -> Step:
    return Step(
        outcome=outcome_name(outcome),
        state=state,
        phase=phase or task.phase,
        reason=reason,
        attempt=attempt if attempt is not None else 0 if state is State.QUEUED else task.attempt,
        round=task.round,
        feedback=feedback,
        failure=failure,
        session_id=outcome.session_id or task.session_id,
        commit=commit or task.commit,
        exit_code=outcome.exit_code,
        usage=outcome.usage,
        subtasks=subtasks,
        summary=summary,
    )


def outcome_name(outcome: Outcome) -> str:
    """Return the outcome's name as it stands in run rows and events: ``timed_out``, ``succeeded``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(outcome).__name__).lower()


def _attempts(task: Task, rules: Rules) -> int:
    return 1 + (task.spec.retries if task.spec.retries is not None else rules.retries)


def _backoff(task: Task, rules: Rules) -> int:
    """Return the earliest moment of the next attempt: exponential, full jitter, capped."""
    doublings = min(max(0, task.attempt - 1), 63)  # beyond that any cap is reached, and a float would overflow
    ceiling_s = min(rules.backoff_cap_s, rules.backoff_base_s * 2.0**doublings)
    return rules.now_ms + round(ceiling_s * rules.jitter * 1000)


_VOLATILE: Iterable[tuple[re.Pattern[str], str]] = (
    (re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{7,64}\b"), "#"),
    (re.compile(r"(?:/[\w.@+-]+)+/"), ""),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"\s+"), " "),
)


def fingerprint(phase: Phase, message: str) -> str:
    """Return a short name for failures that are alike: numbers, hashes and directories do not count."""
    text = message.lower()[-4000:]
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return hashlib.sha256(f"{phase}\0{text.strip()}".encode(errors="replace")).hexdigest()[:12]
