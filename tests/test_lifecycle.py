"""What every ending makes of a task. The table itself is in test_lifecycle_table.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hive.errors import InvalidTransition
from hive.lifecycle import Rules, advance, after_cancel, first_phase, next_phase, outcome_name
from hive.model import (
    Cancelled,
    Conflicted,
    Decision,
    Errored,
    Evidence,
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
    TaskId,
    TimedOut,
    Usage,
    Verdict,
    WorkspaceKind,
)

NOW_MS = 1_000_000
RULES = Rules(now_ms=NOW_MS, jitter=0.5)
WHOLE = (Phase.APPLY, Phase.TEST, Phase.REVIEW, Phase.MERGE)
PROVEN = Succeeded(evidence=Evidence(commit="c1"), summary="did it")


def task(phase: Phase = Phase.APPLY, *, phases: tuple[Phase, ...] = WHOLE, attempt: int = 1, **spec: object) -> Task:
    """Return a task whose run in `phase` has just ended."""
    new = replace(NewTask(title="t", prompt="p", phases=phases), **spec)  # type: ignore[arg-type]
    return Task(TaskId(1), new, State.IN_PROGRESS, phase, created_at_ms=0, attempt=attempt)


def reviewed(decision: Decision, feedback: str = "") -> Reviewed:
    return Reviewed(Verdict(decision, summary="the summary"), feedback)


def where(step: Step) -> tuple[State, Phase, Reason | None]:
    return step.state, step.phase, step.reason


# --- going on -----------------------------------------------------------------------------------------------------


def test_a_new_task_starts_in_the_first_phase_of_its_pipeline() -> None:
    """The pipeline's order decides, not the order of the enum."""
    assert first_phase(NewTask(title="t", phases=(Phase.TEST, Phase.REVIEW))) is Phase.TEST


def test_the_pipeline_decides_what_comes_next() -> None:
    """A phase the task does not have is passed over, and the last one has no successor."""
    spec = NewTask(title="t", phases=(Phase.APPLY, Phase.REVIEW))
    assert next_phase(spec, Phase.APPLY) is Phase.REVIEW
    assert next_phase(spec, Phase.REVIEW) is None


def test_apply_with_a_commit_goes_on_to_the_next_phase() -> None:
    """The commit is kept, and attempts are counted anew."""
    step = advance(task(attempt=3), PROVEN, RULES)
    assert where(step) == (State.QUEUED, Phase.TEST, None)
    assert (step.attempt, step.commit, step.summary, step.outcome) == (0, "c1", "did it", "succeeded")


def test_apply_at_the_end_of_the_pipeline_completes_the_task() -> None:
    """Nothing is left to do."""
    step = advance(task(phases=(Phase.APPLY,)), PROVEN, RULES)
    assert where(step) == (State.COMPLETED, Phase.APPLY, None)
    assert (step.commit, step.failure, step.feedback) == ("c1", None, "")


def test_apply_without_a_change_is_an_error_whatever_the_agent_said() -> None:
    """Done means evidence: prose alone is tried again with the code no_change."""
    step = advance(task(), Succeeded(summary="all done, trust me"), RULES)
    assert where(step) == (State.QUEUED, Phase.APPLY, Reason.BACKOFF)
    assert step.failure is not None
    assert step.failure.code == "no_change"


def test_apply_without_a_change_is_fine_where_the_task_allows_it_and_hive_saw_it() -> None:
    """Both are needed: the task's permission and Hive's observation."""
    seen = Succeeded(evidence=Evidence(no_change=True))
    assert advance(task(allow_no_change=True), seen, RULES).phase is Phase.TEST
    assert advance(task(allow_no_change=True), Succeeded(), RULES).phase is Phase.APPLY
    assert advance(task(allow_no_change=False), seen, RULES).phase is Phase.APPLY


