"""Markdown as a task file: front matter holds defaults, each ``##`` heading is a task with its body as the prompt.

A file without such headings may be a checklist: every ``- [ ]`` is a task, every ``- [x]`` is done already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from hive.source import KeyPath, Place, Span
from hive.taskfile.document import Document, Entry, Locate, MalformedError, locator

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#*)?[ \t]*\r?")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_BOX = re.compile(r"([-*+]|\d{1,9}[.)])[ \t]+\[([ xX])\][ \t]+(.*)")
_TASK_LEVEL = 2


class _Line(NamedTuple):
    start: int
    text: str
    level: int  # of a heading, else 0
    title: str


def read_markdown(text: str) -> Document:
    """Parse front matter and tasks.

    Raises:
        MalformedError: The front matter is not a YAML table.
    """
    front = _FRONT.match(text)
    lines = _lines(text, front.end() if front else 0)
    locate = _locator(text, front)
    entries, notes = _sections(lines) if any(one.level == _TASK_LEVEL for one in lines) else _checklist(lines)
    values = _front_matter(front) if front else {}
    batch = values.pop("batch", None)
    return Document(entries, locate, batch=batch, defaults=Entry(values, ()), notes=notes)


def _front_matter(front: re.Match[str]) -> dict[str, object]:
    from hive.taskfile.yaml_values import load_yaml

    try:
        found = load_yaml(front[1])
    except MalformedError as error:
        span = error.fault.find()
        moved = Span(span.start + front.start(1), span.end + front.start(1))
        raise MalformedError(error.fault.message, moved, code=error.fault.code, note=error.fault.note) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise MalformedError("front matter must be a table of defaults", Span(*front.span(1)), code="H114")
    return found


def _locator(text: str, front: re.Match[str] | None) -> Locate:
    def places() -> dict[KeyPath, Place]:
        from hive.taskfile.yaml_values import yaml_places

        return yaml_places(front[1]) if front else {}

    inner = locator(places)

    def locate(path: KeyPath) -> Place:
        if path and isinstance(path[0], int):  # the offset of a task's first line
            end = text.find("\n", path[0])
            return Place(Span(path[0], len(text) if end < 0 else end))
        place, shift = inner(path), front.start(1) if front else 0
        key = Span(place.key.start + shift, place.key.end + shift) if place.key else None
        return Place(Span(place.value.start + shift, place.value.end + shift), key)

    return locate


def _lines(text: str, start: int) -> list[_Line]:
    """Return the lines from an offset, with the headings that are not inside of a code fence."""
    lines = []
    fence = ""
    for line in text[start:].split("\n"):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
            fence = ""
        heading = None if fence or mark else _HEADING.fullmatch(line)
        lines.append(_Line(start, line, len(heading[1]) if heading else 0, (heading[2] or "") if heading else ""))
        start += len(line) + 1
    return lines


def _sections(lines: Sequence[_Line]) -> tuple[list[Entry], tuple[str, ...]]:
    """Return a task for each ``##`` heading; a ``#`` heading ends the task before it."""
    entries: list[Entry] = []
    outside = 0
    body: list[str] | None = None
    head: _Line | None = None
    for line in (*lines, _Line(0, "", 1, "")):
        if 0 < line.level <= _TASK_LEVEL:
            if head is not None and body is not None:
                entries.append(_entry(head.start, head.title, "\n".join(body)))
            head, body = (line, []) if line.level == _TASK_LEVEL else (None, None)
        elif body is not None:
            body.append(line.text.removesuffix("\r"))
        else:
            outside += bool(line.text.strip())
    return entries, (f"{outside} lines outside of `##` sections belong to no task",) if outside else ()


def _checklist(lines: Sequence[_Line]) -> tuple[list[Entry], tuple[str, ...]]:
    """Return a task for each open box, with the indented lines below it."""
    entries: list[Entry] = []
    done = 0
    at = 0
    while at < len(lines):
        box = _BOX.fullmatch(lines[at].text.rstrip())
        first = at
        at += 1
        if box is None:
            continue
        while at < len(lines) and (lines[at].text[:1] in {" ", "\t"} or _continues(lines, at)):
            at += 1
        if box[2] == " ":
            below = "\n".join(line.text.removesuffix("\r") for line in lines[first + 1 : at])
            entries.append(_entry(lines[first].start, box[3], f"{box[3]}\n{below}"))
        else:
            done += 1
    return entries, (f"{done} ticked boxes were left out",) if done else ()


def _continues(lines: Sequence[_Line], at: int) -> bool:
    """Return whether an empty line stands inside of an item."""
    return not lines[at].text.strip() and at + 1 < len(lines) and lines[at + 1].text[:1] in {" ", "\t"}


def _entry(start: int, title: str, body: str) -> Entry:
    return Entry({"title": title, "prompt": body.strip("\n").rstrip() or title}, (start,))
