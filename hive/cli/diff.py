"""`hive diff`: what a task's branch changed against where it started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.options import JSON, task_argument, verb
from hive.cli.output import data, lines_of, raw, say
from hive.cli.show import the_task
from hive.errors import UsageError
from hive.export import envelope
from hive.model import Json, Task

if TYPE_CHECKING:
    from hive.config import Settings

_COLORS = (("+++", "1"), ("---", "1"), ("diff ", "1"), ("@@", "36"), ("+", "32"), ("-", "31"))
_MORE = "TASK is an id or a key. Into a pipe or file it is a patch that `git apply` takes."


@verb("diff", shown=JSON, more=_MORE)
@task_argument
@click.option("--stat", is_flag=True, help="Only files and how much of them changed.")
def diff_command(ctx: Context, *, name: str, stat: bool) -> int:
    """Print a task's diff."""
    from hive.workspace import Workspaces

    settings = ctx.settings()
    with ctx.queue(settings) as hive:
        task = the_task(ctx, hive, name)
    repo = Path(task.spec.repo) if task.spec.repo else settings.repo
    if task.branch is None or task.base_commit is None or repo is None:
        raise UsageError(
            f"task {task.id} has no branch", code="H144", why=f"it is {task.state}", fix=f"hive show {task.id}"
        )
    workspaces = Workspaces(settings.state_dir, ctx.clock, settings.environ, settings.branch_prefix)
    if ctx.for_people and not stat and not sys.stdout.isatty():
        patch = _patch(settings, repo, task.base_commit, task.branch)
        raw(patch)
        empty = not patch
    else:
        text = workspaces.diff_blocking(repo, task.base_commit, task.branch, stat=stat)
        _print(ctx, task, text)
        empty = not text
    if empty:
        say(ctx, f"{task.branch} changes nothing")
    return exits.COMPLETED


def _patch(settings: Settings, repo: Path, base_commit: str, branch: str) -> bytes:
    """Return the whole difference byte by byte, binary files included."""
    from hive.workspace.git import Git, Place

    options = ("--patch", "--binary", "-r", "-M", "--no-ext-diff", "--no-textconv", "--no-color", "--end-of-options")
    text = Place(Git(settings.environ), repo).run("diff-tree", *options, base_commit, branch, "--")
    return text.encode("utf-8", "surrogateescape")


def _print(ctx: Context, task: Task, text: str) -> None:
    if not ctx.for_people:
        facts: dict[str, Json] = {"task_id": task.id, "base_commit": task.base_commit, "branch": task.branch}
        data(envelope("hive.diff/1", ctx.clock.now_ms(), **facts, commit=task.commit, diff=text))
        return
    colored = ctx.colored(sys.stdout)
    for line in lines_of(text).splitlines():
        color = next((code for start, code in _COLORS if line.startswith(start)), None) if colored else None
        print(f"\x1b[{color}m{line}\x1b[0m" if color else line)
