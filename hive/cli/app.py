"""The click application: global options, verbs loaded when typed, and errors turned into lines and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from hive.cli import GROUPS, VERBS, exits, verb_named
from hive.cli.context import Context
from hive.cli.options import global_options
from hive.cli.output import discard_stdout
from hive.errors import HiveError, NotReady, UsageError

_SIGPIPE_EXIT = 141  # what a shell shows for a program that SIGPIPE ended
_ABORTED_EXIT = 130
_COMPLETE = "_HIVE_COMPLETE"


class Application(click.Group):
    """The group of all verbs; knows their names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order of the help."""
        return [row.name for row in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the module of a verb."""
        row = verb_named(cmd_name)
        if row is None:
            return None
        command = getattr(importlib.import_module(row.module), f"{row.name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that was typed."""
        if verb_named(args[0]) is None and not ctx.resilient_parsing:
            raise unknown_verb(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the verbs by group."""
        for group in GROUPS:
            with formatter.section(group):
                formatter.write_dl([(row.name, row.help) for row in VERBS if row.group == group])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return verbs and global options that begin so."""
        verbs = [CompletionItem(row.name, help=row.help) for row in VERBS if row.name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


def application() -> Application:
    """Build the application."""

    @click.pass_context
    def start(click_context: click.Context, /, **options: object) -> int | None:
        click_context.obj = click_context.obj.given(options)
        if click_context.invoked_subcommand is None:
            click.echo(click_context.get_help())
        return None

    return Application(
        "hive",
        callback=start,
        params=[*global_options(), _version_option()],
        invoke_without_command=True,
        help="A durable queue of coding tasks, worked by many headless coding agents at once.",
        subcommand_metavar="VERB [ARGS]...",
        epilog="`hive VERB --help` explains a verb, `hive help` lists topics. stdout is data, stderr is talk.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what a command line says and return its exit code; prints errors, raises none."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not turn a list into a traceback.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are text files here
    try:
        return _run(arguments, environ)
    except BrokenPipeError:
        discard_stdout()  # the reader has what it wanted
        return _SIGPIPE_EXIT


def open_standard_streams() -> None:
    """Give standard streams that were closed something to stand for them, or the next file opened would."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    verbose = any(one in {"-v", "--verbose"} for one in arguments)
    try:
        code = _dispatch(application(), arguments, Context(environ))
        sys.stdout.flush()
    except HiveError as error:
        return _report(error, verbose=verbose)
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)
        return _ABORTED_EXIT
    except click.ClickException as error:
        return _report(usage_error(error), verbose=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _report(_unusable(error), verbose=verbose, cause=error)
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever reaches it is a bug
        return _report(_bug(error), verbose=verbose, cause=error)
    return code


def _dispatch(group: Application, arguments: Sequence[str], ctx: Context) -> int:
    """Parse and do; not `group.main`, which makes exit codes of its own for a closed pipe and for Ctrl-C."""
    instruction = ctx.environ.get(_COMPLETE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(group, {"obj": ctx}, "hive", _COMPLETE, instruction)
    try:
        with group.make_context("hive", list(arguments), obj=ctx) as click_context:
            code = group.invoke(click_context)
            return code if isinstance(code, int) else exits.COMPLETED
    except click.exceptions.Exit as ended:
        return ended.exit_code


def unknown_verb(name: str) -> UsageError:
    """Return the error for a verb that does not exist."""
    from hive.source import did_you_mean, quoted

    meant = did_you_mean(name, [row.name for row in VERBS])
    return UsageError(f"there is no verb {quoted(name)}", code="H140", fix=meant or "hive --help lists them")


def usage_error(error: click.ClickException) -> UsageError:
    """Return click's complaint in our form: lower case, no full stop, with what was probably meant."""
    from hive.source import did_you_mean, printable

    context = getattr(error, "ctx", None)
    fix = ""
    if isinstance(error, click.NoSuchOption):
        message = f"there is no option `{printable(error.option_name)}`"
        fix = did_you_mean(error.option_name, _options_of(context))
    else:
        message = printable(" ".join(error.format_message().split())).rstrip(".")
        message = message[:1].lower() + message[1:]
    where = context.command_path if context is not None else "hive"
    return UsageError(message, code="H140", where=where, fix=fix or f"{where} --help")


def _options_of(context: click.Context | None) -> list[str]:
    params = context.command.params if context is not None else []
    return [flag for param in params if isinstance(param, click.Option) for flag in param.opts if flag.startswith("--")]


def _unusable(error: OSError) -> HiveError:
    """Return the error for a file that the system refused, wherever that was."""
    if error.filename is None:
        return _bug(error)
    what = f"cannot use a file: {(error.strerror or 'unknown reason').lower()}"
    return NotReady(what, code="H231", where=os.fsdecode(error.filename), fix="hive doctor")


def _bug(error: Exception) -> HiveError:
    return HiveError(
        f"a bug in Hive: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
        code="H900",
        fix="run the same command with -v and report what it prints; the queue is as it was",
    )


def _report(error: HiveError, *, verbose: bool, cause: Exception | None = None) -> int:
    if verbose:
        import traceback

        traceback.print_exception(cause or error)
    for line in error.lines():
        print(line, file=sys.stderr)
    return error.exit_code


def _version_option() -> click.Option:
    def show(click_context: click.Context, _: click.Parameter, wanted: Any) -> None:
        if wanted and not click_context.resilient_parsing:
            from hive import __version__

            click.echo(f"hive {__version__}")
            click_context.exit()

    return click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=show, help="Print the version."
    )
