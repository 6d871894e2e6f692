"""`hive add`: queue prompts or the tasks of files; everything is judged before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hive.cli import exits
from hive.cli.context import Context, database_path
from hive.cli.options import JSON, complete_selectors, verb
from hive.cli.output import Column, data, say, several, table
from hive.errors import UsageError
from hive.export import envelope
from hive.model import NewTask, Phase, WorkspaceKind
from hive.store import Added

if TYPE_CHECKING:
    from hive.config import Settings

_NAMED = 12
_MORE = """What is neither `-` (standard input) nor a file, nor ends like one, is a prompt. A prompt is a new task each
time; the tasks of a file are known by their keys, so adding it again adds nothing twice. The other options apply to
all tasks of this command and are stronger than the files.

With --agent command a PROMPT is a command line, with --agent scripted a script."""


@verb("add", shown=JSON, more=_MORE)
@click.argument("words", nargs=-1, required=True, metavar="PROMPT|FILE|-...", type=click.Path())
@click.option("--each", is_flag=True, help="Every line of the files is a task.")
@click.option("--batch", metavar="NAME", help="Batch  [the file's, its name, or default]")
@click.option("--key", metavar="KEY", help="Key of the one task: adding it again adds nothing.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag; may be given several times.")
@click.option("--role", metavar="ROLE", help="Role, for limits per role  [coder]")
@click.option("--priority", metavar="N", help="Higher is started first  [0]")
@click.option(
    "--after", multiple=True, metavar="KEY|ID", help="Task of the batch to wait for.", shell_complete=complete_selectors
)
@click.option("--base", metavar="REF", help="Commit or branch to start from.")
@click.option("--model", metavar="MODEL", help="Model.")
@click.option("--phases", metavar="LIST", help="What it goes through: apply or apply,test")
@click.option("--test", metavar="COMMAND", help="Command that must exit with 0; run without a shell.")
@click.option("--task-budget", "budget", metavar="USD", help="Most dollars a run may cost.")
@click.option("--agent", type=click.Choice(["claude", "command", "scripted"]), help="Who does the work  [claude]")
@click.option("--workspace", type=click.Choice([kind.value for kind in WorkspaceKind]), help="Where  [repo]")
@click.option("--hold", is_flag=True, help="Do not start before it is released.")
@click.option("--print-ids", is_flag=True, help="Print only the ids, one a line.")
@click.option("--dry-run", is_flag=True, help="Judge everything, queue nothing.")
def add_command(
    ctx: Context,
    *,
    words: Sequence[str],
    each: bool,
    batch: str | None,
    key: str | None,
    tags: Sequence[str],
    after: Sequence[str],
    hold: bool,
    print_ids: bool,
    dry_run: bool,
    **options: str | None,
) -> int:
    """Queue tasks."""
    settings = ctx.settings()
    changes = _parsed({**options, "tags": tags or None, "key": key, "batch": batch})
    changes |= {"hold": True} if hold else {}
    tasks = [_changed(task, changes) for task in _read(ctx, settings, words, changes, each=each)]
    if key is not None and len(tasks) != 1:
        raise UsageError(
            f"--key names one task, not {len(tasks)}", code="H142", fix="leave --key out, or use a task file"
        )
    if after:
        tasks = [_needing(task, _keys(ctx, settings, after, task.batch)) for task in tasks]
    _check(ctx, tasks, settings)
    if dry_run:
        _print_dry_run(ctx, tasks)
        return exits.COMPLETED
    added = _queue(ctx, settings, tasks)
    _print(ctx, tasks, added, print_ids=print_ids)
    return exits.COMPLETED


def _parsed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were typed as fields of `NewTask`, judged as the keys of a task file are."""
    from hive.taskfile import KEYS
    from hive.values import BadValueError

    names = {"budget": "task_budget"}
    parsed: dict[str, Any] = {}
    for name, raw in options.items():
        if raw is None:
            continue
        known = KEYS[names.get(name, name)]
        try:
            value = known.kind.parse(list(raw) if isinstance(raw, tuple) else known.kind.from_text(raw))
        except BadValueError as error:
            flag = {"tags": "--tag", "budget": "--task-budget"}.get(name, f"--{name}")
            raise UsageError(
                f"{flag} {error.message}", code="H142", where=flag, fix=error.note or "hive add --help"
            ) from None
        parsed[known.field] = value
    return parsed


def _read(
    ctx: Context, settings: Settings, words: Sequence[str], changes: dict[str, Any], *, each: bool
) -> list[NewTask]:
    """Return the tasks that files and prompts ask for, in the order they were typed."""
    from hive.cli import tasks as reading

    if "test" in changes:  # decides whether tasks that name no phases are tested
        settings = replace(settings, test=changes["test"])
    keys = reading.StoredKeys(ctx, settings)
    around = reading.surroundings(settings, keys, batch=changes.get("batch"), phases=changes.get("phases"))
    found: list[NewTask] = []
    for word in words:
        if reading.is_file(ctx, word):
            found += reading.read_file(ctx, Path(word), around, keys, each=each)
        else:
            found.append(reading.read_prompt(word, around))
    return found


