"""JSON lines as a task file: one object a line, each a task, which may name a batch of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from hive.source import KeyPath, Place, Span, quoted
from hive.taskfile.document import Document, Entry, Fault, Places

_DEEPEST = 10
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


def read_jsonl(text: str) -> Document:
    """Parse every line; one that is no object becomes a fault and the others are still read."""
    entries: list[Entry] = []
    faults: list[Fault] = []
    for start, line in _lines(text):
        found = _object(line, start, text)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            entries.append(Entry(found, (start,)))
    return Document(entries, partial(_locate, text), own_batches=True, faults=tuple(faults))


class _RepeatedKeyError(ValueError):
    """A key stands twice in one object."""


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        if line.strip():
            yield start, line
        start += len(line) + 1


def _object(line: str, start: int, text: str) -> dict[str, object] | Fault:
    try:
        value = json.loads(line, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        span = Span(start + error.pos, start + error.pos + 1)
        return Fault("H110", f"is no valid JSON: {error.msg[:1].lower()}{error.msg[1:]}", lambda: span)
    except _RepeatedKeyError as error:
        key = str(error)
        find = partial(_repeated, text, start, key)
        return Fault("H115", f"the key {quoted(key)} stands here twice", find)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(":")[0].lower()
        return Fault("H110", f"is no valid JSON: {reason}", lambda: Span(start, start + len(line)))
    if isinstance(value, dict):
        return value
    message = f'a line must be an object such as {{"prompt": "..."}}, not {quoted(line.strip(), 30)}'
    return Fault("H114", message, lambda: Span(start, start + len(line)))


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for index, key in enumerate(keys) if key in keys[:index]))
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _locate(text: str, path: KeyPath) -> Place:
    start = int(path[0]) if path and isinstance(path[0], int) else 0
    places = _Walk(text, start).places
    inner = path[1:]
    while inner and inner not in places:
        inner = inner[:-1]
    return places[inner]


def _repeated(text: str, start: int, key: str) -> Span:
    return _Walk(text, start).repeated.get(key, Span(start, start + 1))


class _Walk:
    """Finds where the values of one line stand, and the second places of keys that stand twice."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self.places: Places = {}
        self.repeated: dict[str, Span] = {}
        with suppress(ValueError, IndexError, RecursionError):  # behind a repeated key the line may be wrong in form
            self._value(self._after_blank(start), (), None)
        self.places.setdefault((), Place(Span(start, start + 1)))

    def _value(self, at: int, path: KeyPath, key: Span | None) -> int:
        """Note the value at an offset and all inside of it; return where it ends."""
        start = at
        if self._text[at] in "{[" and len(path) < _DEEPEST:
            at = self._members(at, path)
        else:
            _, at = _DECODER.raw_decode(self._text, at)
        self.places[path] = Place(Span(start, at), key)
        return at

    def _members(self, at: int, path: KeyPath) -> int:
        close = "}" if self._text[at] == "{" else "]"
        at = self._after_blank(at + 1)
        index = 0
        while self._text[at] != close:
            at = self._pair(at, path) if close == "}" else self._value(at, (*path, index), None)
            at = self._after_blank(at)
            if self._text[at] == ",":
                at = self._after_blank(at + 1)
            index += 1
        return at + 1

    def _pair(self, at: int, path: KeyPath) -> int:
        name, end = _DECODER.raw_decode(self._text, at)
        here, span = (*path, str(name)), Span(at, end)
        if here in self.places:
            self.repeated.setdefault(str(name), span)
        colon = self._after_blank(end)
        return self._value(self._after_blank(colon + 1), here, span)

    def _after_blank(self, at: int) -> int:
        match = _BLANK.match(self._text, at)
        return match.end() if match else at
