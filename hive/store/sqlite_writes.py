"""The mutating verbs on SQLite, each a function of one transaction.

Every move of a task goes through `lifecycle.check`, every row that must still be as expected is named so in its
statement, and every fact is written here with the change it describes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from hive import lifecycle
from hive.errors import UsageError
from hive.lifecycle import Rules, Trigger
from hive.model import (
    FINAL,
    Failure,
    NewEvent,
    NewTask,
    Outcome,
    Phase,
    ProcessRecord,
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
    Cancel,
    Claimed,
    Command,
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
    facts,
)
from hive.store.graph import adopted, child_failure, need_failure, order_needs
from hive.store.rows import clean, dump, dump_spec, failure_columns, run_of, task_of, usage_columns
from hive.store.sqlite_database import Tx


def add(tx: Tx, tasks: Sequence[NewTask], parent: TaskId | None = None) -> list[Added]:
    """Add tasks, all or none."""
    known: dict[tuple[str, str], TaskId] = {}
    batches: dict[str, int] = {}

    def find(batch: str, key: str) -> TaskId | None:
        row = tx.one("task_by_key", {"batch_id": _batch_id(tx, batches, batch), "key": key})
        return TaskId(row["id"]) if row else None

    answers: dict[int, Added] = {}
    for index in order_needs(tasks, find):
        task = tasks[index]
        existing = known.get((task.batch, task.key)) or find(task.batch, task.key) if task.key is not None else None
        if existing is not None:
            answers[index] = Added(existing, created=False)
            continue
        found = {known.get((task.batch, key)) or find(task.batch, key) for key in task.after}
        needs = sorted(need for need in found if need is not None)
        task_id = _add_one(tx, task, _batch_id(tx, batches, task.batch), needs, parent)
        answers[index] = Added(task_id, created=True)
        if task.key is not None:
            known[task.batch, task.key] = task_id
    return [answers[index] for index in range(len(tasks))]


def _batch_id(tx: Tx, batches: dict[str, int], name: str) -> int:
    if name not in batches:
        row = tx.one("batch_id", {"name": name})
        if row is None:
            tx.run("batch_add", {"name": name, "now_ms": tx.now_ms})
            row = tx.one("batch_id", {"name": name})
        assert row is not None
        batches[name] = row["id"]
    return batches[name]


def _add_one(tx: Tx, task: NewTask, batch_id: int, needs: Sequence[TaskId], parent: TaskId | None) -> TaskId:
    state, reason, failure = _first_standing(tx, needs)
    lifecycle.check(None, Trigger.ADD, state)
    row = tx.one(
        "task_add",
        {
            "batch_id": batch_id,
            "key": task.key,
            "parent_id": parent,
            "role": task.role,
            "priority": task.priority,
            "spec": dump_spec(task),
            "state": state,
            "phase": lifecycle.first_phase(task),
            "reason": reason,
            "held": task.hold,
            "now_ms": tx.now_ms,
            "finished_at_ms": tx.now_ms if state in FINAL else None,
            **failure_columns(failure),
        },
    )
    assert row is not None
    task_id = TaskId(row["id"])
    tx.many("need_add", [{"task_id": task_id, "needs_id": need} for need in needs])
    record(tx, [facts.added(_get(tx, task_id))])
    return task_id


def _first_standing(tx: Tx, needs: Sequence[TaskId]) -> tuple[State, Reason | None, Failure | None]:
    states = {need: _get(tx, need).state for need in needs}
    dead = [need for need, state in states.items() if state in {State.FAILED, State.CANCELLED}]
    if dead:
        return State.FAILED, Reason.DEPENDENCY, need_failure(dead[0])
    if any(state is not State.COMPLETED for state in states.values()):
        return State.BLOCKED, Reason.DEPENDENCY, None
    return State.QUEUED, None, None


def claim(tx: Tx, host: str, slots: Mapping[str, int], limits: Limits) -> list[Claimed]:
    """Open runs for the best startable tasks."""
    tx.run("unpark", {"now_ms": tx.now_ms})
    carried = Counter({row["shard"]: row["n"] for row in tx.all("open_by_shard")})
    free = {shard: room - carried[shard] for shard, room in slots.items() if room > carried[shard]}
    room = min(limits.agents - carried.total(), sum(free.values()))
    if room <= 0:
        return []
    claimed = []
    for task_id in _pick(tx, room, limits):
        shard = max(free, key=lambda name: free[name])
        free[shard] -= 1
        claimed.append(_open_run(tx, task_id, shard, host))
    return claimed


def _pick(tx: Tx, room: int, limits: Limits) -> list[TaskId]:
    """Return the best startable tasks that the role limits allow: a few from each role, then the best of those."""
    candidates: list[tuple[int, int]] = []
    for row in tx.all("claim_roles"):
        cap = limits.per_role.get(row["role"])
        allowed = room if cap is None else min(room, cap - row["running"])
        if row["startable"] > 0 and allowed > 0:
            picked = tx.all("claim_pick", {"role": row["role"], "room": allowed})
            candidates.extend((-best["priority"], best["id"]) for best in picked)
    return [TaskId(task_id) for _, task_id in sorted(candidates)[:room]]


def _open_run(tx: Tx, task_id: TaskId, shard: str, host: str) -> Claimed:
    lifecycle.check(State.QUEUED, Trigger.CLAIM, State.IN_PROGRESS)
    row = tx.one("claim_task", {"id": task_id, "now_ms": tx.now_ms})
    assert row is not None, "picked in this very transaction"
    task = task_of(row)
    reserved_usd = task.spec.budget_usd or 0.0
    opened = tx.one(
        "claim_run",
        {
            "task_id": task_id,
            "phase": task.phase,
            "attempt": task.attempt,
            "round": task.round,
            "shard": shard,
            "host": host,
            "now_ms": tx.now_ms,
            "session_id": task.session_id,
            "reserved_usd": reserved_usd,
        },
    )
    assert opened is not None
    run = run_of(opened)
    if reserved_usd:
        tx.run("batch_reserve", {"task_id": task_id, "usd": reserved_usd})
    record(tx, [facts.claimed(task, run)])
    return Claimed(run.id, task_id, shard)


def attach(tx: Tx, run_id: RunId, process: ProcessRecord) -> bool:
    """Note the process of an open run."""
    row = tx.one(
        "attach",
        {
            "run_id": run_id,
            "pid": process.pid,
            "started": process.started,
            "boot_id": process.boot_id,
            "now_ms": tx.now_ms,
        },
    )
    if row is None:
        return False
    record(tx, [facts.started(run_of(row))])
    return True


def workspace(tx: Tx, task_id: TaskId, path: str, branch: str | None, base: str | None) -> None:
    """Note where a task works."""
    tx.run("task_workspace", {"id": task_id, "path": path, "branch": branch, "base": base})


def renew(tx: Tx, shard: str, host: str, run_ids: Sequence[RunId], lease_s: float) -> Renewal:
    """Extend a lease and compare what the shard carries with what is written."""
    tx.run(
        "incarnation_renew",
        {
            "name": shard,
            "host": host,
            "boot_id": tx.boot_id,
            "lease_until_s": tx.monotonic_s + lease_s,
            "now_ms": tx.now_ms,
        },
    )
    mine = {row["id"]: row["cancel_requested"] for row in tx.all("runs_of_shard", {"shard": shard})}
    return Renewal(
        lost=frozenset(run_id for run_id in run_ids if run_id not in mine),
        cancelled=frozenset(RunId(run_id) for run_id, cancelled in mine.items() if cancelled),
    )


def finish(tx: Tx, run_id: RunId, step: Step) -> Finish:
    """Record an ending, if the run is open."""
    row = tx.one("run_get", {"run_id": run_id})
    if row is None:
        return Finish.LOST
    if row["run_ended_at_ms"] is not None:
        return Finish.LOST if row["run_released"] else Finish.COMMITTED
    _end_run(tx, run_of(row), step, released=False)
    return Finish.COMMITTED


def release(tx: Tx, run_ids: Sequence[RunId], why: Outcome, rules: Rules) -> list[RunId]:
    """End open runs that nobody carries any more."""
    released = []
    for run_id in run_ids:
        row = tx.one("run_get", {"run_id": run_id})
        if row is not None and row["run_ended_at_ms"] is None:
            run = run_of(row)
            _end_run(tx, run, lifecycle.advance(_get(tx, run.task_id), why, rules), released=True)
            released.append(run_id)
    return released


def _end_run(tx: Tx, run: Run, step: Step, *, released: bool) -> None:
    before = _get(tx, run.task_id)
    step = lifecycle.after_cancel(step, cancel_requested=before.cancel_requested)
    subtasks = adopted(before.id, run.id, step, before.spec.batch)
    ended = tx.one("run_end", _ended_columns(tx, run, step, before, released=released))
    after = tx.one("task_step", _stepped_columns(tx, run, step))
    assert ended is not None, "the run was open in this very transaction"
    assert after is not None, "a task with an open run is in progress"
    if run.reserved_usd:
        tx.run("batch_reserve", {"task_id": run.task_id, "usd": -run.reserved_usd})
    task = task_of(after)
    record(tx, [facts.finished(task, run_of(ended)), facts.moved(task)])
    if subtasks:
        _replace_plan(tx, task, subtasks)
    _ripple(tx, [task.id] if task.state in FINAL else _close_goal(tx, task.id))


def _ended_columns(tx: Tx, run: Run, step: Step, before: Task, *, released: bool) -> dict[str, object]:
    return {
        "run_id": run.id,
        "now_ms": tx.now_ms,
        "outcome": step.outcome,
        "released": released,
        "exit_code": step.exit_code,
        "session_id": step.session_id,
        **failure_columns(facts.own_failure(before, step)),
        **usage_columns(step.usage),
    }


def _stepped_columns(tx: Tx, run: Run, step: Step) -> dict[str, object]:
    parked = step.state is State.QUEUED and (step.not_before_at_ms or 0) > tx.now_ms
    return {
        "id": run.task_id,
        "now_ms": tx.now_ms,
        "state": step.state,
        "phase": step.phase,
        "reason": step.reason,
        "attempt": step.attempt,
        "round": step.round,
        "alike": step.alike,
        "not_before_at_ms": step.not_before_at_ms if parked else None,
        "parked": parked,
        "feedback": clean(step.feedback),
        "commit": step.commit,
        "exit_code": step.exit_code,
        "session_id": step.session_id,
        "final": step.state in FINAL,
        **failure_columns(step.failure),
        **usage_columns(step.usage),
    }


def _replace_plan(tx: Tx, goal: Task, subtasks: Sequence[NewTask]) -> None:
    """Give a goal its subtasks; what an earlier plan left is cancelled and no longer the goal's."""
    former = _children(tx, goal.id)
    tx.run("disown", {"id": goal.id})
    _ripple(tx, [ended for child in former for ended in _cancel_tree(tx, child)])
    add(tx, subtasks, parent=goal.id)


