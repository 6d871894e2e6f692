"""Verbs that steer a running engine from outside: pause, resume, stop, set."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.engine_state import engine_pid
from hive.cli.options import JSON, verb
from hive.cli.output import data
from hive.errors import UsageError
from hive.export import envelope
from hive.store import Steer, Steering

_LATER = "no engine runs; this holds for the next one"


@verb("pause", shown=JSON, more="What runs goes on. `hive resume` undoes it.")
def pause_command(ctx: Context) -> int:
    """Pause."""
    return steer(ctx, Steer(paused=True))


@verb("resume", shown=JSON)
def resume_command(ctx: Context) -> int:
    """Resume."""
    return steer(ctx, Steer(paused=False))


@verb("stop", shown=JSON, more="Nothing is lost: `hive run` goes on where it stopped.")
@click.option("--now", is_flag=True, help="Stop the agents at once; their tasks are queued again.")
def stop_command(ctx: Context, *, now: bool) -> int:
    """Stop the engine."""
    settings = ctx.settings()
    with ctx.queue(settings):
        pass
    if engine_pid(settings) is None:
        # Not kept for later: a stop asked for yesterday must not end the engine somebody starts today.
        _print(ctx, "no engine runs", None, None)
        return exits.COMPLETED
    return steer(ctx, Steer(stop="now" if now else "drain"))


@verb("set", shown=JSON, more="`hive set agents=40` changes how many agents work at the same time.")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
def set_command(ctx: Context, *, values: Sequence[str]) -> int:
    """Change a running engine."""
    return steer(ctx, _steer_of(values))


def steer(ctx: Context, command: Steer) -> int:
    """Send a command to the engine through the queue, and print old -> new."""
    settings = ctx.settings()
    with ctx.queue(settings) as hive:
        before = hive.steering()
        hive.control(command)
        after = hive.steering()
    note = "" if engine_pid(settings) is not None else _LATER
    _print(ctx, note, before, after)
    return exits.COMPLETED


def _steer_of(values: Sequence[str]) -> Steer:
    agents: int | None = None
    for value in values:
        name, equals, wanted = value.partition("=")
        if name != "agents" or not equals:
            raise UsageError(f"`{name}` cannot be set on a running engine", code="H135", fix="hive set agents=40")
        if not wanted.isdecimal() or not 1 <= int(wanted) <= 10_000:
            what = f"agents must be a whole number from 1 to 10000, not `{wanted[:40]}`"
            raise UsageError(what, code="H135", fix="hive set agents=40")
        agents = int(wanted)
    return Steer(agents=agents)


def _print(ctx: Context, note: str, before: Steering | None, after: Steering | None) -> None:
    if not ctx.for_people:
        data(envelope("hive.steering/1", ctx.clock.now_ms(), before=_row(before), after=_row(after), note=note))
        return
    if before is not None and after is not None:
        old, new = _row(before) or {}, _row(after) or {}
        changed = [name for name in new if old[name] != new[name]]
        for name in changed:
            print(f"{name}: {_word(old[name])} -> {_word(new[name])}")
        if not changed:
            print("nothing to change: it is so already")
    if note:
        print(note)


def _row(steering: Steering | None) -> dict[str, bool | int | str | None] | None:
    return None if steering is None else {"paused": steering.paused, "agents": steering.agents, "stop": steering.stop}


def _word(value: object) -> str:
    if value is None:
        return "as started"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
