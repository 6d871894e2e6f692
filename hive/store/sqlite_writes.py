"""The mutating verbs of the engine on SQLite, each a function of one transaction.

Every row that must still be as expected is named so in its statement, and every fact is written here with the change
it describes. What people ask for is in `sqlite_control`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from hive import lifecycle
from hive.lifecycle import Rules, Trigger
from hive.model import FINAL, Failure, NewTask, Outcome, ProcessRecord, Reason, Run, RunId, State, Step, Task, TaskId
from hive.store import Added, Claimed, Finish, Limits, LimitSignal, Renewal, facts
from hive.store.graph import adopted, need_failure, order_needs
from hive.store.rows import clean, dump, dump_spec, failure_columns, run_of, task_of, usage_columns
from hive.store.sqlite_database import Tx
from hive.store.sqlite_moves import cancel_tree, children, close_goal, get, record, ripple

NO_PROCESS: Mapping[str, object] = MappingProxyType({"pid": None, "started": None, "boot_id": None})


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
    record(tx, [facts.added(get(tx, task_id))])
    return task_id


def _first_standing(tx: Tx, needs: Sequence[TaskId]) -> tuple[State, Reason | None, Failure | None]:
    states = {need: get(tx, need).state for need in needs}
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


def attach(tx: Tx, run_id: RunId, process: ProcessRecord | None) -> bool:
    """Note that the agent of an open run is at work, and its process."""
    known = NO_PROCESS
    if process is not None:
        known = {"pid": process.pid, "started": process.started, "boot_id": process.boot_id}
    first = tx.one("attach_first", {"run_id": run_id, "now_ms": tx.now_ms, **known})
    if first is not None:
        record(tx, [facts.started(run_of(first))])
        return True
    return tx.run("attach_again", {"run_id": run_id, **known}) > 0


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
            _end_run(tx, run, lifecycle.advance(get(tx, run.task_id), why, rules), released=True)
            released.append(run_id)
    return released


def _end_run(tx: Tx, run: Run, step: Step, *, released: bool) -> None:
    before = get(tx, run.task_id)
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
    if task.state in FINAL:
        ripple(tx, [task])
    elif task.state is State.WAITING:
        ripple(tx, close_goal(tx, task.id))  # an empty plan leaves nothing to wait for


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
    former = children(tx, goal.id)
    tx.run("disown", {"id": goal.id})
    ripple(tx, [ended for child in former for ended in cancel_tree(tx, child)])
    add(tx, subtasks, parent=goal.id)


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


def prune(tx: Tx, before_ms: int, budget: int) -> int:
    """Delete old final tasks that nobody refers to."""
    ids = [row["id"] for row in tx.all("prune_pick", {"before_ms": before_ms, "budget": budget})]
    if ids:
        tx.run("prune_events", {"ids": dump(ids)})
        tx.run("prune_tasks", {"ids": dump(ids)})
    return len(ids)
