"""`hive status`: how the queue stands, what needs you, and the one command to type next."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hive import bus
from hive.cli import exits
from hive.cli.context import Context, database_path
from hive.cli.engine_state import engine_pid
from hive.cli.ls import standing
from hive.cli.options import JSON, verb
from hive.cli.output import Column, data, dollars, fit, painted, several, span, table
from hive.export import envelope, status_row
from hive.model import Json, State, Task, Usage
from hive.store import BatchTotals, Counts, Steering, TaskQuery

if TYPE_CHECKING:
    from hive.api import SyncHive

_SHOWN = 5
_ORDER = (
    State.NEEDS_YOU,
    State.FAILED,
    State.IN_PROGRESS,
    State.WAITING,
    State.QUEUED,
    State.BLOCKED,
    State.COMPLETED,
    State.CANCELLED,
)


@dataclass(frozen=True, slots=True)
class Standing:
    """All that `hive status` says.

    Attributes:
        engine: Process id of the engine that works the queue, 0 when it is not known, None when none does.
        needs_you, failed: The first few such tasks.
        newest: The task that was added last, if any.
    """

    counts: Counts
    ledger: list[BatchTotals]
    steering: Steering
    engine: int | None
    needs_you: Sequence[Task]
    failed: Sequence[Task]
    newest: Task | None


@verb("status", shown=JSON)
def status_command(ctx: Context) -> int:
    """Say how the queue stands."""
    settings = ctx.settings()
    with ctx.queue(settings) as hive:
        standing = look(hive, engine_pid(settings))
    if not ctx.for_people:
        data(_document(ctx, standing))
        return exits.COMPLETED
    for line in _lines(ctx, standing, f"queue {database_path(settings)}"):
        print(line)
    return exits.COMPLETED


def look(hive: SyncHive, engine: int | None) -> Standing:
    """Read how a queue stands."""
    counts = hive.counts()
    return Standing(
        counts=counts,
        ledger=hive.ledger(),
        steering=hive.steering(),
        engine=engine,
        needs_you=_some(hive, counts, State.NEEDS_YOU),
        failed=_some(hive, counts, State.FAILED),
        newest=next(iter(hive.tasks(TaskQuery(limit=1, newest_first=True))), None),
    )


def next_command(standing: Standing) -> str:
    """Return the one command to type next."""
    by_state = standing.counts.by_state
    if standing.newest is None:
        return 'hive add "what to do"'
    if standing.needs_you:
        return f"hive show {standing.needs_you[0].id}"
    if standing.engine is not None:
        return "hive resume" if standing.steering.paused else "hive wait"
    if by_state[State.QUEUED] or by_state[State.IN_PROGRESS]:
        held = not (standing.counts.startable or standing.counts.parked or by_state[State.IN_PROGRESS])
        if held:
            return "hive release @held"
        return "hive resume && hive run" if standing.steering.paused else "hive run"
    if standing.failed:
        return f"hive show {standing.failed[0].id}"
    return f"hive show {standing.newest.id}"


def _some(hive: SyncHive, counts: Counts, state: State) -> list[Task]:
    if not counts.by_state[state]:  # known from the counters: no need to look through all tasks
        return []
    return hive.tasks(TaskQuery(states=frozenset({state}), limit=_SHOWN))


def _document(ctx: Context, standing: Standing) -> dict[str, Json]:
    steering = standing.steering
    engine: Json = {
        "running": standing.engine is not None,
        "pid": standing.engine or None,
        "paused": steering.paused,
        "agents": steering.agents,
    }
    row = status_row(standing.counts, standing.ledger)
    return envelope("hive.status/1", ctx.clock.now_ms(), **row, engine=engine, next=next_command(standing))


def _lines(ctx: Context, standing: Standing, heading: str) -> list[str]:
    width = ctx.width()
    counts = textwrap.wrap(_counts_line(standing), width or 1000)
    lines = [fit(line, width) for line in (heading, *counts, *_notes(ctx, standing))]
    for title, tasks in (("needs you", standing.needs_you), ("failed", standing.failed)):
        if tasks:
            total = standing.counts.by_state[tasks[0].state]
            lines += ["", title, *_task_lines(ctx, tasks)]
            if total > len(tasks):
                lines.append(fit(f"  and {total - len(tasks):,} more: hive ls @{tasks[0].state}", width))
    if len(standing.ledger) > 1:
        lines += ["", *_batch_lines(ctx, standing.ledger)]
    return [*lines, "", f"next: {next_command(standing)}"]


def _counts_line(standing: Standing) -> str:
    by_state = standing.counts.by_state
    total = sum(by_state.values())
    if not total:
        return "no tasks yet"
    parts = [f"{by_state[state]:,} {state}" for state in _ORDER if by_state[state]]
    return f"{several(total, 'task')}: {', '.join(parts)}"


def _notes(ctx: Context, standing: Standing) -> list[str]:
    counts, steering = standing.counts, standing.steering
    notes = [_engine_line(standing)]
    if counts.parked and counts.next_due_at_ms is not None:
        due_s = max(0, counts.next_due_at_ms - ctx.clock.now_ms()) / 1000
        notes.append(f"{counts.parked:,} wait for a back-off or limit, the first for {span(due_s)}")
    held = counts.by_state[State.QUEUED] - counts.startable - counts.parked
    if held:
        notes.append(f"{held:,} held")
    usage = sum((batch.usage for batch in standing.ledger), Usage())
    if usage.cost_usd:
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_creation_tokens
        share = f", {usage.cache_read_tokens / read:.0%} of input from cache" if read else ""
        notes.append(f"spent {dollars(usage.cost_usd)} est.{share}")
    if steering.paused:
        notes.append("paused: nothing new is started")
    return notes


def _engine_line(standing: Standing) -> str:
    if standing.engine is None:
        return "no engine runs"
    running = sum(standing.counts.open_runs.values())
    process = f" (process {standing.engine})" if standing.engine else ""
    return f"the engine runs{process}: {several(running, 'agent')} at work"


def _task_lines(ctx: Context, tasks: Sequence[Task]) -> list[str]:
    lines = []
    for task in tasks:
        why = task.failure.message if task.failure else task.feedback
        text = f"  {task.id}  {standing(task)}  {bus.printable(task.spec.title, 60)}"
        text += f": {bus.printable(why)}" if why else ""
        lines.append(painted(ctx, fit(text, ctx.width()), task.state))
    return lines


def _batch_lines(ctx: Context, ledger: Sequence[BatchTotals]) -> list[str]:
    """Return a table of batches with a column for each state that occurs."""
    states = [state for state in _ORDER if any(batch.by_state[state] for batch in ledger)]
    columns = [Column("BATCH", flexible=True), Column("COST", right=True)]
    rows = []
    for batch in ledger:
        figures = [f"{batch.by_state[state]:,}" if batch.by_state[state] else "" for state in states]
        rows.append([batch.batch, dollars(batch.usage.cost_usd), *figures])
    return table(ctx, [*columns, *(Column(state.upper(), right=True) for state in states)], rows)
