"""JSON lines as a task file: one object a line, each a task, which may name a batch of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from hive.source import KeyPath, Place, Span, quoted
from hive.taskfile.document import Document, Entry, Fault, Places

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
    message = f"a line must be an object such as {{\"prompt\": \"...\"}}, not {quoted(line.strip(), 30)}"
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
    places, _ = _places(text, start)
    inner = path[1:]
    while inner and inner not in places:
        inner = inner[:-1]
    return places[inner]


def _repeated(text: str, start: int, key: str) -> Span:
    _, repeated = _places(text, start)
    return repeated.get(key, Span(start, start + 1))


def _places(text: str, start: int) -> tuple[Places, dict[str, Span]]:
    """Return where the values of a line stand, and the second places of keys that stand twice."""
    places: Places = {}
    repeated: dict[str, Span] = {}
    with suppress(ValueError, IndexError, RecursionError):  # a line with a repeated key may be wrong further on
        _walk(text, _after_blank(text, start), (), None, places, repeated)
    places.setdefault((), Place(Span(start, start + 1)))
    return places, repeated


def _walk(
    text: str, at: int, path: KeyPath, key: Span | None, places: Places, repeated: dict[str, Span]
) -> int:
    """Note the value at an offset and all inside of it; return where it ends."""
    start = at
    if text[at] in "{[" and len(path) < 10:
        close = "}" if text[at] == "{" else "]"
        at = _after_blank(text, at + 1)
        index = 0
        while text[at] != close:
            here, span = (*path, index), None
            if close == "}":
                name, at_colon = _DECODER.raw_decode(text, at)
                span = Span(at, at_colon)
                here = (*path, str(name))
                at = _after_blank(text, _after_blank(text, at_colon) + 1)
                if here in places:
                    repeated.setdefault(str(name), span)
            at = _after_blank(text, _walk(text, at, here, span, places, repeated))
            at = _after_blank(text, at + 1) if text[at] == "," else at
            index += 1
        at += 1
    else:
        _, at = _DECODER.raw_decode(text, at)
    places[path] = Place(Span(start, at), key)
    return at


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at
