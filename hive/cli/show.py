"""`hive show`: one task on one screen: what was asked, what became of it, what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hive import bus
from hive.cli import exits
from hive.cli.context import Context
from hive.cli.ls import standing
from hive.cli.options import JSON, task_argument, verb
from hive.cli.output import Column, data, dollars, fit, lines_of, painted, span, table
from hive.export import envelope, run_row, task_row
from hive.model import Run, State, Task, TaskId

if TYPE_CHECKING:
    from hive.api import SyncHive

_PROMPT_LINES = 6
_FEEDBACK_LINES = 8
_RUNS_SHOWN = 8


@verb("show", shown=JSON, more="TASK is an id or a key.")
@task_argument
def show_command(ctx: Context, *, name: str) -> int:
    """Show one task."""
    with ctx.queue(ctx.settings()) as hive:
        task = the_task(ctx, hive, name)
        runs = hive.runs(task.id)
        needs = hive.needs(task.id)
    if not ctx.for_people:
        rows = [run_row(run) for run in runs]
        detail = {"prompt": task.spec.prompt, "feedback": task.feedback, "base_commit": task.base_commit}
        data(envelope("hive.task/1", ctx.clock.now_ms(), data=task_row(task), runs=rows, needs=list(needs), **detail))
        return exits.COMPLETED
    for line in _lines(ctx, task, runs, needs):
        print(line)
    return exits.COMPLETED


def the_task(ctx: Context, hive: SyncHive, name: str) -> Task:
    """Return the one task an id or key means.

    Raises:
        UsageError: There is none, or more than one.
    """
    from hive.cli.selector import parse, select
    from hive.errors import UsageError

    tasks = select(hive, parse([name], [], ctx.clock.now_ms()), limit=2)
    if len(tasks) != 1:
        what = "more than one task" if tasks else "no task"
        raise UsageError(f"`{bus.printable(name, 60)}` means {what}", code="H132", fix=f"hive ls {shlex.quote(name)}")
    return tasks[0]


def next_command(task: Task) -> str:
    """Return the one command to type next, or nothing."""
    match task.state:
        case State.NEEDS_YOU | State.FAILED if task.branch:
            return f'hive diff {task.id}; then: hive retry {task.id} --note "what to do differently"'
        case State.NEEDS_YOU | State.FAILED:
            return f"hive logs {task.id}; then: hive retry {task.id}"
        case State.CANCELLED:
            return f"hive retry {task.id}"
        case State.COMPLETED:
            return f"hive diff {task.id}" if task.branch else f"hive logs {task.id}"
        case State.IN_PROGRESS:
            return f"hive logs {task.id} -f"
        case State.QUEUED if task.held:
            return f"hive release {task.id}"
        case State.QUEUED:
            return "hive run"
        case State.BLOCKED | State.WAITING:
            return f"hive wait {task.id}"


def _lines(ctx: Context, task: Task, runs: Sequence[Run], needs: Sequence[TaskId]) -> list[str]:
    width = ctx.width()
    spec = task.spec
    lines = [fit(f"task {task.id}  {bus.printable(spec.title, 200)}", width)]
    lines += [fit(f"{label:<9} {value}", width) for label, value in _facts(ctx, task, needs) if value]
    lines[1] = painted(ctx, lines[1], task.state)
    lines += _block("asked", spec.prompt or spec.script or shlex.join(spec.command), _PROMPT_LINES, width)
    if task.failure is not None:
        group = f" (group {task.failure.group})" if task.failure.group else ""
        lines += _block(f"why: {task.failure.code}{group}", task.failure.message, _FEEDBACK_LINES, width)
    if task.feedback and (task.failure is None or task.failure.message.strip() not in task.feedback):
        lines += _block("feedback", task.feedback, _FEEDBACK_LINES, width)
    if runs:
        lines += ["", *_run_lines(ctx, runs)]
    return [*lines, "", fit(f"next: {next_command(task)}", width)]


def _facts(ctx: Context, task: Task, needs: Sequence[TaskId]) -> list[tuple[str, str]]:
    spec, now_ms = task.spec, ctx.clock.now_ms()
    due_s = (task.not_before_at_ms - now_ms) / 1000 if task.not_before_at_ms is not None else 0
    state = f"{standing(task)}, phase {task.phase} of {', '.join(spec.phases)}"
    state += f", again in {span(due_s)}" if due_s > 0 and task.state is State.QUEUED else ""
    usage = task.usage
    cost = f"{dollars(usage.cost_usd)} est." if usage.cost_usd else ""
    commit = f" at {task.commit[:12]}" if task.commit else ""
    return [
        ("state", state),
        ("key", bus.printable(f"{spec.batch}/{spec.key}") if spec.key else f"batch {bus.printable(spec.batch)}"),
        ("tags", bus.printable(", ".join(spec.tags))),
        ("needs", ", ".join(map(str, needs))),
        ("branch", bus.printable(f"{task.branch}{commit}") if task.branch else ""),
        ("workspace", bus.printable(task.workspace or "")),
        ("spent", ", ".join(part for part in (cost, span(usage.duration_s) if usage.duration_s else "") if part)),
        ("added", f"{span((now_ms - task.created_at_ms) / 1000)} ago"),
    ]


def _block(title: str, text: str, most: int, width: int | None) -> list[str]:
    """Return a text of several lines below its title, cut to `most` lines."""
    body = [line.expandtabs(4).rstrip() for line in lines_of(text).strip().splitlines()]
    if not body:
        return []
    shown = [fit(f"  {line}", width) for line in body[:most]]
    if len(body) > most:
        shown.append(f"  … {len(body) - most} more lines with --json")
    return ["", fit(title, width), *shown]


def _run_lines(ctx: Context, runs: Sequence[Run]) -> list[str]:
    columns = (
        Column("RUN", right=True),
        Column("PHASE"),
        Column("TRY", right=True),
        Column("OUTCOME"),
        Column("TIME", right=True),
        Column("COST", right=True),
        Column("WHY", flexible=True),
    )
    rows = [
        [
            str(run.id),
            run.phase,
            str(run.attempt),
            run.outcome or "running",
            span(run.usage.duration_s) if run.usage.duration_s else "",
            dollars(run.usage.cost_usd),
            run.failure.message if run.failure else "",
        ]
        for run in runs[-_RUNS_SHOWN:]
    ]
    lines = table(ctx, columns, rows)
    return (
        lines if len(runs) <= _RUNS_SHOWN else [*lines, f"the last {_RUNS_SHOWN} of {len(runs)} runs; all with --json"]
    )
