"""Places in a text somebody wrote: line and column, an excerpt with a caret, the word that was probably meant.

Pure text; knows nothing of files, formats or settings. `toml_places` finds where TOML values stand.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

EXCERPT_WIDTH = 100  # columns of source shown; a JSON line may be megabytes long
_NEAREST_LIMIT = 2_000  # difflib takes some 10 us a candidate


class Span(NamedTuple):
    """Characters `start` up to `end` of a text."""

    start: int
    end: int


class Place(NamedTuple):
    """Where a value stands, and its key; items of lists have none."""

    value: Span
    key: Span | None = None


class Source:
    """A text with a name, able to say where an offset is.

    Args:
        name: What people call the file.
        text: Its characters, without byte order mark.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._starts: list[int] = []

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, both from 1; columns count characters."""
        if not self._starts:
            self._starts = _line_starts(self.text)
        line = bisect_right(self._starts, max(0, min(offset, len(self.text))))
        return line, offset - self._starts[line - 1] + 1

    def where(self, offset: int) -> str:
        """Return ``name:line:column``."""
        line, column = self.position(offset)
        return f"{self.name}:{line}:{column}"

    def excerpt(self, span: Span, note: str = "") -> str:
        """Return the line of `span` with carets below it and `note` behind them; safe for a terminal."""
        line, column = self.position(span.start)
        end = self.text.find("\n", span.start)
        content = self.text[self._starts[line - 1] : len(self.text) if end < 0 else end].removesuffix("\r")
        begin = max(0, column - 1 - EXCERPT_WIDTH // 2) if len(content) > EXCERPT_WIDTH else 0
        shown = ("…" if begin else "") + content[begin : begin + EXCERPT_WIDTH]
        before = ("…" if begin else "") + content[begin : column - 1]
        length = max(1, min(span.end - span.start, len(shown) - len(before)))
        marked = content[column - 1 : column - 1 + length]
        number = f"{line} | "
        carets = "^" * max(1, _columns(marked))
        pad = " " * (len(number) - 2) + "| " + " " * _columns(before)
        return f"{number}{printable(shown)}\n{pad}{carets}{' ' + note if note else ''}"


def printable(text: str) -> str:
    """Return the text with everything replaced that could move a terminal's cursor."""
    if text.isascii() and text.isprintable():
        return text
    shown = text.replace("\t", " ")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)


def quoted(value: object, limit: int = 60) -> str:
    """Return a value in backticks as a message shows it: one line, at most `limit` characters."""
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)[: limit * 4]
    text = printable(" ".join(text.split()))
    return f"`{text if len(text) <= limit else text[: limit - 1] + '…'}`"


def nearest(word: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the option that was probably meant, or None."""
    import difflib  # only on the way to an error message
    import heapq

    if len(word) > 200:
        return None
    close = [option for option in options if abs(len(option) - len(word)) <= 3 + len(word) // 2]
    if len(close) > _NEAREST_LIMIT:
        letters = set(word)
        close = heapq.nsmallest(
            _NEAREST_LIMIT,
            close,
            key=lambda option: len(letters.symmetric_difference(option)) + abs(len(option) - len(word)),
        )
    matches = difflib.get_close_matches(word, close, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``did you mean `x`?``, or nothing."""
    found = nearest(word, options)
    return f"did you mean `{printable(found)}`?" if found else ""


def _line_starts(text: str) -> list[int]:
    starts = [0]
    at = text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def _columns(text: str) -> int:
    """Return how many terminal cells a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)
