"""Writing: data to stdout, talk to stderr, tables that fit, and hostile text made harmless."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hive import bus
from hive.cli.context import Context
from hive.model import Json, State

_COLORS: Mapping[str, str] = {
    State.COMPLETED: "32",
    State.FAILED: "31",
    State.NEEDS_YOU: "33",
    State.IN_PROGRESS: "36",
    State.CANCELLED: "2",
    State.BLOCKED: "2",
}


class Column(NamedTuple):
    """A column of a table: the `flexible` one gives way when the terminal is narrow."""

    name: str
    right: bool = False
    flexible: bool = False


def data(document: Mapping[str, Json]) -> None:
    """Print one JSON document on a line of its own.

    Goes around the text layer, whose encoding the locale may have made something other than UTF-8.
    """
    import orjson

    raw(orjson.dumps(document) + b"\n")


def raw(content: bytes) -> None:
    """Write bytes to stdout as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def discard_stdout() -> None:
    """Have stdout go nowhere: its reader is gone, and the interpreter would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(ctx: Context, text: str) -> None:
    """Tell a person something that is not the answer; nothing with --quiet."""
    if not ctx.quiet:
        print(text, file=sys.stderr)


def table(ctx: Context, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its heading first; no line is wider than the terminal."""
    cells = [[one.name for one in columns], *([bus.printable(cell, 500) for cell in row] for row in rows)]
    widths = [max(cells_of(row[index]) for row in cells) for index in range(len(columns))]
    limit = ctx.width()
    flexible = next((index for index, one in enumerate(columns) if one.flexible), None)
    if limit is not None and flexible is not None:
        spare = limit - sum(widths) - 2 * (len(columns) - 1)
        widths[flexible] = max(8, widths[flexible] + min(0, spare))
    lines = [
        "  ".join(pad(cell, width, right=one.right) for cell, width, one in zip(row, widths, columns, strict=True))
        for row in cells
    ]
    return [fit(line.rstrip(), limit) for line in lines]


def fit(text: str, width: int | None) -> str:
    """Return a line cut to a number of terminal cells."""
    if width is None or cells_of(text) <= width:
        return text
    if text.isascii():
        return text[: width - 1] + "…"
    taken, used = 0, 0
    for char in text:
        used += cells_of(char)
        if used > width - 1:
            break
        taken += 1
    return text[:taken] + "…"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return text that takes exactly `width` cells."""
    text = fit(text, width)
    blanks = " " * (width - cells_of(text))
    return blanks + text if right else text + blanks


def cells_of(text: str) -> int:
    """Return how many terminal cells a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def painted(ctx: Context, line: str, state: str) -> str:
    """Return a line with the word of a state coloured, when colours are wanted."""
    color = _COLORS.get(state)
    if color is None or not ctx.colored(sys.stdout):
        return line
    return line.replace(state, f"\x1b[{color}m{state}\x1b[0m", 1)


def span(seconds: float) -> str:
    """Return a duration in at most six characters: ``0.4s``, ``41s``, ``3m12s``, ``2h05m``, ``3d04h``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def dollars(usd: float) -> str:
    """Return an amount as people read it, or nothing when nothing was spent."""
    return f"${usd:,.2f}" if usd else ""


def several(count: int, noun: str) -> str:
    """Return ``1 task`` or ``2 tasks``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def lines_of(text: str) -> str:
    """Return hostile text of several lines with everything removed that could move a terminal's cursor."""
    return "".join(char if char in "\n\t" or char.isprintable() else "" for char in _without_escapes(text))


def _without_escapes(text: str) -> str:
    if "\x1b" not in text and "\x9b" not in text:
        return text
    import re

    return re.sub(
        r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: titles, links, clipboard
        r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # device control and its kin
        r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # colours and cursor movements
        r"|\x1b[ -/]*[0-~]?",
        "",
        text,
    )