def _ripple(tx: Tx, ended: Iterable[TaskId]) -> None:
    """Tell the dependents and the goals of tasks that have just become final, and theirs."""
    waiting = deque(ended)
    while waiting:
        task = _get(tx, waiting.popleft())
        waiting.extend(_tell_dependents(tx, task))
        if task.parent is not None:
            waiting.extend(_close_goal(tx, task.parent))


def _tell_dependents(tx: Tx, need: Task) -> list[TaskId]:
    """Free or fail who waits for `need`; returns who failed."""
    failed = []
    for row in tx.all("dependents", {"id": need.id}):
        if row["state"] != State.BLOCKED:
            continue
        task_id = TaskId(row["id"])
        if need.state is not State.COMPLETED:
            failure = need_failure(need.id)
            after = _place(
                tx, task_id, State.BLOCKED, Trigger.NEED_ENDED, State.FAILED, reason=Reason.DEPENDENCY, failure=failure
            )
            record(tx, [facts.moved(after)])
            failed.append(task_id)
        elif not _count(tx, "unmet", task_id):
            freed = _place(tx, task_id, State.BLOCKED, Trigger.NEED_COMPLETED, State.QUEUED)
            record(tx, [facts.unblocked(freed)])
    return failed


def _close_goal(tx: Tx, goal: TaskId) -> list[TaskId]:
    """End a goal that waits for nobody any more; returns it then."""
    if _get(tx, goal).state is not State.WAITING:
        return []
    states = [State(row["state"]) for row in tx.all("children", {"id": goal})]
    if any(state not in FINAL for state in states):
        return []
    if all(state is State.COMPLETED for state in states):
        closed = _place(tx, goal, State.WAITING, Trigger.LAST_CHILD, State.COMPLETED)
    else:
        failure = child_failure(states)
        closed = _place(
            tx, goal, State.WAITING, Trigger.LAST_CHILD, State.FAILED, reason=Reason.CHILD_FAILED, failure=failure
        )
    record(tx, [facts.moved(closed)])
    return [goal]


