"""`hive run`: add task files, work the queue, say how it came out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hive.cli import exits, output
from hive.cli.context import Context, database_path
from hive.cli.options import verb
from hive.model import Json, NewTask, State
from hive.store import TaskQuery

if TYPE_CHECKING:
    from hive.config import Settings
    from hive.ending import Watcher
    from hive.engine import Report

AGENTS = ("claude", "command", "scripted")
PROGRESS = ("auto", "plain", "json", "none")


@verb(
    "run",
    more="Adds the tasks of the files first; those that are there already are taken up where they stand, so the same "
    "command again resumes. Without a file it works what is queued.",
)
@click.argument("files", nargs=-1, metavar="[TASKFILE]...", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--each", is_flag=True, help="Every line of the input is a task.")
@click.option("--cores", type=click.IntRange(min=1), help="Shards  [as agents need]")
@click.option("--agents", type=click.IntRange(min=1), help="Most agents at once  [8]")
@click.option("--sync", is_flag=True, default=None, help="One process, one task at a time.")
@click.option("--agent", type=click.Choice(AGENTS), help="For tasks that name none  [claude]")
@click.option("--model", help="For tasks that name none.")
@click.option("--task-budget", "task_budget_usd", type=click.FLOAT, metavar="USD", help="Cap of one agent run.")
@click.option("--retries", type=click.IntRange(min=0), help="Attempts after the first  [2]")
@click.option("--rounds", type=click.IntRange(min=0), help="Times a red test sends back  [3]")
@click.option("--timeout", "timeout_s", metavar="TIME", help="Longest run, as 90s, 10m or 2h  [1h]")
@click.option("--idle-timeout", "idle_timeout_s", metavar="TIME", help="Longest silence  [15m]")
@click.option("--progress", type=click.Choice(PROGRESS), default="auto", show_default=True, help="In what form.")
def run_command(ctx: Context, files: tuple[Path, ...], *, each: bool, progress: str, **flags: object) -> int:
    """See the table of verbs."""
    from hive.cli.tasks import read_files
    from hive.preflight import check

    settings = ctx.settings(**flags)
    tasks = read_files(ctx, settings, files, each=each)
    for note in dict.fromkeys([*check(tasks, settings), *standing(ctx, settings)]):
        output.say(ctx, f"hive: {note}")
    if ctx.jsonl:
        progress = "json"
    if progress == "auto":
        progress = "none" if ctx.quiet else "plain"
    return finish(ctx, work(ctx, settings, tasks, progress=progress), streamed=progress == "json")


def standing(ctx: Context, settings: Settings) -> list[str]:
    """Return what people should know about the queue as it is; its first ten thousand tasks stand for all.

    Raises:
        NotReady: What is queued needs something that this machine does not have.
    """
    from hive.preflight import check_queued

    if not database_path(settings).exists():
        return []
    with ctx.queue(settings) as hive:
        paused = hive.steering().paused
        queued = hive.tasks(TaskQuery(states=frozenset({State.QUEUED}), limit=10_000))
    notes = check_queued([task for task in queued if not task.held], settings)
    return ["paused: nothing starts until `hive resume`", *notes] if paused else notes


def work(ctx: Context, settings: Settings, tasks: Sequence[NewTask], *, progress: str) -> Report:
    """Run the engine with progress shown as asked."""
    from hive import engine

    why = engine.form(settings).why
    if why:
        output.say(ctx, f"hive: {why}")

    def watcher(after: int) -> Watcher:
        from hive.api import open_sync
        from hive.cli.progress import PlainProgress

        return PlainProgress(
            open_sync(settings.db, clock=ctx.clock), after=after, clock=ctx.clock, jsonl=progress == "json"
        )

    return engine.work(settings, tasks, watcher=None if progress == "none" else watcher)


def finish(ctx: Context, report: Report, *, streamed: bool = False) -> int:
    """Print how the run came out and return its exit code.

    Args:
        streamed: Events went to stdout, where only data may follow.
    """
    code, reason = exits.verdict(
        report.by_state,
        signal=report.ending.signal,
        gave_up=bool(report.ending.gave_up),
        stopped=report.ending.stopped,
    )
    if ctx.json:
        output.data(summary(ctx, report, code, reason))
    elif not ctx.jsonl:
        print("\n".join(lines(report)), file=sys.stderr if ctx.quiet or streamed else sys.stdout)
    if report.ending.gave_up:
        print(f"error[H222]: the engine gave up\nwhy: {report.ending.gave_up}\nfix: hive doctor", file=sys.stderr)
    return code


def summary(ctx: Context, report: Report, code: int, reason: str) -> dict[str, Json]:
    """Return the one object that ``--json`` prints."""
    from hive.export import envelope, state_counts

    return envelope(
        "hive.run/1",
        ctx.clock.now_ms(),
        counts=state_counts(report.by_state),
        wall_s=round(report.wall_s, 3),
        cost_usd=round(report.cost_usd, 6),
        recovered=report.recovered,
        exit={"code": code, "reason": reason},
    )


def lines(report: Report) -> list[str]:
    """Return the summary for people; ends with the command to type next, if there is one."""
    done = report.by_state
    parts = [f"{done[state]} {state.replace('_', ' ')}" for state in State if done[state]]
    cost = f", ${report.cost_usd:.2f} est." if report.cost_usd else ""
    text = [f"{', '.join(parts) or 'nothing to do'} in {output.span(report.wall_s)}{cost}"]
    if report.recovered:
        text.append(f"took up {output.several(report.recovered, 'run')} of processes that had died")
    if done[State.NEEDS_YOU]:
        text.append("next: hive ls @needs_you")
    elif done[State.FAILED]:
        text.append("next: hive ls @failed, then hive retry @failed")
    elif any(done[state] for state in exits.OUTSTANDING):
        text.append("next: hive run")
    return text
