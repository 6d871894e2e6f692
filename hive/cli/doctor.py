"""`hive doctor`: prints what `hive.cli.checkup` finds; exit 5 when something is missing."""

from __future__ import annotations

from dataclasses import asdict

import click

from hive.cli import exits
from hive.cli.checkup import Check, Level, checkup, mend
from hive.cli.context import Context
from hive.cli.options import JSON, verb
from hive.cli.output import data, fit
from hive.export import envelope

_SIGNS = {Level.OK: "ok", Level.WARNING: " !", Level.MISSING: " x"}
_MORE = """Each line is ok, ! (works, but) or x (does not work), with what to do. Exits with 5 when there is an x. --fix
has git ignore Hive's directory and removes worktrees of completed tasks, never work that is nowhere else."""


@verb("doctor", shown=JSON, more=_MORE)
@click.option("--fix", is_flag=True, help="Mend what can be mended without asking.")
def doctor_command(ctx: Context, *, fix: bool) -> int:
    """Check this machine."""
    settings = ctx.settings()
    mended = mend(ctx, settings) if fix else []
    checks = checkup(ctx, settings)
    missing = any(check.level is Level.MISSING for check in checks)
    code = exits.NOT_READY if missing else exits.COMPLETED
    if not ctx.for_people:
        rows = [asdict(check) for check in checks]
        ending = {"code": code, "reason": "not_ready" if missing else "ready"}
        data(envelope("hive.doctor/1", ctx.clock.now_ms(), checks=rows, mended=list(mended), exit=ending))
        return code
    for line in mended:
        print(f"mended: {line}")
    width = ctx.width()
    for check in checks:
        _print(check, width)
    return code


def _print(check: Check, width: int | None) -> None:
    print(fit(f"{_SIGNS[check.level]} {check.name:<12} {check.found}", width))
    if check.fix:
        print(f"   {'':<12} fix: {check.fix}")
