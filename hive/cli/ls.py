"""`hive ls`: tasks, newest first."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.options import JSONL, selectors, verb
from hive.cli.output import Column, data, dollars, painted, say, several, span, table
from hive.export import TASKS_SCHEMA, envelope, task_row
from hive.model import State, Task

_SHOWN = 50
_COLUMNS = (
    Column("ID", right=True),
    Column("STATE"),
    Column("PHASE"),
    Column("RUNS", right=True),
    Column("TIME", right=True),
    Column("COST", right=True),
    Column("TITLE", flexible=True),
)
_MORE = """SELECTOR is 412, 412..430, @failed, batch:NAME, group:G, tag:T or a key; FILTER is several of them and
text: 'state:failed tag:api cost>2 age<1h "ConnectionError"'. Without any, all tasks."""


@verb("ls", shown=JSONL, more=_MORE)
@selectors()
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N tasks  [50; with --json and --jsonl all]")
@click.option("--oldest", is_flag=True, help="Oldest first.")
def ls_command(ctx: Context, *, names: Sequence[str], filters: Sequence[str], limit: int | None, oldest: bool) -> int:
    """List tasks."""
    from hive.cli.selector import parse, select

    most = limit or (_SHOWN if ctx.for_people else None)
    parts = parse(names, filters, ctx.clock.now_ms())
    with ctx.queue(ctx.settings()) as hive:
        # One more than is shown tells whether there are more.
        tasks = select(hive, parts, limit=None if most is None else most + 1, newest_first=not oldest)
    more = most is not None and len(tasks) > most
    _print(ctx, tasks[:most], more=more, selected=bool(names or filters))
    return exits.COMPLETED


def task_lines(ctx: Context, tasks: Sequence[Task]) -> list[str]:
    """Return a table of tasks, fitted to the terminal."""
    heading, *lines = table(ctx, _COLUMNS, [_cells(task) for task in tasks])
    return [heading, *(painted(ctx, line, task.state) for line, task in zip(lines, tasks, strict=True))]


def standing(task: Task) -> str:
    """Return a state with its reason: ``queued (hold)``, ``failed (attempts_exhausted)``."""
    if task.held and task.state is State.QUEUED:
        return f"{task.state} (hold)"
    if task.cancel_requested and task.state is State.IN_PROGRESS:
        return f"{task.state} (cancel)"
    return f"{task.state} ({task.reason})" if task.reason and task.reason.value != task.state.value else str(task.state)


def _cells(task: Task) -> Sequence[str]:
    time = span(task.usage.duration_s) if task.usage.duration_s else ""
    runs = str(task.runs) if task.runs else ""
    return str(task.id), standing(task), task.phase, runs, time, dollars(task.usage.cost_usd), task.spec.title


def _print(ctx: Context, tasks: Sequence[Task], *, more: bool, selected: bool) -> None:
    if ctx.jsonl:
        for task in tasks:
            data(task_row(task))
    elif ctx.json:
        data(envelope(TASKS_SCHEMA, ctx.clock.now_ms(), data=[task_row(task) for task in tasks], more=more))
    elif tasks:
        for line in task_lines(ctx, tasks):
            print(line)
        if more:
            say(ctx, f"the first {several(len(tasks), 'task')}; more with --limit")
    else:
        say(ctx, "no task matches" if selected else 'the queue is empty; add a task with: hive add "what to do"')