@pytest.mark.parametrize("kind", [WorkspaceKind.FRESH, WorkspaceKind.NONE])
def test_apply_outside_a_repository_needs_no_commit(kind: WorkspaceKind) -> None:
    """Where there is no branch there is nothing to prove with one."""
    assert advance(task(workspace=kind, phases=(Phase.APPLY,)), Succeeded(), RULES).state is State.COMPLETED


def test_test_needs_exit_code_zero() -> None:
    """Only Hive's own exit code counts; none at all is not zero."""
    passed = Succeeded(evidence=Evidence(test_exit_code=0))
    assert where(advance(task(Phase.TEST), passed, RULES)) == (State.QUEUED, Phase.REVIEW, None)
    for code in (None, 1):
        step = advance(task(Phase.TEST), Succeeded(evidence=Evidence(test_exit_code=code)), RULES)
        assert where(step) == (State.QUEUED, Phase.TEST, Reason.BACKOFF)
        assert step.failure is not None
        assert step.failure.code == "no_test"


def test_approve_goes_on_to_merge_or_completes() -> None:
    """The reviewer's yes ends the pipeline where review is its last phase."""
    assert where(advance(task(Phase.REVIEW), reviewed(Decision.APPROVE), RULES)) == (State.QUEUED, Phase.MERGE, None)
    last = task(Phase.REVIEW, phases=(Phase.APPLY, Phase.REVIEW))
    assert advance(last, reviewed(Decision.APPROVE), RULES).state is State.COMPLETED


def test_merged_completes_with_the_commit_that_landed() -> None:
    """The landed commit replaces the branch's tip."""
    step = advance(replace(task(Phase.MERGE), commit="tip"), Merged(commit="landed"), RULES)
    assert (step.state, step.commit) == (State.COMPLETED, "landed")


def test_planned_waits_for_its_children() -> None:
    """The subtasks come with the step, so that they are added in the same transaction."""
    children = (NewTask(title="a"), NewTask(title="b"))
    step = advance(task(Phase.PLAN, phases=(Phase.PLAN,)), Planned(children), RULES)
    assert (where(step), step.subtasks) == ((State.WAITING, Phase.PLAN, None), children)


def test_planned_asks_a_person_where_plans_need_approval() -> None:
    """Nothing starts before somebody has looked."""
    step = advance(task(Phase.PLAN, phases=(Phase.PLAN,)), Planned(()), replace(RULES, approve_plans=True))
    assert where(step) == (State.NEEDS_YOU, Phase.PLAN, Reason.APPROVAL)


# --- sent back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "outcome", "reason", "told"),
    [
        (Phase.TEST, Rejected("2 failed"), Reason.REWORK, "2 failed"),
        (Phase.REVIEW, reviewed(Decision.REWORK, "rename it"), Reason.REWORK, "rename it"),
        (Phase.REVIEW, reviewed(Decision.REWORK), Reason.REWORK, "the summary"),
        (Phase.MERGE, Conflicted("main", ("a.py", "b.py")), Reason.CONFLICT, "conflict with main in a.py, b.py"),
        (Phase.MERGE, Conflicted("main", ("a.py",), "both diffs"), Reason.CONFLICT, "both diffs"),
    ],
)
def test_work_is_sent_back_with_what_is_wrong(phase: Phase, outcome: Outcome, reason: Reason, told: str) -> None:
    """A red test, a reviewer and a conflict all return the work to apply, one round older, at attempt 0."""
    step = advance(replace(task(phase, attempt=2), session_id="s"), outcome, RULES)
    assert where(step) == (State.QUEUED, Phase.APPLY, reason)
    assert (step.feedback, step.round, step.attempt, step.session_id) == (told, 1, 0, "s")


