"""Any sequence of calls gives the same answers, tasks and events on SQLite as on the plain dictionaries."""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hive.clock import ManualClock
from hive.errors import UsageError
from hive.lifecycle import Rules, advance
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
    NewEvent,
    NewTask,
    Outcome,
    Phase,
    Planned,
    ProcessRecord,
    Rejected,
    Reviewed,
    RunId,
    State,
    Step,
    Succeeded,
    TaskId,
    TimedOut,
    Usage,
    Verdict,
)
from hive.store import (
    Cancel,
    Command,
    Hold,
    Limits,
    LimitSignal,
    Release,
    Reprioritise,
    Retry,
    Steer,
    Store,
    TaskQuery,
)
from hive.store.memory import MemoryStore
from hive.store.sqlite import SqliteStore

T = TypeVar("T")

BATCHES = ("day", "night")
KEYS = ("a", "b", "c", "d", "e")
SHARDS = ("here-0", "here-1", "far-0")
ROOM = {"here-0": 3, "here-1": 3}
PIPELINES = ((Phase.APPLY,), (Phase.APPLY, Phase.TEST, Phase.REVIEW, Phase.MERGE), (Phase.PLAN,))

ids = st.integers(1, 12).map(TaskId)
some_ids = st.lists(ids, min_size=1, max_size=5, unique=True).map(tuple)
run_ids = st.integers(1, 20).map(RunId)
some_slots = st.fixed_dictionaries({shard: st.integers(0, 3) for shard in SHARDS})
some_runs = st.lists(run_ids, max_size=4, unique=True)

new_tasks = st.builds(
    NewTask,
    title=st.just("t"),
    key=st.none() | st.sampled_from(KEYS),
    batch=st.sampled_from(BATCHES),
    role=st.sampled_from(("coder", "planner")),
    phases=st.sampled_from(PIPELINES),
    priority=st.integers(-2, 2),
    after=st.sampled_from(((), (), ("a",), ("b",), ("a", "c"))),
    budget_usd=st.sampled_from((None, 0.5)),
    retries=st.sampled_from((None, 0, 1)),
    rounds=st.sampled_from((None, 0)),
    hold=st.sampled_from((False, False, True)),
)
# Binary fractions, so that sums do not depend on their order.
usages = st.builds(Usage, input_tokens=st.integers(0, 9), cost_usd=st.sampled_from((0.0, 0.25, 2.0)))
subtasks = st.lists(new_tasks, max_size=3).map(tuple)
failures: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Errored, st.just("exit"), st.sampled_from(("red", "blue")), st.booleans(), usage=usages),
    st.builds(TimedOut, st.sampled_from(("total", "idle")), usage=usages),
    st.builds(Limited, st.none(), usage=usages),
    st.just(Cancelled()),
    st.just(Interrupted()),
)
applied = st.just(Succeeded(evidence=Evidence(commit="c1"), session_id="s1", exit_code=0))
green = st.just(Succeeded(evidence=Evidence(test_exit_code=0)))
endings: Mapping[Phase, st.SearchStrategy[Outcome]] = {
    Phase.PLAN: st.builds(Planned, subtasks, usage=usages) | failures,
    Phase.APPLY: applied | applied | failures,
    Phase.TEST: green | green | st.just(Rejected("red")) | failures,
    Phase.REVIEW: st.sampled_from([Reviewed(Verdict(decision, "so")) for decision in Decision]) | failures,
    Phase.MERGE: st.just(Merged("c2")) | st.just(Conflicted("main", ("a.py",))) | failures,
}
commands = st.one_of(
    st.builds(Cancel, some_ids),
    st.builds(Hold, some_ids),
    st.builds(Release, some_ids),
    st.builds(Retry, some_ids, st.sampled_from((None, *Phase)), st.sampled_from(("", "note"))),
    st.builds(Reprioritise, some_ids, st.integers(-2, 2)),
    st.builds(Steer, st.sampled_from((None, True, False)), st.sampled_from((None, 3)), st.sampled_from((None, "now"))),
)


