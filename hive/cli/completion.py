"""`hive completion`: the script a shell needs, and the ids with titles that it then offers."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from hive import bus
from hive.cli import exits
from hive.cli.context import Context, database_path
from hive.cli.options import verb
from hive.errors import HiveError, UsageError
from hive.model import State
from hive.store import TaskQuery

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "fish": FishComplete, "zsh": ZshComplete}
_OFFERED = 30
_SEARCHED = 500
_MORE = """bash: eval "$(hive completion bash)" in ~/.bashrc. zsh: the same in ~/.zshrc. fish: hive completion fish >
~/.config/fish/completions/hive.fish. Ids are completed with the titles of their tasks."""


@verb("completion", shown=(), more=_MORE)
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
def completion_command(ctx: Context, *, shell: str) -> int:
    """Print a completion script."""
    if not ctx.for_people:
        raise UsageError("a completion script has no JSON form", code="H140", fix=f"hive completion {shell}")
    complete = _SHELLS[shell](click.Command("hive"), {}, "hive", "_HIVE_COMPLETE")
    # Not `source()`: for bash that starts a bash to look at its version.
    print(complete.source_template % complete.source_vars())
    return exits.COMPLETED


def selector_items(ctx: Context, incomplete: str) -> list[CompletionItem]:
    """Return what a selector that begins so may become: states, or the newest tasks with their titles."""
    if incomplete.startswith("@"):
        words = [f"@{state}" for state in State] + ["@all", "@held", "@unfinished"]
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]
    try:
        settings = ctx.settings()
        if not database_path(settings).exists():
            return []
        with ctx.queue(settings) as hive:
            tasks = hive.tasks(TaskQuery(limit=_SEARCHED, newest_first=True))
    except HiveError:  # a shell that completes has no place to show an error; the command itself will
        return []
    found = [task for task in tasks if str(task.id).startswith(incomplete)]
    return [
        CompletionItem(str(task.id), help=bus.printable(f"{task.spec.title} ({task.state})", 60))
        for task in found[:_OFFERED]
    ]