@pytest.mark.parametrize(
    ("phase", "outcome", "reason"),
    [
        (Phase.TEST, Rejected("red"), Reason.REWORK_EXHAUSTED),
        (Phase.REVIEW, reviewed(Decision.REWORK, "no"), Reason.REWORK_EXHAUSTED),
        (Phase.MERGE, Conflicted("main", ()), Reason.CONFLICT),
    ],
)
def test_without_rounds_a_person_is_asked(phase: Phase, outcome: Outcome, reason: Reason) -> None:
    """The last allowed round is used up: round = rounds."""
    stuck = advance(replace(task(phase), round=3), outcome, RULES)
    assert where(stuck) == (State.NEEDS_YOU, phase, reason)
    assert stuck.feedback
    assert advance(replace(task(phase), round=2), outcome, RULES).state is State.QUEUED


def test_a_task_may_have_rounds_of_its_own() -> None:
    """The task's number wins over the rules', zero included."""
    assert advance(task(Phase.TEST, rounds=0), Rejected("red"), RULES).state is State.NEEDS_YOU
    assert advance(replace(task(Phase.TEST, rounds=9), round=8), Rejected("red"), RULES).state is State.QUEUED


def test_without_an_apply_phase_there_is_nobody_to_send_the_work_back_to() -> None:
    """A task that only tests asks a person at once."""
    assert advance(task(Phase.TEST, phases=(Phase.TEST,)), Rejected("red"), RULES).state is State.NEEDS_YOU


def test_two_rounds_without_progress_ask_a_person() -> None:
    """The third red test that says the same stops the cycle, though rounds are left; numbers do not count."""
    rules = replace(RULES, rounds=10)
    current = task(Phase.TEST)
    for seconds in (1, 2):
        back = advance(current, Rejected(f"test_x failed in {seconds} s"), rules)
        assert back.state is State.QUEUED
        applied = advance(_after(current, back, attempt=1), PROVEN, rules)
        current = _after(current, applied, attempt=1)
    assert where(advance(current, Rejected("test_x failed in 3 s"), rules))[::2] == (
        State.NEEDS_YOU,
        Reason.REWORK_EXHAUSTED,
    )


def test_progress_between_rounds_starts_the_count_again() -> None:
    """Another failure than before is progress."""
    rules = replace(RULES, rounds=10)
    current = task(Phase.TEST)
    for what in ("a", "a", "b", "b", "a"):
        back = advance(current, Rejected(f"test_{what} failed"), rules)
        assert back.state is State.QUEUED
        current = _after(current, advance(_after(current, back, attempt=1), PROVEN, rules), attempt=1)


def test_a_rejection_by_the_reviewer_is_final() -> None:
    """What the reviewer said is the failure."""
    step = advance(task(Phase.REVIEW), reviewed(Decision.REJECT, "wrong idea"), RULES)
    assert where(step) == (State.FAILED, Phase.REVIEW, Reason.REJECTED)
    assert step.failure is not None
    assert (step.failure.code, step.failure.message) == ("rejected", "wrong idea")


def test_an_escalation_asks_a_person() -> None:
    """Also what a verdict becomes that could not be read."""
    step = advance(task(Phase.REVIEW), reviewed(Decision.ESCALATE, "?"), RULES)
    assert (where(step), step.feedback) == ((State.NEEDS_YOU, Phase.REVIEW, Reason.ESCALATED), "?")


# --- failed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1 - 2**-53])
@pytest.mark.parametrize("attempt", [1, 2, 3, 4])
def test_back_off_doubles_with_full_jitter(attempt: int, jitter: float) -> None:
    """The wait lies between nothing and base * 2^(attempt-1) seconds, as chance says."""
    rules = replace(RULES, jitter=jitter, retries=9, backoff_base_s=2.0, backoff_cap_s=300.0)
    step = advance(task(attempt=attempt), Errored("exit", "boom"), rules)
    assert where(step) == (State.QUEUED, Phase.APPLY, Reason.BACKOFF)
    assert step.not_before_at_ms == NOW_MS + round(2_000 * 2 ** (attempt - 1) * jitter)
    assert step.attempt == attempt


@pytest.mark.parametrize("attempt", [9, 70, 5_000])
def test_back_off_never_exceeds_its_cap(attempt: int) -> None:
    """However many attempts there were, the sum stays within numbers and below the cap."""
    rules = replace(RULES, jitter=1 - 2**-53, retries=10_000, backoff_cap_s=300.0)
    assert advance(task(attempt=attempt), Lost(), rules).not_before_at_ms == NOW_MS + 300_000


