"""What a store in memory holds, how tasks move in it, and what follows from each move.

Knows nothing of claims, people's commands or questions; those are in `memory`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hive import lifecycle
from hive.clock import Clock
from hive.lifecycle import Trigger
from hive.model import (
    FINAL,
    Event,
    Failure,
    NewEvent,
    NewTask,
    Reason,
    Run,
    RunId,
    State,
    Step,
    Task,
    TaskId,
)
from hive.store import (
    Added,
    Steering,
    facts,
)
from hive.store.graph import adopted, child_failure, need_failure, order_needs


class Tables:
    """All that is stored. Keys of the dictionaries grow with age, so that reading them in order is reading by id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.batches: set[str] = set()
        self.tasks: dict[TaskId, Task] = {}
        self.needs: dict[TaskId, list[TaskId]] = {}
        self.parked: set[TaskId] = set()  # queued, and no claim has found their moment come yet
        self.runs: dict[RunId, Run] = {}
        self.released: set[RunId] = set()
        self.lease_until_s: dict[str, float] = {}
        self.events: list[Event] = []
        self.steering = Steering()
        self.last_task = self.last_run = self.last_seq = 0

    def add(self, tasks: Sequence[NewTask], parent: TaskId | None) -> list[Added]:
        """Add tasks, all or none, under a goal or none."""
        answers: dict[int, Added] = {}
        for index in order_needs(tasks, self.find):
            task = tasks[index]
            existing = self.find(task.batch, task.key) if task.key is not None else None
            answers[index] = Added(existing or self._add_one(task, parent), created=existing is None)
        return [answers[index] for index in range(len(tasks))]

    def find(self, batch: str, key: str) -> TaskId | None:
        """Return the task of a batch and key."""
        return next((t.id for t in self.tasks.values() if t.spec.key == key and t.spec.batch == batch), None)

    def _add_one(self, spec: NewTask, parent: TaskId | None) -> TaskId:
        found = {self.find(spec.batch, key) for key in spec.after}
        needs = sorted(need for need in found if need is not None)
        self.last_task += 1
        task = Task(
            id=TaskId(self.last_task),
            spec=spec,
            state=State.QUEUED,
            phase=lifecycle.first_phase(spec),
            created_at_ms=self.now_ms(),
            held=spec.hold,
            parent=parent,
        )
        self.needs[task.id] = needs
        task = self._first_standing(task)
        lifecycle.check(None, Trigger.ADD, task.state)
        self.batches.add(spec.batch)
        self.put(task)
        self.record(facts.added(task))
        return task.id

    def _first_standing(self, task: Task) -> Task:
        dead = self.dead_needs(task.id)
        if dead:
            return replace(
                task,
                state=State.FAILED,
                reason=Reason.DEPENDENCY,
                failure=need_failure(dead[0]),
                finished_at_ms=self.now_ms(),
            )
        if self.unmet_needs(task.id):
            return replace(task, state=State.BLOCKED, reason=Reason.DEPENDENCY)
        return task

    def end_run(self, run: Run, step: Step) -> None:
        """End an open run: all that `finish` and `release` write."""
        before = self.tasks[run.task_id]
        step = lifecycle.after_cancel(step, cancel_requested=before.cancel_requested)
        subtasks = adopted(before.id, run.id, step, before.spec.batch)
        order_needs(subtasks, self.find)  # refuses a plan that is no DAG before anything has changed
        ended = replace(
            run,
            ended_at_ms=self.now_ms(),
            outcome=step.outcome,
            failure=facts.own_failure(before, step),
            exit_code=step.exit_code,
            session_id=step.session_id,
            usage=step.usage,
        )
        task = self._stepped(before, step)
        self.runs[run.id] = ended
        self.put(task)
        self.record(facts.finished(task, ended))
        self.record(facts.moved(task))
        if subtasks:
            self._replace_plan(task, subtasks)
        self.ripple([task.id] if task.state in FINAL else self._close_goal(task.id))

    def _stepped(self, task: Task, step: Step) -> Task:
        now_ms = self.now_ms()
        final = step.state in FINAL
        parked = step.state is State.QUEUED and (step.not_before_at_ms or 0) > now_ms
        if parked:
            self.parked.add(task.id)
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
        former = self.children(goal.id)
        for child in former:
            self.put(replace(child, parent=None))
        self.ripple([task_id for child in former for task_id in self.cancel_tree(child.id)])
        self.add(subtasks, goal.id)

    def ripple(self, ended: Iterable[TaskId]) -> None:
        """Tell the dependents and the goals of tasks that have just become final, and theirs."""
        waiting = deque(ended)
        while waiting:
            task = self.tasks[waiting.popleft()]
            waiting.extend(self._tell_dependents(task))
            if task.parent is not None:
                waiting.extend(self._close_goal(task.parent))

    def _tell_dependents(self, need: Task) -> list[TaskId]:
        """Free or fail who waits for `need`; returns who failed."""
        failed = []
        for task in self.dependents(need.id):
            if task.state is not State.BLOCKED:
                continue
            if need.state is not State.COMPLETED:
                after = self.place(
                    task, Trigger.NEED_ENDED, State.FAILED, reason=Reason.DEPENDENCY, failure=need_failure(need.id)
                )
                self.record(facts.moved(after))
                failed.append(task.id)
            elif not self.unmet_needs(task.id):
                self.record(facts.unblocked(self.place(task, Trigger.NEED_COMPLETED, State.QUEUED)))
        return failed

    def _close_goal(self, goal: TaskId) -> list[TaskId]:
        """End a goal that waits for nobody any more; returns it then."""
        states = [child.state for child in self.children(goal)]
        task = self.tasks[goal]
        if task.state is not State.WAITING or any(state not in FINAL for state in states):
            return []
        if all(state is State.COMPLETED for state in states):
            task = self.place(task, Trigger.LAST_CHILD, State.COMPLETED)
        else:
            failure = child_failure(states)
            task = self.place(task, Trigger.LAST_CHILD, State.FAILED, reason=Reason.CHILD_FAILED, failure=failure)
        self.record(facts.moved(task))
        return [goal]

    def cancel_tree(self, root: TaskId) -> list[TaskId]:
        """Cancel a task and, goal before children, all below it; returns those that ended at once."""
        ended = []
        tree = [self.tasks[root]]
        for task in tree:
            if task.state is State.IN_PROGRESS:
                self._request_cancel(task)
            elif task.state not in FINAL:
                tree.extend(self.children(task.id))
                self.record(facts.moved(self.place(task, Trigger.CANCEL, State.CANCELLED, reason=Reason.CANCELLED)))
                ended.append(task.id)
        return ended

    def _request_cancel(self, task: Task) -> None:
        if not task.cancel_requested:
            lifecycle.check(task.state, Trigger.CANCEL, State.IN_PROGRESS)
            self.put(replace(task, cancel_requested=True))
            self.steering = replace(self.steering, changes=self.steering.changes + 1)
            self.record(facts.cancel_requested(task))

    def place(
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
        self.parked.discard(task.id)
        after = replace(
            task,
            state=becomes,
            reason=reason,
            failure=failure,
            not_before_at_ms=None,
            cancel_requested=False,
            finished_at_ms=self.now_ms() if becomes in FINAL else None,
        )
        self.put(after)
        return after

    def unpark(self) -> None:
        """Let tasks whose moment has come start."""
        now_ms = self.now_ms()
        self.parked = {one for one in self.parked if (self.tasks[one].not_before_at_ms or 0) > now_ms}

    def startable(self) -> list[Task]:
        """Return tasks that a claim may take, oldest first."""
        return [
            task
            for task in self.tasks.values()
            if task.state is State.QUEUED and not task.held and task.id not in self.parked
        ]

    def open_runs(self) -> list[Run]:
        """Return runs without an end, oldest first."""
        return [run for run in self.runs.values() if run.ended_at_ms is None]

    def children(self, goal: TaskId) -> list[Task]:
        """Return the subtasks of a goal, oldest first."""
        return [task for task in self.tasks.values() if task.parent == goal]

    def dependents(self, need: TaskId) -> list[Task]:
        """Return who needs a task, oldest first."""
        return [self.tasks[task_id] for task_id, needs in self.needs.items() if need in needs]

    def unmet_needs(self, task_id: TaskId) -> list[TaskId]:
        """Return those needs of a task that are not completed."""
        return [need for need in self.needs[task_id] if self.tasks[need].state is not State.COMPLETED]

    def dead_needs(self, task_id: TaskId) -> list[TaskId]:
        """Return those needs of a task that never will be completed as they stand."""
        return [need for need in self.needs[task_id] if self.tasks[need].state in {State.FAILED, State.CANCELLED}]

    def forget(self, ids: frozenset[TaskId]) -> None:
        """Delete tasks with all that belongs to them."""
        self.tasks = {task_id: task for task_id, task in self.tasks.items() if task_id not in ids}
        kept = {task_id: needs for task_id, needs in self.needs.items() if task_id not in ids}
        self.needs = {task_id: [need for need in needs if need not in ids] for task_id, needs in kept.items()}
        self.runs = {run.id: run for run in self.runs.values() if run.task_id not in ids}
        self.events = [event for event in self.events if event.task_id not in ids]

    def put(self, task: Task) -> None:
        """Store a task as it is now."""
        self.tasks[task.id] = task

    def record(self, event: NewEvent) -> None:
        """Append an event with the next number."""
        self.last_seq += 1
        data = json.loads(json.dumps(event.data))  # as every other store gives it back: lists for tuples
        self.events.append(Event(self.last_seq, self.now_ms(), event.kind, event.task_id, event.run_id, data))

    def now_ms(self) -> int:
        """Return the wall clock."""
        return self._clock.now_ms()
