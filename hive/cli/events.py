"""`hive events`: what happened, in order; durable, so a reader goes on where it stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hive import bus
from hive.cli import exits
from hive.cli.context import Context
from hive.cli.options import JSONL, complete_selectors, verb
from hive.cli.output import data, fit, raw
from hive.export import envelope, event_row
from hive.model import Event

if TYPE_CHECKING:
    from hive.api import SyncHive

_PAGE = 1000
_MORE = "Each event has a sequence number that only grows: pass the last one you saw to --since and miss nothing."


@verb("events", shown=JSONL, more=_MORE)
@click.option("--since", type=click.IntRange(0), default=0, metavar="SEQ", help="Only events after this number  [0]")
@click.option("--task", "task_id", metavar="TASK", help="Only those of a task.", shell_complete=complete_selectors)
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones as they happen.")
def events_command(ctx: Context, *, since: int, task_id: str | None, follow: bool) -> int:
    """Print events."""
    with ctx.queue(ctx.settings()) as hive:
        only = _task_id(ctx, hive, task_id)
        if ctx.json and not ctx.jsonl and not follow:
            rows = [event_row(event) for page in _pages(hive, since, only) for event in page]
            data(envelope("hive.events/1", ctx.clock.now_ms(), data=rows))
            return exits.COMPLETED
        for page in _pages(hive, since, only):
            _print(ctx, page)
            since = page[-1].seq
        if follow:
            for event in hive.events(since):
                if only is None or event.task_id == only:
                    _print(ctx, [event])
    return exits.COMPLETED


def _task_id(ctx: Context, hive: SyncHive, name: str | None) -> int | None:
    from hive.cli.show import the_task

    return None if name is None else the_task(ctx, hive, name).id


def _pages(hive: SyncHive, after: int, task_id: int | None) -> Iterator[list[Event]]:
    while page := hive.past_events(after, _PAGE, task_id):
        yield page
        after = page[-1].seq


def _print(ctx: Context, events: list[Event]) -> None:
    """Print a page at once: a page of 1,000 lines is one write, a new event is seen without delay."""
    if ctx.for_people:
        width = ctx.width()
        print("\n".join(fit(bus.line(event), width) for event in events))
        sys.stdout.flush()
        return
    import orjson

    raw(b"".join(orjson.dumps(event_row(event)) + b"\n" for event in events))