def test_errors_fail_the_task_when_attempts_run_out() -> None:
    """Two retries mean three attempts, and a task's own number wins."""
    assert advance(task(attempt=2), Errored("exit", "boom"), RULES).state is State.QUEUED
    step = advance(task(attempt=3), Errored("exit", "boom"), RULES)
    assert where(step) == (State.FAILED, Phase.APPLY, Reason.ATTEMPTS_EXHAUSTED)
    assert advance(task(attempt=1, retries=0), Errored("exit", "boom"), RULES).state is State.FAILED


def test_what_cannot_be_retried_fails_at_once() -> None:
    """Attempts left make no difference."""
    step = advance(task(), Errored("login", "not logged in", retryable=False), RULES)
    assert where(step) == (State.FAILED, Phase.APPLY, Reason.NOT_RETRYABLE)
    assert step.failure is not None
    assert (step.failure.code, step.failure.message) == ("login", "not logged in")


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (TimedOut("total", 90.0), "timeout_total", "still running after 90 s"),
        (TimedOut("idle", 0.5), "timeout_idle", "no output for 0.5 s"),
    ],
)
def test_a_timeout_is_tried_again_under_its_own_code(outcome: TimedOut, code: str, message: str) -> None:
    """Too long and too silent are different failures."""
    step = advance(task(), outcome, RULES)
    assert (step.state, step.failure and (step.failure.code, step.failure.message)) == (State.QUEUED, (code, message))


def test_the_same_failure_twice_asks_a_person() -> None:
    """A task that fails alike will fail alike again: attempts left are not spent on it."""
    rules = replace(RULES, retries=9)
    first = advance(task(), Errored("exit", "No module named 'x' at line 12"), rules)
    again = _after(task(), first, attempt=2)
    step = advance(replace(again, feedback="fix it"), Errored("exit", "No module named 'x' at line 99"), rules)
    assert where(step) == (State.NEEDS_YOU, Phase.APPLY, Reason.SAME_FAILURE)
    assert (step.attempt, step.alike, step.feedback) == (2, 2, "fix it")
    assert advance(again, Errored("exit", "No module named 'y'"), rules).state is State.QUEUED


def test_how_many_alike_failures_ask_a_person_is_a_rule() -> None:
    """With three, the second is still tried again."""
    rules = replace(RULES, retries=9, same_failure_stop=3)
    current = task()
    for attempt in (2, 3):
        step = advance(current, Errored("exit", "boom"), rules)
        assert step.state is State.QUEUED
        current = _after(current, step, attempt=attempt)
    assert advance(current, Errored("exit", "boom"), rules).reason is Reason.SAME_FAILURE


def test_a_retry_keeps_what_the_agent_was_told() -> None:
    """An error during rework must not forget why the work was sent back, nor the session."""
    before = replace(task(), feedback="fix the test", session_id="s", round=2)
    for outcome in (Errored("exit", "boom"), TimedOut("idle", 1.0), Lost(), Limited(None), Interrupted()):
        step = advance(before, outcome, RULES)
        assert (step.feedback, step.session_id, step.round, step.phase) == ("fix the test", "s", 2, Phase.APPLY)


def test_long_messages_are_cut() -> None:
    """A failure holds at most 2,000 characters; of a test's output it is the end."""
    step = advance(task(), Errored("exit", "x" * 5000), RULES)
    back = advance(task(Phase.TEST), Rejected("x" * 5000 + "the end"), RULES)
    assert step.failure is not None
    assert back.failure is not None
    assert len(step.failure.message) == len(back.failure.message) == 2000
    assert back.failure.message.endswith("the end")


# --- not the task's fault -----------------------------------------------------------------------------------------