class TwoStores(RuleBasedStateMachine):
    """Does everything twice and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "hive.db"
        self.model: Store = MemoryStore(self.clock)
        self.store: Store = now(SqliteStore.open_inline(path, clock=self.clock, boot_id="boot-1"))
        self.steps: dict[RunId, Step] = {}
        self.seen = 0

    def teardown(self) -> None:
        now(self.store.close())
        self.directory.cleanup()

    @initialize(tasks=st.lists(new_tasks, min_size=2, max_size=6))
    def begin(self, tasks: list[NewTask]) -> None:
        self.add(tasks, wild=False)

    @rule(tasks=st.lists(new_tasks, min_size=1, max_size=4), wild=st.sampled_from((False, False, True)))
    def add(self, tasks: list[NewTask], *, wild: bool) -> None:
        if not wild:
            tasks = [self.tamed(task, tasks) for task in tasks]
        self.same(refusable(self.model.add(tasks)), refusable(self.store.add(tasks)))

    @rule(slots=some_slots, agents=st.sampled_from((9, 2, 0)), coders=st.sampled_from((None, 1)))
    def claim(self, slots: dict[str, int], agents: int, coders: int | None) -> None:
        limits = Limits(agents, {} if coders is None else {"coder": coders})
        for host in ("here", "far"):
            room = {shard: free for shard, free in slots.items() if shard.startswith(host)}
            self.same(now(self.model.claim(host, room, limits)), now(self.store.claim(host, room, limits)))

    @rule(data=st.data(), most=st.integers(1, 4), jitter=st.sampled_from((0.0, 0.5)))
    def work(self, data: st.DataObject, most: int, jitter: float) -> None:
        """Carry some runs from claim to outcome, so that the example gets somewhere."""
        limits = Limits(9)
        self.same(now(self.model.claim("here", ROOM, limits)), now(self.store.claim("here", ROOM, limits)))
        for assignment in now(self.model.load([RunId(n) for n in range(1, 500)]))[:most]:
            outcome = data.draw(endings[assignment.task.phase])
            step = advance(assignment.task, outcome, self.rules_now(jitter))
            self.steps[assignment.run.id] = step
            self.finish(assignment.run.id, step)

    @rule(run_id=run_ids, task_id=ids)
    def carry(self, run_id: RunId, task_id: TaskId) -> None:
        process = ProcessRecord(int(run_id) + 100, 7, "boot-1")
        self.same(now(self.model.attach(run_id, process)), now(self.store.attach(run_id, process)))
        self.same(now(self.model.load([run_id])), now(self.store.load([run_id])))
        for store in (self.model, self.store):
            now(store.workspace(task_id, "/w", "hive/1", "abc"))
            now(store.append([NewEvent("agent.text", task_id, run_id, {"n": (1, 2)})]))
            now(store.limit(LimitSignal("five_hour", None, "here")))

    @rule(run_id=run_ids, other=run_ids)
    def finish_again(self, run_id: RunId, other: RunId) -> None:
        if other in self.steps and not now(self.model.load([run_id])):
            self.finish(run_id, self.steps[other])

    @rule(runs=some_runs, why=st.sampled_from((Lost(), Interrupted())))
    def release(self, runs: list[RunId], why: Outcome) -> None:
        rules = self.rules_now(0.5)
        self.same(now(self.model.release(runs, why, rules)), now(self.store.release(runs, why, rules)))

    @rule(command=commands)
    def control(self, command: Command) -> None:
        self.same(now(self.model.control(command)), now(self.store.control(command)))
        self.same(now(self.model.steering()), now(self.store.steering()))

    @rule(shard=st.sampled_from(SHARDS), runs=some_runs, live=st.lists(st.sampled_from(SHARDS)))
    def renew(self, shard: str, runs: list[RunId], live: list[str]) -> None:
        host = shard.partition("-")[0]
        self.same(now(self.model.renew(shard, host, runs, 60)), now(self.store.renew(shard, host, runs, 60)))
        self.same(now(self.model.lost(host, live)), now(self.store.lost(host, live)))
        self.same(now(self.model.open_runs(host)), now(self.store.open_runs(host)))

    @rule(seconds=st.sampled_from((0.5, 2.0, 61.0, 400.0)))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(budget=st.integers(0, 3))
    def prune(self, budget: int) -> None:
        before_ms = self.clock.now_ms() - 1000
        self.same(now(self.model.prune(before_ms, budget)), now(self.store.prune(before_ms, budget)))
        self.same(now(self.model.events(limit=10_000)), now(self.store.events(limit=10_000)))

    @rule(
        states=st.frozensets(st.sampled_from(State), max_size=2),
        batch=st.sampled_from((None, *BATCHES)),
        after_id=st.integers(0, 6),
        newest_first=st.booleans(),
        limit=st.integers(1, 5),
        some=some_ids,
    )
    def query(self, some: tuple[TaskId, ...], **fields: Any) -> None:
        query = TaskQuery(ids=some, **fields)
        self.same(now(self.model.tasks(query)), now(self.store.tasks(query)))

    @invariant()
    def alike(self) -> None:
        """Both stores hold the same and tell the same."""
        self.same(now(self.model.tasks(TaskQuery())), now(self.store.tasks(TaskQuery())))
        self.same(now(self.model.counts()), now(self.store.counts()))
        self.same(now(self.model.ledger()), now(self.store.ledger()))
        told = now(self.model.events(self.seen))
        self.same(told, now(self.store.events(self.seen)))
        for task_id in {event.task_id for event in told if event.task_id is not None}:
            self.same(now(self.model.runs(task_id)), now(self.store.runs(task_id)))
            self.same(now(self.model.needs(task_id)), now(self.store.needs(task_id)))
        self.seen = max((event.seq for event in told), default=self.seen)

    @invariant()
    def sound(self) -> None:
        """No task stands where nothing can move it."""
        tasks = {task.id: task for task in now(self.model.tasks(TaskQuery()))}
        for task in tasks.values():
            needs = [tasks[need].state for need in now(self.model.needs(task.id))]
            children = [child.state for child in tasks.values() if child.parent == task.id]
            opened = [run for run in now(self.model.runs(task.id)) if run.ended_at_ms is None]
            assert len(opened) == (task.state is State.IN_PROGRESS)
            assert (task.finished_at_ms is not None) == (task.state in FINAL)
            assert task.failure is not None or task.state is not State.FAILED
            if task.state is State.BLOCKED:
                assert any(state not in FINAL for state in needs)
                assert not any(state in {State.FAILED, State.CANCELLED} for state in needs)
            if task.state in {State.QUEUED, State.IN_PROGRESS}:
                assert all(state is State.COMPLETED for state in needs)
            if task.state is State.WAITING:
                assert any(state not in FINAL for state in children)

    def finish(self, run_id: RunId, step: Step) -> None:
        self.same(refusable(self.model.finish(run_id, step)), refusable(self.store.finish(run_id, step)))

    def tamed(self, task: NewTask, others: Sequence[NewTask]) -> NewTask:
        """Return the task with only those needs that will not be refused."""
        stored = {each.spec.key for each in now(self.model.tasks(TaskQuery(batch=task.batch)))}
        given = {each.key for each in others if each.batch == task.batch and each.key != task.key}
        earlier = {key for key in given if key is not None and key < (task.key or "z")}
        return replace(task, after=tuple(key for key in task.after if key in stored | earlier))

    def rules_now(self, jitter: float) -> Rules:
        return Rules(now_ms=self.clock.now_ms(), jitter=jitter)

    def same(self, expected: object, actual: object) -> None:
        assert actual == expected, f"expected {expected}, got {actual}"


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a verb waited")


def refusable(coroutine: Coroutine[Any, Any, T]) -> T | tuple[str, str]:
    """Run a coroutine; a refusal is an answer."""
    try:
        return now(coroutine)
    except UsageError as refused:
        return refused.code, refused.message


def test_sqlite_does_what_the_model_does() -> None:
    """Whatever is called in whatever order, both stores agree and no task is stuck."""
    run_state_machine_as_test(
        TwoStores,
        settings=settings(
            max_examples=80,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
