"""Verbs that change tasks: cancel, retry, hold, release, prio. Each selects, asks if it is many, says what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.options import CHANGES, selectors, verb
from hive.cli.output import data, dollars, say, several
from hive.errors import UsageError
from hive.export import envelope
from hive.model import Phase, State, Task, TaskId
from hive.store import Cancel, Command, Hold, Receipt, Release, Reprioritise, Retry
from hive.values import AVAILABLE_PHASES

_MOST_NAMED = 12
_FORMS = """SELECTOR is 412, 412..430, @failed, batch:NAME, group:G, tag:T or a key; more than one task needs a yes."""

dry_run_option = click.option("--dry-run", is_flag=True, help="Say which tasks it would be; change nothing.")


@verb("cancel", shown=CHANGES, more="Running agents are stopped first; nothing they did is deleted.\n\n" + _FORMS)
@selectors(required=True)
@dry_run_option
def cancel_command(ctx: Context, *, names: Sequence[str], filters: Sequence[str], dry_run: bool) -> int:
    """Cancel tasks."""
    return change(ctx, names, filters, "cancel", Cancel, dry_run=dry_run)


@verb("retry", shown=CHANGES, more="Counts start anew; the branch and the agent's session are kept.\n\n" + _FORMS)
@selectors(required=True)
@click.option(
    "--from", "phase", type=click.Choice([phase.value for phase in AVAILABLE_PHASES]), help="Phase to begin with."
)
@click.option("--note", metavar="TEXT", default="", help="What the agent is told beside its task.")
@dry_run_option
def retry_command(
    ctx: Context, *, names: Sequence[str], filters: Sequence[str], phase: str | None, note: str, dry_run: bool
) -> int:
    """Queue tasks again."""
    start = Phase(phase) if phase else None
    return change(ctx, names, filters, "retry", lambda ids: Retry(ids, start, note), dry_run=dry_run)


@verb("hold", shown=CHANGES, more="What runs goes on until its phase ends.\n\n" + _FORMS)
@selectors(required=True)
@dry_run_option
def hold_command(ctx: Context, *, names: Sequence[str], filters: Sequence[str], dry_run: bool) -> int:
    """Hold tasks."""
    return change(ctx, names, filters, "hold", Hold, dry_run=dry_run)


@verb("release", shown=CHANGES, more=_FORMS)
@selectors(required=True)
@dry_run_option
def release_command(ctx: Context, *, names: Sequence[str], filters: Sequence[str], dry_run: bool) -> int:
    """Release tasks."""
    return change(ctx, names, filters, "release", Release, dry_run=dry_run)


@verb("prio", shown=CHANGES, more="Higher is started first.\n\n" + _FORMS)
@click.argument("priority", type=click.IntRange(-1000, 1000))
@selectors(required=True)
@dry_run_option
def prio_command(ctx: Context, *, priority: int, names: Sequence[str], filters: Sequence[str], dry_run: bool) -> int:
    """Give tasks another priority."""
    return change(ctx, names, filters, "prio", lambda ids: Reprioritise(ids, priority), dry_run=dry_run)


def change(
    ctx: Context,
    names: Sequence[str],
    filters: Sequence[str],
    word: str,
    command: Callable[[tuple[TaskId, ...]], Command],
    *,
    dry_run: bool,
) -> int:
    """Select tasks, have a person agree when they are many, and send the command the store has for it.

    Raises:
        UsageError: Nothing was selected by name, nobody agreed, or the command makes sense for none of the tasks.
    """
    from hive.cli.selector import FORMS, parse, select

    if not names and not filters:
        raise UsageError(f"{word} what?", code="H131", fix=f"name tasks: {FORMS}")
    parts = parse(names, filters, ctx.clock.now_ms())
    with ctx.queue(ctx.settings()) as hive:
        tasks = select(hive, parts)
        if dry_run:
            _print_dry_run(ctx, word, tasks)
            return exits.COMPLETED
        _agree(ctx, word, tasks)
        receipt = hive.control(command(tuple(task.id for task in tasks))) if tasks else Receipt()
    _print_receipt(ctx, word, tasks, receipt)
    if receipt.refused and not receipt.changed:
        task_id, why = receipt.refused[0]
        raise UsageError(f"cannot {word} task {task_id}: {why}", code="H134", fix=f"hive show {task_id}")
    return exits.COMPLETED


def _agree(ctx: Context, word: str, tasks: Sequence[Task]) -> None:
    if len(tasks) < 2 or ctx.yes:
        return
    spent = dollars(sum(task.usage.cost_usd for task in tasks))
    question = f"{word} {several(len(tasks), 'task')}{f', {spent} est. spent on them' if spent else ''}"
    if not ctx.may_ask():
        raise UsageError(f"not without a yes: {question}", code="H133", fix="add --yes, or look first with --dry-run")
    if not click.confirm(f"{question}?", err=True):
        raise UsageError("nothing was changed", code="H133", why="you said no")


def _print_dry_run(ctx: Context, word: str, tasks: Sequence[Task]) -> None:
    if not ctx.for_people:
        ids = [task.id for task in tasks]
        data(
            envelope(
                "hive.receipt/1", ctx.clock.now_ms(), verb=word, dry_run=True, selected=ids, changed=[], refused=[]
            )
        )
        return
    from hive.cli.ls import task_lines

    print(f"would {word} {several(len(tasks), 'task')}")
    for line in task_lines(ctx, tasks):
        print(line)


def _print_receipt(ctx: Context, word: str, tasks: Sequence[Task], receipt: Receipt) -> None:
    if not ctx.for_people:
        document = envelope(
            "hive.receipt/1",
            ctx.clock.now_ms(),
            verb=word,
            dry_run=False,
            selected=[task.id for task in tasks],
            changed=list(receipt.changed),
            refused=[{"id": task_id, "why": why} for task_id, why in receipt.refused],
        )
        data(document)
        return
    if not tasks:
        print("no task matches; nothing was changed")
    if receipt.changed:
        print(f"{word}: {several(len(receipt.changed), 'task')} ({_named(receipt.changed)})")
    reasons: dict[str, list[TaskId]] = {}
    for task_id, why in receipt.refused:
        reasons.setdefault(why, []).append(task_id)
    for why, ids in reasons.items() if len(tasks) > 1 else ():  # that of a single task is the error below
        print(f"left alone: {several(len(ids), 'task')} ({_named(ids)}): {why}")
    stopping = sum(task.state is State.IN_PROGRESS for task in tasks) if word == "cancel" else 0
    if stopping:
        say(ctx, f"{several(stopping, 'task')} in progress: cancelled when the engine has stopped the agents")


def _named(ids: Sequence[TaskId]) -> str:
    shown = ", ".join(str(task_id) for task_id in ids[:_MOST_NAMED])
    return shown if len(ids) <= _MOST_NAMED else f"{shown}, …"