def test_lost_is_tried_again_while_attempts_are_left() -> None:
    """A task that kills its process every time does not do so for ever."""
    step = advance(task(attempt=2), Lost(), RULES)
    assert (where(step), step.attempt) == ((State.QUEUED, Phase.APPLY, Reason.BACKOFF), 2)
    assert step.not_before_at_ms == NOW_MS + 2_000
    gone = advance(task(attempt=3), Lost(), RULES)
    assert where(gone) == (State.FAILED, Phase.APPLY, Reason.ATTEMPTS_EXHAUSTED)
    assert gone.failure is not None
    assert gone.failure.code == "lost"


def test_lost_twice_is_not_the_same_failure() -> None:
    """Two crashes of a shard say nothing about the task."""
    first = advance(task(), Lost(), RULES)
    assert advance(_after(task(), first, attempt=2), Lost(), RULES).state is State.QUEUED


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_limited_gives_the_attempt_back(attempt: int) -> None:
    """However often an account meets its limit, the task keeps its attempts."""
    step = advance(task(attempt=attempt), Limited(NOW_MS + 60_000), RULES)
    assert (where(step), step.attempt) == ((State.QUEUED, Phase.APPLY, Reason.LIMIT), max(0, attempt - 1))


def test_limited_waits_for_the_reset_and_a_little_chance() -> None:
    """Up to ten seconds more, so that a fleet does not return in the same one."""
    for jitter, extra_ms in ((0.0, 0), (0.5, 5_000)):
        step = advance(task(), Limited(NOW_MS + 60_000), replace(RULES, jitter=jitter))
        assert step.not_before_at_ms == NOW_MS + 60_000 + extra_ms


@pytest.mark.parametrize("resets_at_ms", [None, NOW_MS, NOW_MS - 1])
def test_limited_without_a_moment_ahead_waits_a_set_time(resets_at_ms: int | None) -> None:
    """A reset in the past would start the task again at once, into the same limit."""
    step = advance(task(), Limited(resets_at_ms), replace(RULES, jitter=0.0, limit_wait_s=7.5))
    assert step.not_before_at_ms == NOW_MS + 7_500


def test_interrupted_goes_on_at_once_and_spends_no_attempt() -> None:
    """Shutting Hive down is nobody's failure."""
    step = advance(task(attempt=2), Interrupted(session_id="new"), RULES)
    assert where(step) == (State.QUEUED, Phase.APPLY, Reason.INTERRUPTED)
    assert (step.attempt, step.not_before_at_ms, step.session_id) == (1, None, "new")


@pytest.mark.parametrize("outcome", [Limited(None), Interrupted(), Lost()])
def test_an_ending_that_says_nothing_about_the_task_keeps_what_is_known(outcome: Outcome) -> None:
    """The count of alike failures goes on where it was."""
    known = Failure("exit", "boom", "G7")
    step = advance(replace(task(), failure=known, alike=1), outcome, RULES)
    assert (step.failure, step.alike) == (known, 1)


# --- cancel -------------------------------------------------------------------------------------------------------


def test_cancelled_ends_the_task() -> None:
    """Its agent is stopped, so nothing is left to wait for."""
    assert where(advance(task(), Cancelled(), RULES)) == (State.CANCELLED, Phase.APPLY, Reason.CANCELLED)


@pytest.mark.parametrize(
    ("phase", "outcome", "state"),
    [
        (Phase.APPLY, PROVEN, State.QUEUED),
        (Phase.APPLY, Errored("exit", "boom"), State.QUEUED),
        (Phase.APPLY, Interrupted(), State.QUEUED),
        (Phase.REVIEW, reviewed(Decision.ESCALATE), State.NEEDS_YOU),
        (Phase.PLAN, Planned((NewTask(title="a"),)), State.WAITING),
    ],
)
def test_a_cancel_during_the_run_wins_over_going_on(phase: Phase, outcome: Outcome, state: State) -> None:
    """The task ends as cancelled: not parked, and without children that nobody would wait for."""
    step = advance(task(phase, phases=(phase, *WHOLE)), outcome, RULES)
    assert step.state is state
    cancelled = after_cancel(step, cancel_requested=True)
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, Reason.CANCELLED)
    assert (cancelled.not_before_at_ms, cancelled.subtasks) == (None, ())
    assert cancelled.outcome == step.outcome
    assert after_cancel(step, cancel_requested=False) == step