def control(tx: Tx, command: Command) -> Receipt:
    """Do what a person asked."""
    match command:
        case Cancel(ids):
            return _cancel(tx, ids)
        case Hold(ids):
            return _each(tx, ids, lambda tx, task: _hold(tx, task, held=True))
        case Release(ids):
            return _each(tx, ids, lambda tx, task: _hold(tx, task, held=False))
        case Retry(ids):
            # A task is younger than what it needs: by id, the needs of a task are retried before itself.
            return _each(tx, sorted(ids), lambda tx, task: _retry(tx, task, command))
        case Reprioritise(ids, priority):
            return _each(tx, ids, lambda tx, task: _reprioritise(tx, task, priority))
        case Steer(paused, agents, stop):
            tx.run("steer", {"paused": paused, "agents": agents, "stop": stop})
            record(tx, [facts.steered(command)])
            return Receipt()


def _each(tx: Tx, ids: Sequence[TaskId], act: Callable[[Tx, Task], str]) -> Receipt:
    changed: list[TaskId] = []
    refused: list[tuple[TaskId, str]] = []
    for task_id in ids:
        row = tx.one("task_get", {"id": task_id})
        why = act(tx, task_of(row)) if row is not None else "no such task"
        if why:
            refused.append((task_id, why))
        else:
            changed.append(task_id)
    return Receipt(tuple(changed), tuple(refused))


