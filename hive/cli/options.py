"""How a verb is made: its command, with the global options also accepted behind it, and the options verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hive.cli import verb_named
from hive.cli.context import Context

F = TypeVar("F", bound=Callable[..., Any])
JSON = ("json",)
JSONL = ("json", "jsonl")
CHANGES = ("json", "yes")


def global_options(*, shown: Sequence[str] | None = None) -> list[click.Option]:
    """Return the global options; only those named in `shown` appear in the help, or all."""
    options = [
        click.Option(["-C", "--directory"], metavar="DIR", help="Work as if started in DIR."),
        click.Option(
            ["--db"], metavar="URL", help="The queue: sqlite:///PATH or a path  [.hive/hive.db in the repository]"
        ),
        click.Option(["--profile"], metavar="NAME", help="Use the settings of [profile.NAME]."),
        click.Option(["--json"], is_flag=True, help="Print one JSON document."),
        click.Option(["--jsonl"], is_flag=True, help="Print one JSON document a line."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print nothing but the answer."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Show the traceback of an error."),
        click.Option(["--color"], type=click.Choice(["auto", "always", "never"]), help="When to use colours  [auto]"),
        click.Option(["--no-input"], is_flag=True, help="Never ask."),
        click.Option(["-y", "--yes"], is_flag=True, help="Answer every question with yes."),
    ]
    for option in options:
        option.hidden = shown is not None and option.name not in shown
    return options


class VerbCommand(click.Command):
    """A verb that also takes the global options; its help text is that of the table in `hive.cli`."""

    def __init__(self, *args: Any, shown: Sequence[str] = (), more: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._global = [str(option.name) for option in global_options()]
        self.params.extend(global_options(shown=shown))
        row = verb_named(self.name or "")
        assert row is not None, f"{self.name} is not in hive.cli.VERBS"
        self.help = f"{row.help}.\n\n{more}".strip()
        self.short_help = row.help

    def invoke(self, ctx: click.Context) -> Any:
        """Fold the global options that stand behind the verb into the context, then do the verb."""
        ctx.obj = ctx.obj.given({name: ctx.params.pop(name) for name in self._global})
        return super().invoke(ctx)


def verb(
    name: str, *, shown: Sequence[str] = JSON, more: str = ""
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make the command of a verb; the function gets the `Context` first and returns the exit code, None for 0.

    Args:
        shown: Global options that its help names.
        more: Paragraphs of the help below the first line.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        return click.command(name, cls=VerbCommand, shown=shown, more=more)(click.pass_obj(function))

    return decorate


def selectors(*, required: bool = False) -> Callable[[F], F]:
    """Add ``[SELECTOR]...`` and ``-F``; the function gets `names` and `filters`."""

    def decorate(function: F) -> F:
        function = click.option(
            "-F",
            "--filter",
            "filters",
            multiple=True,
            metavar="FILTER",
            help="Only tasks for which all of FILTER holds.",
        )(function)
        metavar = "SELECTOR..." if required else "[SELECTOR]..."
        return click.argument("names", nargs=-1, metavar=metavar, shell_complete=complete_selectors)(function)

    return decorate


def task_argument(function: F) -> F:
    """Add ``TASK``; the function gets `name`."""
    return click.argument("name", metavar="TASK", shell_complete=complete_selectors)(function)


def complete_selectors(click_context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return states and the newest tasks whose id begins so, with their titles."""
    from hive.cli.completion import selector_items

    parent = click_context.parent
    ctx: Context = click_context.obj
    return selector_items(ctx.given(parent.params if parent else {}), incomplete)