@pytest.mark.parametrize(
    ("phase", "outcome"),
    [
        (Phase.MERGE, Merged(commit="c")),
        (Phase.REVIEW, reviewed(Decision.REJECT)),
        (Phase.APPLY, Errored("login", "x", retryable=False)),
    ],
)
def test_a_cancel_during_the_run_does_not_undo_a_final_ending(phase: Phase, outcome: Outcome) -> None:
    """What has landed has landed."""
    step = advance(task(phase), outcome, RULES)
    assert after_cancel(step, cancel_requested=True) == step


# --- what any ending carries, and what may not end ------------------------------------------------------------------


def test_usage_session_and_exit_code_come_with_every_ending() -> None:
    """What a run consumed is booked however it ended."""
    usage = Usage(input_tokens=3, cost_usd=0.5)
    for outcome in (
        Errored("exit", "x", usage=usage, session_id="s", exit_code=9),
        Lost(usage=usage, session_id="s", exit_code=9),
    ):
        step = advance(task(), outcome, RULES)
        assert (step.usage, step.session_id, step.exit_code) == (usage, "s", 9)


def test_a_commit_once_made_is_kept() -> None:
    """An ending without a commit of its own does not forget the branch's tip."""
    assert advance(replace(task(), commit="old"), Errored("exit", "x"), RULES).commit == "old"


@pytest.mark.parametrize("state", [state for state in State if state is not State.IN_PROGRESS])
@pytest.mark.parametrize("outcome", [PROVEN, Errored("exit", "x"), Cancelled(), Limited(None)])
def test_only_a_task_in_progress_can_end_a_run(state: State, outcome: Outcome) -> None:
    """A late ending of a run that was taken away changes nothing."""
    with pytest.raises(InvalidTransition, match=f"no way from {state}, phase apply,"):
        advance(replace(task(), state=state), outcome, RULES)


@pytest.mark.parametrize("decision", list(Decision))
def test_the_reviewers_word_does_not_count_where_a_person_is_asked(decision: Decision) -> None:
    """A person may approve a task in needs_you; the ending of a run may not."""
    with pytest.raises(InvalidTransition):
        advance(replace(task(Phase.REVIEW), state=State.NEEDS_YOU), reviewed(decision), RULES)


@pytest.mark.parametrize(
    ("phase", "outcome"),
    [
        (Phase.REVIEW, PROVEN),
        (Phase.MERGE, PROVEN),
        (Phase.APPLY, reviewed(Decision.APPROVE)),
        (Phase.APPLY, Merged(commit="c")),
        (Phase.TEST, Conflicted("main", ())),
        (Phase.APPLY, Rejected("red")),
        (Phase.APPLY, Planned(())),
    ],
)
def test_a_phase_ends_only_in_its_own_ways(phase: Phase, outcome: Outcome) -> None:
    """A review that ended well without a verdict is not an approval, and only a merge merges."""
    with pytest.raises(InvalidTransition):
        advance(task(phase), outcome, RULES)


def test_outcomes_are_named_as_in_run_rows() -> None:
    """Lower case with underscores."""
    assert [outcome_name(o) for o in (TimedOut("idle"), Lost(), PROVEN)] == ["timed_out", "lost", "succeeded"]


def _after(before: Task, step: Step, *, attempt: int) -> Task:
    """Return the task as the store would hold it after the step and the next claim."""
    return replace(
        before,
        state=State.IN_PROGRESS,
        phase=step.phase,
        attempt=attempt,
        round=step.round,
        alike=step.alike,
        failure=step.failure,
        feedback=step.feedback,
        commit=step.commit,
        session_id=step.session_id,
    )
