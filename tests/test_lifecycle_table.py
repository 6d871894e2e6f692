"""The table of legal moves: the same in code, page and schema, and never left by any history."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.errors import InvalidTransition
from hive.lifecycle import ENDS, TRANSITIONS, Rules, Trigger, advance, after_cancel, check, fingerprint
from hive.model import (
    FINAL,
    Cancelled,
    Conflicted,
    Decision,
    Errored,
    Evidence,
    Interrupted,
    Limited,
    Lost,
    Merged,
    NewTask,
    Outcome,
    Phase,
    Planned,
    Rejected,
    Reviewed,
    State,
    Succeeded,
    Task,
    TaskId,
    TimedOut,
    Verdict,
)
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "life-cycle.md"
SCHEMA = ROOT / "hive" / "store" / "sqlite" / "migrations" / "0001_initial.sql"


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of the page."""
    section = PAGE.read_text("utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> list[str]:
    return [word.strip() for word in cell.split(",")]


def test_page_and_code_have_the_same_arrows() -> None:
    """A reader of docs/life-cycle.md and the program agree on every move."""
    page: dict[tuple[State | None, Trigger], set[State]] = {}
    for states, _, triggers, becomes, _ in rows_of("Transitions"):
        for state, trigger in product(words(states), words(triggers)):
            key = (None if state == "-" else State(state), Trigger(trigger))
            page.setdefault(key, set()).update(State(word) for word in words(becomes))
    assert page == {key: set(states) for key, states in TRANSITIONS.items()}


def test_page_and_code_agree_which_phases_end_how() -> None:
    """The page's phase column is `ENDS` for endings of runs, and `any` for everything else."""
    page: dict[Trigger, set[Phase]] = {}
    for states, phases, triggers, _, _ in rows_of("Transitions"):
        for trigger in words(triggers):
            if states == "in_progress" and phases != "any":
                page.setdefault(Trigger(trigger), set()).update(Phase(word) for word in words(phases))
    assert page == {trigger: set(phases) for trigger, phases in ENDS.items()}


def test_page_and_code_have_the_same_states() -> None:
    """Every state is explained, in the order of the enum."""
    assert [row[0] for row in rows_of("States")] == [str(state) for state in State]


def test_the_schema_admits_exactly_the_states() -> None:
    """A state the code does not know cannot be stored, and every state it knows can."""
    found = re.search(r"state TEXT NOT NULL CHECK \(state IN \(([^)]*)\)\)", SCHEMA.read_text("utf-8"))
    assert found is not None
    assert re.findall(r"'(\w+)'", found[1]) == [str(state) for state in State]


def test_the_schema_admits_exactly_the_phases() -> None:
    """As for the states."""
    found = re.search(r"phase TEXT NOT NULL CHECK \(phase IN \(([^)]*)\)\)", SCHEMA.read_text("utf-8"))
    assert found is not None
    assert re.findall(r"'(\w+)'", found[1]) == [str(phase) for phase in Phase]


@pytest.mark.parametrize("state", [None, *State])
@pytest.mark.parametrize("trigger", list(Trigger))
def test_every_pair_leads_where_the_table_says_and_nowhere_else(state: State | None, trigger: Trigger) -> None:
    """Each of the targets is allowed or raises with the arrow in the message."""
    for becomes in State:
        if becomes in TRANSITIONS.get((state, trigger), ()):
            check(state, trigger, becomes)
            continue
        with pytest.raises(InvalidTransition, match=f"no way from {state or 'nothing'} to {becomes} on {trigger}"):
            check(state, trigger, becomes)


def test_every_state_can_be_reached_and_only_final_ones_are_ends() -> None:
    """No task can be stuck where nothing but a bug would move it."""
    reached = {state for states in TRANSITIONS.values() for state in states}
    left = {state for (state, _), becomes in TRANSITIONS.items() if becomes - {state}}
    assert reached == set(State)
    assert left >= set(State) - FINAL
    assert State.COMPLETED not in left


def test_everything_unfinished_can_be_cancelled() -> None:
    """A person's cancel is never refused by the table."""
    assert {state for state, trigger in TRANSITIONS if trigger is Trigger.CANCEL} == set(State) - FINAL


# --- any history --------------------------------------------------------------------------------------------------

MESSAGES = st.sampled_from(["boom", "boom 2", "No module named 'x'", ""])
ANY_PHASE: list[st.SearchStrategy[Outcome]] = [
    st.builds(Errored, st.just("exit"), MESSAGES, st.booleans()),
    st.builds(TimedOut, st.sampled_from(["total", "idle"]), st.floats(0.1, 1e6)),
    st.builds(Limited, st.none() | st.integers(0, 2**41)),
    st.just(Lost()),
    st.just(Interrupted()),
    st.just(Cancelled()),
]
EVIDENCE = st.builds(Evidence, st.sampled_from([None, "c1", "c2"]), st.booleans())
OWN: dict[Phase, list[st.SearchStrategy[Outcome]]] = {
    Phase.PLAN: [st.just(Planned((NewTask(title="child"),)))],
    Phase.APPLY: [st.builds(Succeeded, evidence=EVIDENCE)],
    Phase.TEST: [
        st.builds(Rejected, MESSAGES),
        st.builds(Succeeded, evidence=st.builds(Evidence, test_exit_code=st.sampled_from([None, 0, 1]))),
    ],
    Phase.REVIEW: [st.builds(Reviewed, st.builds(Verdict, st.sampled_from(Decision)), MESSAGES)],
    Phase.MERGE: [st.just(Merged(commit="landed")), st.just(Conflicted("main", ("a.py",)))],
}
PIPELINES = st.sampled_from(
    [
        (Phase.APPLY,),
        (Phase.TEST,),
        (Phase.PLAN,),
        (Phase.APPLY, Phase.TEST),
        (Phase.APPLY, Phase.REVIEW),
        (Phase.APPLY, Phase.TEST, Phase.REVIEW, Phase.MERGE),
    ]
)
COUNTS = st.none() | st.integers(0, 4)
SPECS = st.builds(NewTask, st.just("t"), phases=PIPELINES, retries=COUNTS, rounds=COUNTS, allow_no_change=st.booleans())
RULES = st.builds(
    Rules,
    now_ms=st.integers(0, 2**41),
    jitter=st.floats(0, 1, exclude_max=True),
    retries=st.integers(0, 4),
    rounds=st.integers(0, 4),
    same_failure_stop=st.integers(1, 4),
    approve_plans=st.booleans(),
)


@given(st.data(), SPECS, RULES)
def test_any_history_of_endings_stays_legal(data: st.DataObject, spec: NewTask, rules: Rules) -> None:
    """Whatever endings come, counts stay in their bounds and only a queued task runs again.

    A run starts only from queued; attempts never exceed retries + 1 and rounds never exceed their number; a task is
    completed only by an ending that its last phase may have.
    """
    retries = rules.retries if spec.retries is None else spec.retries
    rounds = rules.rounds if spec.rounds is None else spec.rounds
    task = Task(TaskId(1), spec, State.QUEUED, spec.phases[0], created_at_ms=0)
    for _ in range(data.draw(st.integers(1, 25))):
        task = replace(task, state=State.IN_PROGRESS, attempt=task.attempt + 1)
        assert 1 <= task.attempt <= retries + 1
        outcome = data.draw(st.one_of(*ANY_PHASE, *OWN[task.phase]))
        step = after_cancel(advance(task, outcome, rules), cancel_requested=data.draw(st.integers(0, 9)) == 0)

        assert any(step.state in TRANSITIONS[key] for key in TRANSITIONS if key[0] is State.IN_PROGRESS)
        assert step.phase in spec.phases
        assert task.round <= step.round <= rounds
        assert step.not_before_at_ms is None or (step.state is State.QUEUED and step.not_before_at_ms >= rules.now_ms)
        if step.state is State.COMPLETED:
            assert task.phase is spec.phases[-1]
            assert isinstance(outcome, Succeeded | Reviewed | Merged)
        if step.state is not State.QUEUED:
            break
        task = replace(
            task,
            phase=step.phase,
            attempt=step.attempt,
            round=step.round,
            alike=step.alike,
            failure=step.failure,
            feedback=step.feedback,
            session_id=step.session_id,
            commit=step.commit,
        )


# --- which failures are alike -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("line 12: boom", "line 345: boom"),
        ("ConnectionError at 0x7f3a", "ConnectionError at 0x11"),
        ("bad object 3f2a9c1", "bad object 0123456789abcdef0123456789abcdef01234567"),
        ("no such file /tmp/a1/b/x.py", "no such file /home/me/src/x.py"),
        ("No Module  named\tx\n", "no module named x"),
        ("é" * 10_000 + "same end", "ü" * 9_000 + "é" * 4_000 + "same end"),
    ],
    ids=["numbers", "addresses", "hashes", "directories", "case and blanks", "only the end counts"],
)
def test_failures_are_alike_but_for_what_changes_each_time(one: str, other: str) -> None:
    """Numbers, hashes, addresses and directories differ between two runs of one failure."""
    assert fingerprint(Phase.APPLY, one) == fingerprint(Phase.APPLY, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("no module x", "no module y"), ("x.py: boom", "y.py: boom"), ("", "boom"), ("/a/x.py", "/a/y.py")],
)
def test_different_failures_are_not_alike(one: str, other: str) -> None:
    """Words and file names count."""
    assert fingerprint(Phase.APPLY, one) != fingerprint(Phase.APPLY, other)


def test_the_phase_is_part_of_a_failure() -> None:
    """The same words from a test and from an agent are two problems."""
    assert fingerprint(Phase.APPLY, "boom") != fingerprint(Phase.TEST, "boom")


@given(st.text(max_size=300))
def test_any_message_has_a_fingerprint(message: str) -> None:
    """Twelve hexadecimal digits, lone surrogates included: it is a label and a column."""
    assert re.fullmatch(r"[0-9a-f]{12}", fingerprint(Phase.APPLY, message))
    assert re.fullmatch(r"[0-9a-f]{12}", fingerprint(Phase.APPLY, message + "\udc80"))