def _cancel(tx: Tx, ids: Sequence[TaskId]) -> Receipt:
    """Cancel all that is named before any dependent hears of it: who is named too must not fail instead."""
    ended: list[TaskId] = []

    def cancel(tx: Tx, task: Task) -> str:
        if task.state in FINAL and task.id not in ended:
            return f"already {task.state}"
        ended.extend(_cancel_tree(tx, task.id))
        return ""

    receipt = _each(tx, ids, cancel)
    _ripple(tx, ended)
    return receipt


def _cancel_tree(tx: Tx, root: TaskId) -> list[TaskId]:
    """Cancel a task and, goal before children, all below it; returns those that ended at once."""
    ended = []
    tree = [root]
    for task_id in tree:
        task = _get(tx, task_id)
        if task.state is State.IN_PROGRESS:
            _request_cancel(tx, task)
        elif task.state not in FINAL:
            tree.extend(_children(tx, task_id))
            cancelled = _place(tx, task_id, task.state, Trigger.CANCEL, State.CANCELLED, reason=Reason.CANCELLED)
            record(tx, [facts.moved(cancelled)])
            ended.append(task_id)
    return ended


def _request_cancel(tx: Tx, task: Task) -> None:
    lifecycle.check(task.state, Trigger.CANCEL, State.IN_PROGRESS)
    if tx.run("task_cancel", {"id": task.id}):
        tx.run("steering_changed")
        record(tx, [facts.cancel_requested(task)])


def _hold(tx: Tx, task: Task, *, held: bool) -> str:
    if task.state in FINAL:
        return f"already {task.state}"
    row = tx.one("task_hold", {"id": task.id, "held": held})
    if row is not None:
        record(tx, [facts.held(task_of(row))])
    return ""


def _reprioritise(tx: Tx, task: Task, priority: int) -> str:
    row = tx.one("task_priority", {"id": task.id, "priority": priority})
    if row is None:
        return f"already {task.state}"
    record(tx, [facts.reprioritised(task_of(row))])
    return ""


