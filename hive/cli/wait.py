"""`hive wait`: until nothing more happens to tasks without a person; its exit code is their verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.exits import verdict
from hive.cli.options import JSON, selectors, verb
from hive.cli.output import data, say, several
from hive.errors import UsageError
from hive.export import envelope, state_counts
from hive.model import FINAL, Json, State, TaskId
from hive.store import TaskQuery

if TYPE_CHECKING:
    from hive.api import SyncHive
    from hive.config import Settings

_LOOK_S = 0.25
_UNSETTLED = frozenset(State) - FINAL - {State.NEEDS_YOU}
_CHUNK = 1000
_MORE = """Exits with 0 when all are completed, 1 when some failed, 3 when some need you, 4 when some were cancelled,
124 after the timeout. Without SELECTOR waits for all tasks there are now. Nothing is started: that is `hive run`."""


@verb("wait", shown=JSON, more=_MORE)
@selectors()
@click.option("--timeout", metavar="DURATION", help="Give up after 90s, 10m, 2h  [never]")
def wait_command(ctx: Context, *, names: Sequence[str], filters: Sequence[str], timeout: str | None) -> int:
    """Wait for tasks."""
    from hive.cli.selector import parse, select

    timeout_s = _seconds(timeout)
    started_s = ctx.clock.monotonic_s()
    settings = ctx.settings()
    with ctx.queue(settings) as hive:
        ids = [task.id for task in select(hive, parse(names, filters, ctx.clock.now_ms()))]
        settled = _wait(ctx, hive, ids, settings, None if timeout_s is None else started_s + timeout_s)
        by_state = _by_state(hive, ids)
    code, reason = verdict(by_state) if settled else (exits.TIMED_OUT, "timed_out")
    waited_s = round(ctx.clock.monotonic_s() - started_s, 3)
    if ctx.for_people:
        counts = ", ".join(f"{count:,} {state}" for state, count in by_state.items() if count)
        print(f"{several(len(ids), 'task')}: {counts or 'none'}")
    else:
        ending: Json = {"code": code, "reason": reason}
        data(envelope("hive.wait/1", ctx.clock.now_ms(), counts=state_counts(by_state), waited_s=waited_s, exit=ending))
    return code


def _seconds(text: str | None) -> float | None:
    from hive.values import BadValueError, duration

    if text is None:
        return None
    try:
        return duration(0, 1e9).parse(float(text) if text.replace(".", "", 1).isdecimal() else text)
    except BadValueError as error:
        raise UsageError(f"--timeout {error.message}", code="H136", fix="write --timeout 10m") from None


def _wait(ctx: Context, hive: SyncHive, ids: Sequence[TaskId], settings: Settings, deadline_s: float | None) -> bool:
    """Return True once all are settled, False at the deadline; says once that nobody works on them, if so."""
    import threading

    from hive.cli.engine_state import engine_pid

    nap, said = threading.Event(), False
    while _unsettled(hive, ids):
        # Asked again after the engine: one that ended after the last task leaves nothing to wait for.
        if not said and engine_pid(settings) is None and _unsettled(hive, ids):
            say(ctx, "no engine runs; start one with: hive run")
            said = True
        left_s = _LOOK_S if deadline_s is None else min(_LOOK_S, deadline_s - ctx.clock.monotonic_s())
        if left_s <= 0:
            return False
        nap.wait(left_s)
    return True


def _unsettled(hive: SyncHive, ids: Sequence[TaskId]) -> bool:
    """Return whether something still happens to one of the tasks; cheap while it does, since one is enough."""
    return any(
        hive.tasks(TaskQuery(ids=tuple(ids[start : start + _CHUNK]), states=_UNSETTLED, limit=1))
        for start in range(0, len(ids), _CHUNK)
    )


def _by_state(hive: SyncHive, ids: Sequence[TaskId]) -> Counter[State]:
    chunks = (tuple(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK))
    return Counter(task.state for chunk in chunks for task in hive.tasks(TaskQuery(ids=chunk, limit=_CHUNK)))
