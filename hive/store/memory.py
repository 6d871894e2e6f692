"""The store as plain dictionaries: the model that the others are compared with.

Every verb is one straight story, with no index and no counter; nothing survives the process. Its coroutines never
wait, so each is one transaction.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from hive import lifecycle
from hive.clock import Clock
from hive.lifecycle import Rules, Trigger
from hive.model import (
    FINAL,
    Event,
    Failure,
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
from hive.store.graph import adopted, child_failure, need_failure, order_needs

_NO_SUCH_TASK = "no such task"


class MemoryStore:
    """The verbs of `hive.store.Store` in memory; see there for what each promises."""

    def __init__(self, clock: Clock, store_id: str = "000000000000") -> None:
        self._clock = clock
        self._store_id = store_id
        self._batches: set[str] = set()
        self._tasks: dict[TaskId, Task] = {}
        self._needs: dict[TaskId, list[TaskId]] = {}
        self._parked: set[TaskId] = set()  # queued, and no claim has found their moment come yet
        self._runs: dict[RunId, Run] = {}
        self._released: set[RunId] = set()
        self._lease_until_s: dict[str, float] = {}
        self._events: list[Event] = []
        self._steering = Steering()
        self._last_task = self._last_run = self._last_seq = 0

    @property
    def store_id(self) -> str:
        return self._store_id

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return self._add(tasks, None)

    async def claim(self, host: str, slots: Mapping[str, int], limits: Limits) -> list[Claimed]:
        self._unpark()
        open_runs = self._open_runs()
        carried = Counter(run.shard for run in open_runs)
        in_role = Counter(self._tasks[run.task_id].spec.role for run in open_runs)
        free = {shard: room - carried[shard] for shard, room in slots.items() if room > carried[shard]}
        room = min(limits.agents - len(open_runs), sum(free.values()))
        claimed: list[Claimed] = []
        for task in sorted(self._startable(), key=lambda task: (-task.spec.priority, task.id)):
            role = task.spec.role
            if len(claimed) >= room:
                break
            if in_role[role] < limits.per_role.get(role, len(self._tasks)):
                in_role[role] += 1
                shard = max(free, key=lambda name: free[name])
                free[shard] -= 1
                claimed.append(self._open_run(task, shard, host))
        return claimed

    async def load(self, run_ids: Sequence[RunId]) -> list[Assignment]:
        return [Assignment(run, self._tasks[run.task_id]) for run in self._open_runs() if run.id in run_ids]

    async def attach(self, run_id: RunId, process: ProcessRecord) -> bool:
        run = self._runs.get(run_id)
        if run is None or run.ended_at_ms is not None:
            return False
        started_at_ms = self._now_ms() if run.started_at_ms is None else run.started_at_ms
        self._runs[run_id] = replace(run, process=process, started_at_ms=started_at_ms)
        self._record(facts.started(self._runs[run_id]))
        return True

    async def workspace(self, task_id: TaskId, path: str, branch: str | None, base: str | None) -> None:
        task = self._tasks.get(task_id)
        if task is not None:
            self._put(replace(task, workspace=path, branch=branch, base_commit=base))

    async def renew(self, shard: str, host: str, run_ids: Sequence[RunId], lease_s: float) -> Renewal:
        self._lease_until_s[shard] = self._clock.monotonic_s() + lease_s
        mine = [run for run in self._open_runs() if run.shard == shard]
        return Renewal(
            lost=frozenset(run_ids) - {run.id for run in mine},
            cancelled=frozenset(run.id for run in mine if self._tasks[run.task_id].cancel_requested),
        )

    async def finish(self, run_id: RunId, step: Step) -> Finish:
        run = self._runs.get(run_id)
        if run is None or run_id in self._released:
            return Finish.LOST
        if run.ended_at_ms is None:
            self._end_run(run, step)
        return Finish.COMMITTED

    async def open_runs(self, host: str) -> list[Run]:
        return [run for run in self._open_runs() if run.host == host]

    async def lost(self, host: str, live: Sequence[str]) -> list[Assignment]:
        return [
            Assignment(run, self._tasks[run.task_id])
            for run in self._open_runs()
            if (run.shard not in live if run.host == host else self._lease_ran_out(run.shard))
        ]

    async def release(self, run_ids: Sequence[RunId], why: Outcome, rules: Rules) -> list[RunId]:
        released = []
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is not None and run.ended_at_ms is None:
                self._end_run(run, lifecycle.advance(self._tasks[run.task_id], why, rules))
                self._released.add(run_id)
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
        return self._steering

    async def limit(self, signal: LimitSignal) -> None:
        self._record(facts.limit_met(signal))

    async def append(self, events: Sequence[NewEvent]) -> None:
        for event in events:
            self._record(event)

    async def events(self, after: int = 0, limit: int = 1000, task_id: TaskId | None = None) -> list[Event]:
        found = [event for event in self._events if event.seq > after and task_id in {None, event.task_id}]
        return found[:limit]

    async def task(self, task_id: TaskId) -> Task | None:
        return self._tasks.get(task_id)

    async def tasks(self, query: TaskQuery) -> list[Task]:
        found = sorted(self._tasks.values(), key=lambda task: task.id, reverse=query.newest_first)
        return [task for task in found if _selected(task, query)][: query.limit]

    async def runs(self, task_id: TaskId) -> list[Run]:
        return [run for run in self._runs.values() if run.task_id == task_id]

    async def needs(self, task_id: TaskId) -> list[TaskId]:
        return self._needs.get(task_id, [])[:]

    async def counts(self) -> Counts:
        startable = self._startable()
        due_at_ms = [
            task.not_before_at_ms
            for task in self._tasks.values()
            if task.id in self._parked and not task.held and task.not_before_at_ms is not None
        ]
        return Counts(
            by_state=_by_state(self._tasks.values()),
            open_runs=dict(Counter(run.shard for run in self._open_runs())),
            startable=len(startable),
            parked=len(due_at_ms),
            next_due_at_ms=min(due_at_ms, default=None),
        )

    async def ledger(self) -> list[BatchTotals]:
        return [self._totals(batch) for batch in sorted(self._batches)]

    async def prune(self, before_ms: int, budget: int) -> int:
        pruned = {
            task.id for task in [task for task in self._tasks.values() if self._prunable(task, before_ms)][:budget]
        }
        for task_id in pruned:
            del self._tasks[task_id], self._needs[task_id]
        self._needs = {task_id: [n for n in needs if n not in pruned] for task_id, needs in self._needs.items()}
        self._runs = {run.id: run for run in self._runs.values() if run.task_id not in pruned}
        self._events = [event for event in self._events if event.task_id not in pruned]
        return len(pruned)

    async def close(self) -> None:
        return

    def _add(self, tasks: Sequence[NewTask], parent: TaskId | None) -> list[Added]:
        answers: dict[int, Added] = {}
        for index in order_needs(tasks, self._find):
            task = tasks[index]
            existing = self._find(task.batch, task.key) if task.key is not None else None
            answers[index] = Added(existing or self._add_one(task, parent), created=existing is None)
        return [answers[index] for index in range(len(tasks))]

    def _find(self, batch: str, key: str) -> TaskId | None:
        return next((t.id for t in self._tasks.values() if t.spec.key == key and t.spec.batch == batch), None)

    def _add_one(self, spec: NewTask, parent: TaskId | None) -> TaskId:
        found = {self._find(spec.batch, key) for key in spec.after}
        needs = sorted(need for need in found if need is not None)
        self._last_task += 1
        task = Task(
            id=TaskId(self._last_task),
            spec=spec,
            state=State.QUEUED,
            phase=lifecycle.first_phase(spec),
            created_at_ms=self._now_ms(),
            held=spec.hold,
            parent=parent,
        )
        task = self._first_standing(task, needs)
        lifecycle.check(None, Trigger.ADD, task.state)
        self._batches.add(spec.batch)
        self._needs[task.id] = needs
        self._put(task)
        self._record(facts.added(task))
        return task.id

    def _first_standing(self, task: Task, needs: Sequence[TaskId]) -> Task:
        dead = [need for need in needs if self._is_dead(need)]
        if dead:
            return replace(
                task,
                state=State.FAILED,
                reason=Reason.DEPENDENCY,
                failure=need_failure(dead[0]),
                finished_at_ms=self._now_ms(),
            )
        if self._unmet(needs):
            return replace(task, state=State.BLOCKED, reason=Reason.DEPENDENCY)
        return task

    def _unpark(self) -> None:
        now_ms = self._now_ms()
        self._parked = {one for one in self._parked if (self._tasks[one].not_before_at_ms or 0) > now_ms}

    def _startable(self) -> list[Task]:
        return [
            task
            for task in self._tasks.values()
            if task.state is State.QUEUED and not task.held and task.id not in self._parked
        ]

    def _open_run(self, task: Task, shard: str, host: str) -> Claimed:
        lifecycle.check(task.state, Trigger.CLAIM, State.IN_PROGRESS)
        now_ms = self._now_ms()
        task = replace(
            task,
            state=State.IN_PROGRESS,
            reason=None,
            not_before_at_ms=None,
            attempt=task.attempt + 1,
            started_at_ms=now_ms if task.started_at_ms is None else task.started_at_ms,
        )
        self._last_run += 1
        run = Run(
            id=RunId(self._last_run),
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
        self._put(task)
        self._runs[run.id] = run
        self._record(facts.claimed(task, run))
        return Claimed(run.id, task.id, shard)

    def _open_runs(self) -> list[Run]:
        return [run for run in self._runs.values() if run.ended_at_ms is None]

    def _lease_ran_out(self, shard: str) -> bool:
        return self._lease_until_s.get(shard, 0.0) <= self._clock.monotonic_s()

    def _end_run(self, run: Run, step: Step) -> None:
        before = self._tasks[run.task_id]
        step = lifecycle.after_cancel(step, cancel_requested=before.cancel_requested)
        subtasks = adopted(before.id, run.id, step, before.spec.batch)
        order_needs(subtasks, self._find)  # refuses a plan that is no DAG before anything has changed
        ended = replace(
            run,
            ended_at_ms=self._now_ms(),
            outcome=step.outcome,
            failure=facts.own_failure(before, step),
            exit_code=step.exit_code,
            session_id=step.session_id,
            usage=step.usage,
        )
        task = self._stepped(before, step)
        self._runs[run.id] = ended
        self._put(task)
        self._record(facts.finished(task, ended))
        self._record(facts.moved(task))
        if subtasks:
            self._replace_plan(task, subtasks)
        self._ripple([task.id] if task.state in FINAL else self._close_goal(task.id))

    def _stepped(self, task: Task, step: Step) -> Task:
        now_ms = self._now_ms()
        final = step.state in FINAL
        parked = step.state is State.QUEUED and (step.not_before_at_ms or 0) > now_ms
        if parked:
            self._parked.add(task.id)
        return replace(
            task,
            state=step.state,
            phase=step.phase,
            reason=step.reason,
            attempt=step.attempt,
            round=step.round,
            alike=step.alike,
            not_before_at_ms=step.not_before_at_ms if parked else None,
            feedback=step.feedback,
            failure=step.failure,
            session_id=step.session_id,
            commit=step.commit or task.commit,
            exit_code=step.exit_code,
            usage=task.usage + step.usage,
            runs=task.runs + 1,
            cancel_requested=task.cancel_requested and not final,
            finished_at_ms=now_ms if final else None,
        )

    def _replace_plan(self, goal: Task, subtasks: Sequence[NewTask]) -> None:
        """Give a goal its subtasks; what an earlier plan left is cancelled and no longer the goal's."""
        former = self._children(goal.id)
        for child in former:
            self._put(replace(child, parent=None))
        self._ripple([task_id for child in former for task_id in self._cancel_tree(child.id)])
        self._add(subtasks, goal.id)

    def _ripple(self, ended: Iterable[TaskId]) -> None:
        """Tell the dependents and the goals of tasks that have just become final, and theirs."""
        waiting = deque(ended)
        while waiting:
            task = self._tasks[waiting.popleft()]
            waiting.extend(self._tell_dependents(task))
            if task.parent is not None:
                waiting.extend(self._close_goal(task.parent))

    def _tell_dependents(self, need: Task) -> list[TaskId]:
        """Free or fail who waits for `need`; returns who failed."""
        failed = []
        for task in self._dependents(need.id):
            if task.state is not State.BLOCKED:
                continue
            if need.state is not State.COMPLETED:
                after = self._place(
                    task, Trigger.NEED_ENDED, State.FAILED, reason=Reason.DEPENDENCY, failure=need_failure(need.id)
                )
                self._record(facts.moved(after))
                failed.append(task.id)
            elif not self._unmet(self._needs[task.id]):
                self._record(facts.unblocked(self._place(task, Trigger.NEED_COMPLETED, State.QUEUED)))
        return failed

    def _close_goal(self, goal: TaskId) -> list[TaskId]:
        """End a goal that waits for nobody any more; returns it then."""
        states = [child.state for child in self._children(goal)]
        task = self._tasks[goal]
        if task.state is not State.WAITING or any(state not in FINAL for state in states):
            return []
        if all(state is State.COMPLETED for state in states):
            task = self._place(task, Trigger.LAST_CHILD, State.COMPLETED)
        else:
            failure = child_failure(states)
            task = self._place(task, Trigger.LAST_CHILD, State.FAILED, reason=Reason.CHILD_FAILED, failure=failure)
        self._record(facts.moved(task))
        return [goal]

    def _each(self, ids: Sequence[TaskId], act: Callable[[Task], str]) -> Receipt:
        changed: list[TaskId] = []
        refused: list[tuple[TaskId, str]] = []
        for task_id in ids:
            task = self._tasks.get(task_id)
            why = act(task) if task is not None else _NO_SUCH_TASK
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
            ended.extend(self._cancel_tree(task.id))
            return ""

        receipt = self._each(command.ids, cancel)
        self._ripple(ended)
        return receipt

    def _cancel_tree(self, root: TaskId) -> list[TaskId]:
        """Cancel a task and, goal before children, all below it; returns those that ended at once."""
        ended = []
        tree = [self._tasks[root]]
        for task in tree:
            if task.state is State.IN_PROGRESS:
                self._request_cancel(task)
            elif task.state not in FINAL:
                tree.extend(self._children(task.id))
                self._record(facts.moved(self._place(task, Trigger.CANCEL, State.CANCELLED, reason=Reason.CANCELLED)))
                ended.append(task.id)
        return ended

    def _request_cancel(self, task: Task) -> None:
        if not task.cancel_requested:
            lifecycle.check(task.state, Trigger.CANCEL, State.IN_PROGRESS)
            self._put(replace(task, cancel_requested=True))
            self._steering = replace(self._steering, changes=self._steering.changes + 1)
            self._record(facts.cancel_requested(task))

    def _hold(self, task: Task, *, held: bool) -> str:
        if task.state in FINAL:
            return f"already {task.state}"
        if task.held is not held:
            self._put(replace(task, held=held))
            self._record(facts.held(self._tasks[task.id]))
        return ""

    def _retry(self, task: Task, command: Retry) -> str:
        needs = self._needs[task.id]
        dead = [need for need in needs if self._is_dead(need)]
        if task.state not in {State.FAILED, State.CANCELLED, State.NEEDS_YOU}:
            return f"it is {task.state}, not failed, cancelled or needs_you"
        if command.phase is not None and command.phase not in task.spec.phases:
            return f"its pipeline has no phase {command.phase}"
        if dead:
            return f"it needs task {dead[0]}, which is {self._tasks[dead[0]].state}: retry that too"
        blocked = bool(self._unmet(needs))
        task = replace(
            task,
            phase=command.phase or task.phase,
            attempt=0,
            round=0,
            alike=0,
            feedback=command.note or task.feedback,
        )
        becomes, reason = (State.BLOCKED, Reason.DEPENDENCY) if blocked else (State.QUEUED, None)
        self._record(facts.moved(self._place(task, Trigger.RETRY, becomes, reason=reason)))
        self._revive_dependents(task.id, named=command.ids)
        return ""

    def _revive_dependents(self, revived: TaskId, named: Sequence[TaskId]) -> None:
        """Block again what failed only because of this need; who is `named` has its own turn."""
        again = deque([revived])
        while again:
            for task in self._dependents(again.popleft()):
                failed_with_it = task.state is State.FAILED and task.reason is Reason.DEPENDENCY
                if failed_with_it and task.id not in named and not any(map(self._is_dead, self._needs[task.id])):
                    task = self._place(task, Trigger.NEED_REVIVED, State.BLOCKED, reason=Reason.DEPENDENCY)
                    self._record(facts.blocked(task))
                    again.append(task.id)

    def _reprioritise(self, task: Task, priority: int) -> str:
        if task.state in FINAL:
            return f"already {task.state}"
        self._put(replace(task, spec=replace(task.spec, priority=priority)))
        self._record(facts.reprioritised(self._tasks[task.id]))
        return ""

    def _steer(self, command: Steer) -> Receipt:
        was = self._steering
        self._steering = replace(
            was,
            paused=was.paused if command.paused is None else command.paused,
            agents=was.agents if command.agents is None else command.agents,
            stop=was.stop if command.stop is None else command.stop,
        )
        self._record(facts.steered(command))
        return Receipt()

    def _place(
        self,
        task: Task,
        trigger: Trigger,
        becomes: State,
        *,
        reason: Reason | None = None,
        failure: Failure | None = None,
    ) -> Task:
        """Move a task that no run carries; whatever it waited for is over."""
        lifecycle.check(task.state, trigger, becomes)
        self._parked.discard(task.id)
        after = replace(
            task,
            state=becomes,
            reason=reason,
            failure=failure,
            not_before_at_ms=None,
            cancel_requested=False,
            finished_at_ms=self._now_ms() if becomes in FINAL else None,
        )
        self._put(after)
        return after

    def _totals(self, batch: str) -> BatchTotals:
        tasks = [task for task in self._tasks.values() if task.spec.batch == batch]
        return BatchTotals(
            batch,
            _by_state(tasks),
            sum((task.usage for task in tasks), Usage()),
            sum(task.runs for task in tasks),
        )

    def _prunable(self, task: Task, before_ms: int) -> bool:
        old = task.finished_at_ms is not None and task.finished_at_ms < before_ms
        needed = any(one.state not in FINAL for one in self._dependents(task.id))
        goal_works = task.parent is not None and self._tasks[task.parent].state not in FINAL
        return old and not needed and not goal_works and not self._children(task.id)

    def _children(self, goal: TaskId) -> list[Task]:
        return [task for task in self._tasks.values() if task.parent == goal]

    def _dependents(self, need: TaskId) -> list[Task]:
        return [self._tasks[task_id] for task_id, needs in self._needs.items() if need in needs]

    def _unmet(self, needs: Sequence[TaskId]) -> list[TaskId]:
        return [need for need in needs if self._tasks[need].state is not State.COMPLETED]

    def _is_dead(self, need: TaskId) -> bool:
        return self._tasks[need].state in {State.FAILED, State.CANCELLED}

    def _put(self, task: Task) -> None:
        self._tasks[task.id] = task

    def _record(self, event: NewEvent) -> None:
        self._last_seq += 1
        data = json.loads(json.dumps(event.data))  # as every other store gives it back: lists for tuples
        self._events.append(Event(self._last_seq, self._now_ms(), event.kind, event.task_id, event.run_id, data))

    def _now_ms(self) -> int:
        return self._clock.now_ms()


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