def _retry(tx: Tx, task: Task, command: Retry) -> str:
    if task.state not in {State.FAILED, State.CANCELLED, State.NEEDS_YOU}:
        return f"it is {task.state}, not failed, cancelled or needs_you"
    if command.phase is not None and command.phase not in task.spec.phases:
        return f"its pipeline has no phase {command.phase}"
    dead = tx.one("dead_need", {"id": task.id})
    if dead is not None:
        return f"it needs task {dead['id']}, which is {dead['state']}: retry that too"
    blocked = _count(tx, "unmet", task.id) > 0
    again = _place(
        tx,
        task.id,
        task.state,
        Trigger.RETRY,
        State.BLOCKED if blocked else State.QUEUED,
        reason=Reason.DEPENDENCY if blocked else None,
        phase=command.phase,
        reset=True,
        feedback=clean(command.note) or None,
    )
    record(tx, [facts.moved(again)])
    _revive_dependents(tx, task.id, named=command.ids)
    return ""


def _revive_dependents(tx: Tx, revived: TaskId, named: Sequence[TaskId]) -> None:
    """Block again what failed only because of this need; who is `named` has its own turn."""
    again = deque([revived])
    while again:
        for row in tx.all("dependents", {"id": again.popleft()}):
            task_id = TaskId(row["id"])
            failed_with_it = row["state"] == State.FAILED and row["reason"] == Reason.DEPENDENCY
            if failed_with_it and task_id not in named and tx.one("dead_need", {"id": task_id}) is None:
                blocked = _place(
                    tx, task_id, State.FAILED, Trigger.NEED_REVIVED, State.BLOCKED, reason=Reason.DEPENDENCY
                )
                record(tx, [facts.blocked(blocked)])
                again.append(task_id)


def _place(
    tx: Tx,
    task_id: TaskId,
    was: State,
    trigger: Trigger,
    becomes: State,
    *,
    reason: Reason | None = None,
    phase: Phase | None = None,
    reset: bool = False,
    feedback: str | None = None,
    failure: Failure | None = None,
) -> Task:
    """Move a task that no run carries; whatever it waited for is over."""
    lifecycle.check(was, trigger, becomes)
    row = tx.one(
        "task_place",
        {
            "id": task_id,
            "was": was,
            "state": becomes,
            "phase": phase,
            "reason": reason,
            "reset": reset,
            "feedback": feedback,
            "final": becomes in FINAL,
            "now_ms": tx.now_ms,
            **failure_columns(failure),
        },
    )
    assert row is not None, "read in this very transaction"
    return task_of(row)


def limit(tx: Tx, signal: LimitSignal) -> None:
    """Record that a limit was met."""
    tx.run(
        "limit_add",
        {
            "now_ms": tx.now_ms,
            "kind": signal.kind,
            "host": signal.host,
            "until_at_ms": signal.until_at_ms,
            "detail": clean(signal.detail),
        },
    )
    record(tx, [facts.limit_met(signal)])


def record(tx: Tx, events: Sequence[NewEvent]) -> None:
    """Append events with the next sequence numbers."""
    tx.many(
        "event_add",
        [
            {
                "now_ms": tx.now_ms,
                "kind": event.kind,
                "task_id": event.task_id,
                "run_id": event.run_id,
                "data": dump(event.data),
            }
            for event in events
        ],
    )


def prune(tx: Tx, before_ms: int, budget: int) -> int:
    """Delete old final tasks that nobody refers to."""
    ids = [row["id"] for row in tx.all("prune_pick", {"before_ms": before_ms, "budget": budget})]
    if ids:
        tx.run("prune_events", {"ids": dump(ids)})
        tx.run("prune_tasks", {"ids": dump(ids)})
    return len(ids)


def _children(tx: Tx, goal: TaskId) -> list[TaskId]:
    return [TaskId(row["id"]) for row in tx.all("children", {"id": goal})]


def _count(tx: Tx, name: str, task_id: TaskId) -> int:
    row = tx.one(name, {"id": task_id})
    assert row is not None
    return int(row["n"])


def _get(tx: Tx, task_id: TaskId) -> Task:
    row = tx.one("task_get", {"id": task_id})
    if row is None:
        raise UsageError(f"there is no task {task_id}", code="H130", fix="list tasks with: hive ls")
    return task_of(row)
