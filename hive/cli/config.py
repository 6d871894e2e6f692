"""`hive config`: settings with their origins, the JSON Schema of task files, and where files are looked for."""

from __future__ import annotations

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.options import JSON, verb
from hive.cli.output import Column, data, table
from hive.export import envelope
from hive.model import Json

_MORE = """show: every setting and its value. schema: the JSON Schema of task files, for editors. path: the files that
settings come from, weakest first."""


@verb("config", shown=JSON, more=_MORE)
@click.argument("what", type=click.Choice(["show", "schema", "path"]), default="show")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
def config_command(ctx: Context, *, what: str, origin: bool) -> int:
    """Show settings."""
    if what == "schema":
        from hive.taskfile import schema

        data(schema())
    elif what == "path":
        _print_paths(ctx)
    else:
        _print_settings(ctx, origin=origin)
    return exits.COMPLETED


def _print_settings(ctx: Context, *, origin: bool) -> None:
    from hive.config_schema import SETTINGS

    settings = ctx.settings()
    rows = [(one.key, getattr(settings, one.field), settings.origin(one.field)) for one in SETTINGS]
    if not ctx.for_people:
        found = {key: {"value": _plain(value), "origin": where} for key, value, where in rows}
        data(envelope("hive.config/1", ctx.clock.now_ms(), data=found))
        return
    columns = [Column("SETTING"), Column("VALUE", flexible=True), *([Column("ORIGIN")] if origin else [])]
    cells = [[key, _shown(value), *([where] if origin else [])] for key, value, where in rows]
    for line in table(ctx, columns, cells):
        print(line)


def _print_paths(ctx: Context) -> None:
    from hive.config import config_paths

    paths = config_paths(ctx.directory, ctx.environ)
    if not ctx.for_people:
        rows: Json = [{"path": str(path), "exists": path.is_file()} for path in paths]
        data(envelope("hive.paths/1", ctx.clock.now_ms(), data=rows))
        return
    for path in paths:
        print(f"{path}{'' if path.is_file() else '  (not there)'}")


def _plain(value: object) -> Json:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def _shown(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return "none"
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float):
        return f"{plain:g}"
    if isinstance(plain, list):
        return ", ".join(map(str, plain)) or "none"
    if isinstance(plain, dict):
        return ", ".join(f"{key}={item}" for key, item in plain.items()) or "none"
    return str(plain)
