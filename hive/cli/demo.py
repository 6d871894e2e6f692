"""`hive demo`: the true engine on a scratch repository, with scripted agents."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from hive.cli import output
from hive.cli.context import Context
from hive.cli.options import verb
from hive.errors import UsageError


@verb("demo", more="Makes a git repository in a new directory and works real tasks on it. Costs nothing.")
@click.option("--tasks", "count", default=20, show_default=True, type=click.IntRange(min=3), help="How many.")
@click.option("--agents", default=8, show_default=True, type=click.IntRange(min=1), help="Most at once.")
@click.option("--cores", default=2, show_default=True, type=click.IntRange(min=1), help="Shards.")
@click.option("--dir", "wanted", type=click.Path(path_type=Path), help="A new directory  [a temporary one]")
def demo_command(ctx: Context, count: int, agents: int, cores: int, wanted: Path | None) -> int:
    """See the table of verbs."""
    from hive import demo
    from hive.cli.run import finish, work

    place = _scratch(ctx, wanted)
    tasks = demo.prepare(place, ctx.environ, count)
    # Nothing around the scratch repository counts: neither a queue named on the command line nor a user's settings.
    environ = {name: value for name, value in ctx.environ.items() if not name.startswith("HIVE_")}
    environ["XDG_CONFIG_HOME"] = str(place / ".hive")
    here = replace(ctx, directory=place, db=None, profile=None, environ=environ)
    settings = here.settings(agents=agents, cores=cores, backoff_base_s=1.0)
    output.say(ctx, f"{count} tasks, up to {agents} scripted agents, {cores} shards, in {place}")
    report = work(here, settings, tasks, progress="none" if ctx.json else "plain")
    code = finish(here, report)
    if not ctx.json:
        program = _program()
        print(f"look: {program} -C {place} ls")
        print(f"      {program} -C {place} show 4        (sent back by its red test, then mended)")
        print(f"      git -C {place} log --oneline --graph --branches")
    return code


def _scratch(ctx: Context, wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="hive-demo-")).resolve()
    place = (ctx.directory / wanted).resolve()
    if place.exists():
        raise UsageError(f"{place} exists already", code="H141", fix="name a directory that does not exist")
    place.mkdir(parents=True)
    return place


def _program() -> str:
    """Return what to type for this program: its name if the shell finds it, else its path."""
    if shutil.which("hive") == sys.argv[0]:
        return "hive"
    return f"{sys.executable} -m hive" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