def _changed(task: NewTask, changes: dict[str, Any]) -> NewTask:
    """Apply the options to a task."""
    task = replace(task, **changes)
    if not (task.command or task.script) and task.agent in {"command", "scripted"}:
        task = _from_prompt(task)
    in_repo = task.workspace is WorkspaceKind.REPO
    if not in_repo and "phases" not in changes and not task.test:
        # A test command of the settings is for the repository, which this task does not work in.
        task = replace(task, phases=tuple(phase for phase in task.phases if phase is not Phase.TEST) or (Phase.APPLY,))
    return task


def _from_prompt(task: NewTask) -> NewTask:
    from hive.values import BadValueError, argv

    if task.agent == "scripted":
        return replace(task, script=task.prompt, prompt="")
    try:
        return replace(task, command=argv(from_string=True).parse(task.prompt), prompt="")
    except BadValueError as error:
        raise UsageError(f"the command {error.message}", code="H142", fix=error.note or "hive add --help") from None


def _needing(task: NewTask, keys: Sequence[str]) -> NewTask:
    return replace(task, after=tuple(dict.fromkeys([*task.after, *keys])))


def _keys(ctx: Context, settings: Settings, names: Sequence[str], batch: str) -> list[str]:
    """Return the keys that ``--after`` means: ids stand for the key of their task."""
    keys = []
    for name in names:
        if not name.isdecimal():
            keys.append(name)
            continue
        with ctx.queue(settings) as hive:
            need = hive.task(int(name))
        if need is None or need.spec.key is None or need.spec.batch != batch:
            raise UsageError(
                f"a task of batch `{batch}` cannot wait for task {name}",
                code="H142",
                where="--after",
                why="there is none" if need is None else f"its key is {need.spec.key}, its batch `{need.spec.batch}`",
                fix="needs are keys of the same batch: give both tasks --batch and a --key",
            )
        keys.append(need.spec.key)
    return keys


def _check(ctx: Context, tasks: Sequence[NewTask], settings: Settings) -> None:
    from hive import preflight

    for note in preflight.check(tasks, settings):
        say(ctx, f"note: {note}")


def _queue(ctx: Context, settings: Settings, tasks: Sequence[NewTask]) -> list[Added]:
    fresh = not database_path(settings).exists()
    with ctx.queue(settings, create=True) as hive:
        added = hive.add(tasks)
    if fresh and settings.repo is not None:
        from hive.workspace import Workspaces

        workspaces = Workspaces(settings.state_dir, ctx.clock, settings.environ, settings.branch_prefix)
        workspaces.exclude_state_dir_blocking(settings.repo)
    return added


def _print_dry_run(ctx: Context, tasks: Sequence[NewTask]) -> None:
    if not ctx.for_people:
        rows = [{"key": task.key, "batch": task.batch, "title": task.title} for task in tasks]
        data(envelope("hive.added/1", ctx.clock.now_ms(), dry_run=True, data=rows))
        return
    print(f"would add {several(len(tasks), 'task')}")
    columns = (Column("BATCH"), Column("KEY"), Column("PHASES"), Column("TITLE", flexible=True))
    cells = [[task.batch, task.key or "", ",".join(task.phases), task.title] for task in tasks[:_NAMED]]
    for line in table(ctx, columns, cells):
        print(line)
    if len(tasks) > _NAMED:
        print(f"and {len(tasks) - _NAMED:,} more")


def _print(ctx: Context, tasks: Sequence[NewTask], added: Sequence[Added], *, print_ids: bool) -> None:
    if print_ids:
        print("\n".join(str(one.id) for one in added))
        return
    if not ctx.for_people:
        rows = [
            {"id": one.id, "created": one.created, "key": task.key, "batch": task.batch, "title": task.title}
            for one, task in zip(added, tasks, strict=True)
        ]
        data(envelope("hive.added/1", ctx.clock.now_ms(), dry_run=False, data=rows))
        return
    created = [one.id for one in added if one.created]
    there = [one.id for one in added if not one.created]
    if created:
        print(f"added {several(len(created), 'task')} ({_ids(created)})")
    if there:
        print(f"{several(len(there), 'task')} {'was' if len(there) == 1 else 'were'} there already ({_ids(there)})")
    say(ctx, "next: hive run" if created else "next: hive status")


def _ids(ids: Sequence[int]) -> str:
    if len(ids) > 2 and ids[-1] - ids[0] == len(ids) - 1:
        return f"{ids[0]}..{ids[-1]}"
    return ", ".join(map(str, ids[:_NAMED])) + (", …" if len(ids) > _NAMED else "")
