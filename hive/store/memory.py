"""The store as plain dictionaries: the model that the others are compared with.

Every verb is one straight story, with no index and no counter; nothing survives the process. Its coroutines never
wait, so each is one transaction. How tasks move and what follows from it is in `memory_tables`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from hive import lifecycle
from hive.clock import Clock
from hive.lifecycle import Rules, Trigger
from hive.model import (
    FINAL,
    Event,
    NewEvent,
    NewTask,
    Outcome,
    ProcessRecord,
    Reason,
    Run,
    RunId,
    State,
    Step,
    Task,
    TaskId,
    Usage,
)
from hive.store import (
    Added,
    Assignment,
    BatchTotals,
    Cancel,
    Claimed,
    Command,
    Counts,
    Finish,
    Hold,
    Limits,
    LimitSignal,
    Receipt,
    Release,
    Renewal,
    Reprioritise,
    Retry,
    Steer,
    Steering,
    TaskQuery,
    facts,
)
from hive.store.memory_tables import Tables


class MemoryStore:
    """The verbs of `hive.store.Store` in memory; see there for what each promises."""

    def __init__(self, clock: Clock, store_id: str = "000000000000") -> None:
        self._clock = clock
        self._store_id = store_id
        self._tables = Tables(clock)

    @property
    def store_id(self) -> str:
        return self._store_id

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return self._tables.add(tasks, None)

    async def claim(self, host: str, slots: Mapping[str, int], limits: Limits) -> list[Claimed]:
        self._tables.unpark()
        open_runs = self._tables.open_runs()
        carried = Counter(run.shard for run in open_runs)
        in_role = Counter(self._tables.tasks[run.task_id].spec.role for run in open_runs)
        free = {shard: room - carried[shard] for shard, room in slots.items() if room > carried[shard]}
        room = min(limits.agents - len(open_runs), sum(free.values()))
        claimed: list[Claimed] = []
        for task in sorted(self._tables.startable(), key=lambda task: (-task.spec.priority, task.id)):
            role = task.spec.role
            if len(claimed) >= room:
                break
            if in_role[role] < limits.per_role.get(role, len(self._tables.tasks)):
                in_role[role] += 1
                shard = max(free, key=lambda name: free[name])
                free[shard] -= 1
                claimed.append(self._open_run(task, shard, host))
        return claimed

    async def load(self, run_ids: Sequence[RunId]) -> list[Assignment]:
        return [self._assignment(run) for run in self._tables.open_runs() if run.id in run_ids]

    async def attach(self, run_id: RunId, process: ProcessRecord | None) -> bool:
        run = self._tables.runs.get(run_id)
        if run is None or run.ended_at_ms is not None:
            return False
        started_at_ms = self._tables.now_ms() if run.started_at_ms is None else run.started_at_ms
        self._tables.runs[run_id] = replace(run, process=process or run.process, started_at_ms=started_at_ms)
        if run.started_at_ms is None:
            self._tables.record(facts.started(self._tables.runs[run_id]))
        return True

    async def workspace(self, task_id: TaskId, path: str, branch: str | None, base: str | None) -> None:
        task = self._tables.tasks.get(task_id)
        if task is not None:
            self._tables.put(replace(task, workspace=path, branch=branch, base_commit=base))

    async def renew(
        self,
        shard: str,
        host: str,  # noqa: ARG002 - a run names its host itself
        run_ids: Sequence[RunId],
        lease_s: float,
    ) -> Renewal:
        self._tables.lease_until_s[shard] = self._clock.monotonic_s() + lease_s
        mine = [run for run in self._tables.open_runs() if run.shard == shard]
        return Renewal(
            lost=frozenset(run_ids) - {run.id for run in mine},
            cancelled=frozenset(run.id for run in mine if self._tables.tasks[run.task_id].cancel_requested),
        )

    async def finish(self, run_id: RunId, step: Step) -> Finish:
        run = self._tables.runs.get(run_id)
        if run is None or run_id in self._tables.released:
            return Finish.LOST
        if run.ended_at_ms is None:
            self._tables.end_run(run, step)
        return Finish.COMMITTED

    async def open_runs(self, host: str) -> list[Run]:
        return [run for run in self._tables.open_runs() if run.host == host]

    async def lost(self, host: str, live: Sequence[str]) -> list[Assignment]:
        return [
            self._assignment(run)
            for run in self._tables.open_runs()
            if self._lease_ran_out(run, host) or (run.host == host and run.shard not in live)
        ]

    async def release(self, run_ids: Sequence[RunId], why: Outcome, rules: Rules) -> list[RunId]:
        released = []
        for run_id in run_ids:
            run = self._tables.runs.get(run_id)
            if run is not None and run.ended_at_ms is None:
                self._tables.end_run(run, lifecycle.advance(self._tables.tasks[run.task_id], why, rules))
                self._tables.released.add(run_id)
                released.append(run_id)
        return released

    async def control(self, command: Command) -> Receipt:
        match command:
            case Cancel():
                return self._cancel(command)
            case Hold(ids):
                return self._each(ids, lambda task: self._hold(task, held=True))
            case Release(ids):
                return self._each(ids, lambda task: self._hold(task, held=False))
            case Retry(ids):
                # A task is younger than what it needs: by id, the needs of a task are retried before itself.
                return self._each(sorted(ids), lambda task: self._retry(task, command))
            case Reprioritise(ids, priority):
                return self._each(ids, lambda task: self._reprioritise(task, priority))
            case Steer():
                return self._steer(command)

    async def steering(self) -> Steering:
        return self._tables.steering

    async def limit(self, signal: LimitSignal) -> None:
        self._tables.record(facts.limit_met(signal))

    async def append(self, events: Sequence[NewEvent]) -> None:
        for event in events:
            self._tables.record(event)

    async def events(self, after: int = 0, limit: int = 1000, task_id: TaskId | None = None) -> list[Event]:
        found = [event for event in self._tables.events if event.seq > after and task_id in {None, event.task_id}]
        return found[:limit]

    async def task(self, task_id: TaskId) -> Task | None:
        return self._tables.tasks.get(task_id)

    async def tasks(self, query: TaskQuery) -> list[Task]:
        found = sorted(self._tables.tasks.values(), key=lambda task: task.id, reverse=query.newest_first)
        return [task for task in found if _selected(task, query)][: query.limit]

    async def runs(self, task_id: TaskId) -> list[Run]:
        return [run for run in self._tables.runs.values() if run.task_id == task_id]

    async def needs(self, task_id: TaskId) -> list[TaskId]:
        return self._tables.needs.get(task_id, [])[:]

    async def counts(self) -> Counts:
        due_at_ms = [
            task.not_before_at_ms
            for task in self._tables.tasks.values()
            if task.id in self._tables.parked and not task.held and task.not_before_at_ms is not None
        ]
        return Counts(
            by_state=_by_state(self._tables.tasks.values()),
            open_runs=dict(Counter(run.shard for run in self._tables.open_runs())),
            startable=len(self._tables.startable()),
            parked=len(due_at_ms),
            next_due_at_ms=min(due_at_ms, default=None),
            last_seq=max((event.seq for event in self._tables.events), default=0),
        )

    async def ledger(self) -> list[BatchTotals]:
        return [self._totals(batch) for batch in sorted(self._tables.batches)]

    async def prune(self, before_ms: int, budget: int) -> int:
        old = [task.id for task in self._tables.tasks.values() if self._prunable(task, before_ms)]
        self._tables.forget(frozenset(old[:budget]))
        return len(old[:budget])

    async def close(self) -> None:
        return

    def _open_run(self, task: Task, shard: str, host: str) -> Claimed:
        lifecycle.check(task.state, Trigger.CLAIM, State.IN_PROGRESS)
        now_ms = self._tables.now_ms()
        task = replace(
            task,
            state=State.IN_PROGRESS,
            reason=None,
            not_before_at_ms=None,
            attempt=task.attempt + 1,
            started_at_ms=now_ms if task.started_at_ms is None else task.started_at_ms,
        )
        self._tables.last_run += 1
        run = Run(
            id=RunId(self._tables.last_run),
            task_id=task.id,
            phase=task.phase,
            attempt=task.attempt,
            round=task.round,
            shard=shard,
            host=host,
            opened_at_ms=now_ms,
            session_id=task.session_id,
            reserved_usd=task.spec.budget_usd or 0.0,
        )
        self._tables.put(task)
        self._tables.runs[run.id] = run
        self._tables.record(facts.claimed(task, run))
        return Claimed(run.id, task.id, shard)

    def _lease_ran_out(self, run: Run, host: str) -> bool:
        """Return whether a run's shard fell silent; on its own host one may not have made itself known yet."""
        until_s = self._tables.lease_until_s.get(run.shard, float("inf") if run.host == host else 0.0)
        return until_s <= self._clock.monotonic_s()

    def _each(self, ids: Sequence[TaskId], act: Callable[[Task], str]) -> Receipt:
        changed: list[TaskId] = []
        refused: list[tuple[TaskId, str]] = []
        for task_id in ids:
            task = self._tables.tasks.get(task_id)
            why = act(task) if task is not None else "no such task"
            if why:
                refused.append((task_id, why))
            else:
                changed.append(task_id)
        return Receipt(tuple(changed), tuple(refused))

    def _cancel(self, command: Cancel) -> Receipt:
        """Cancel all that is named before any dependent hears of it: who is named too must not fail instead."""
        ended: list[TaskId] = []

        def cancel(task: Task) -> str:
            if task.state in FINAL and task.id not in ended:
                return f"already {task.state}"
            ended.extend(self._tables.cancel_tree(task.id))
            return ""

        receipt = self._each(command.ids, cancel)
        self._tables.ripple(ended)
        return receipt

    def _hold(self, task: Task, *, held: bool) -> str:
        if task.state in FINAL:
            return f"already {task.state}"
        if task.held is not held:
            self._tables.put(replace(task, held=held))
            self._tables.record(facts.held(self._tables.tasks[task.id]))
        return ""

    def _retry(self, task: Task, command: Retry) -> str:
        dead = self._tables.dead_needs(task.id)
        if task.state not in {State.FAILED, State.CANCELLED, State.NEEDS_YOU}:
            return f"it is {task.state}, not failed, cancelled or needs_you"
        if command.phase is not None and command.phase not in task.spec.phases:
            return f"its pipeline has no phase {command.phase}"
        if dead:
            return f"it needs task {dead[0]}, which is {self._tables.tasks[dead[0]].state}: retry that too"
        blocked = bool(self._tables.unmet_needs(task.id))
        task = replace(
            task,
            phase=command.phase or task.phase,
            attempt=0,
            round=0,
            alike=0,
            feedback=command.note or task.feedback,
        )
        becomes, reason = (State.BLOCKED, Reason.DEPENDENCY) if blocked else (State.QUEUED, None)
        self._tables.record(facts.moved(self._tables.place(task, Trigger.RETRY, becomes, reason=reason)))
        self._revive_dependents(task.id, named=command.ids)
        return ""

    def _revive_dependents(self, revived: TaskId, named: Sequence[TaskId]) -> None:
        """Block again what failed only because of this need; who is `named` has its own turn."""
        again = deque([revived])
        while again:
            for task in self._tables.dependents(again.popleft()):
                failed_with_it = task.state is State.FAILED and task.reason is Reason.DEPENDENCY
                if failed_with_it and task.id not in named and not self._tables.dead_needs(task.id):
                    blocked = self._tables.place(task, Trigger.NEED_REVIVED, State.BLOCKED, reason=Reason.DEPENDENCY)
                    self._tables.record(facts.blocked(blocked))
                    again.append(task.id)

    def _reprioritise(self, task: Task, priority: int) -> str:
        if task.state in FINAL:
            return f"already {task.state}"
        self._tables.put(replace(task, spec=replace(task.spec, priority=priority)))
        self._tables.record(facts.reprioritised(self._tables.tasks[task.id]))
        return ""

    def _steer(self, command: Steer) -> Receipt:
        was = self._tables.steering
        self._tables.steering = replace(
            was,
            paused=was.paused if command.paused is None else command.paused,
            agents=was.agents if command.agents is None else command.agents or None,
            stop=was.stop if command.stop is None else command.stop,
        )
        self._tables.record(facts.steered(command))
        return Receipt()

    def _assignment(self, run: Run) -> Assignment:
        return Assignment(run, self._tables.tasks[run.task_id])

    def _totals(self, batch: str) -> BatchTotals:
        tasks = [task for task in self._tables.tasks.values() if task.spec.batch == batch]
        return BatchTotals(
            batch,
            _by_state(tasks),
            sum((task.usage for task in tasks), Usage()),
            sum(task.runs for task in tasks),
        )

    def _prunable(self, task: Task, before_ms: int) -> bool:
        old = task.finished_at_ms is not None and task.finished_at_ms < before_ms
        needed = any(one.state not in FINAL for one in self._tables.dependents(task.id))
        goal_works = task.parent is not None and self._tables.tasks[task.parent].state not in FINAL
        return old and not needed and not goal_works and not self._tables.children(task.id)


def _selected(task: Task, query: TaskQuery) -> bool:
    spec = task.spec
    beyond = task.id < query.after_id if query.newest_first else task.id > query.after_id
    words = f"{spec.title}\n{spec.key or ''}\n{spec.prompt}".lower()
    return (
        (beyond or not query.after_id)
        and (not query.ids or task.id in query.ids)
        and (not query.states or task.state in query.states)
        and query.batch in {None, spec.batch}
        and (query.tag is None or query.tag in spec.tags)
        and (query.group is None or (task.failure is not None and task.failure.group == query.group))
        and (query.text is None or query.text.lower() in words)
    )


def _by_state(tasks: Iterable[Task]) -> dict[State, int]:
    states = Counter(task.state for task in tasks)
    return {state: states[state] for state in State}
