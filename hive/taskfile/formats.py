"""The formats of task files: YAML, TOML, JSON lines, Markdown and plain lines, each to a `Document`.

Judges form only; what keys mean is `keys`' and `build`'s.
"""

from __future__ import annotations

import re
from enum import StrEnum

from hive.source import KeyPath, Place, Span
from hive.taskfile.document import (
    Document,
    Entry,
    Locate,
    MalformedError,
    document_of,
    entries_of,
    locator,
)
from hive.toml_places import toml_error_span, toml_places


class Format(StrEnum):
    """How a task file is written."""

    YAML = "yaml"
    TOML = "toml"
    JSONL = "jsonl"
    MARKDOWN = "markdown"
    LINES = "lines"  # a task on every line
    PROMPT = "prompt"  # the whole text is the prompt of one task


def format_of(suffix: str, text: str) -> Format:
    """Return the format by the file's suffix, or by how its text begins; a plain text is one prompt."""
    by_suffix = {
        ".yaml": Format.YAML,
        ".yml": Format.YAML,
        ".toml": Format.TOML,
        ".jsonl": Format.JSONL,
        ".ndjson": Format.JSONL,
        ".md": Format.MARKDOWN,
        ".markdown": Format.MARKDOWN,
    }
    if suffix.lower() in by_suffix:
        return by_suffix[suffix.lower()]
    if suffix:
        return Format.PROMPT
    if text.lstrip().startswith("{"):
        return Format.JSONL
    if re.search(r"^\[\[task\]\]", text, re.MULTILINE):
        return Format.TOML
    return Format.YAML if re.search(r"^tasks[ \t]*:", text, re.MULTILINE) else Format.PROMPT


def parse(text: str, chosen: Format) -> Document:
    """Read a text in a format.

    Raises:
        MalformedError: It is not in that format.
    """
    match chosen:
        case Format.YAML:
            return _yaml(text)
        case Format.TOML:
            return _toml(text)
        case Format.JSONL:
            from hive.taskfile.jsonl import read_jsonl

            return read_jsonl(text)
        case Format.MARKDOWN:
            from hive.taskfile.markdown import read_markdown

            return read_markdown(text)
        case Format.LINES:
            return _lines(text)
        case Format.PROMPT:
            return _prompt(text)


def _yaml(text: str) -> Document:
    """Read ``{batch, defaults, tasks}``, or a bare list of tasks."""
    from hive.taskfile.yaml_values import load_yaml, yaml_places

    tree = load_yaml(text)
    locate = locator(lambda: yaml_places(text))
    if isinstance(tree, dict):
        return document_of(tree, "tasks", locate)
    if isinstance(tree, list):
        entries, faults = entries_of(tree, (), locate)
        return Document(entries, locate, faults=tuple(faults))
    if tree is None:
        return Document((), locate)
    raise MalformedError("must be a table with `tasks`, or a list of tasks", Span(0, 1), code="H114")


def _toml(text: str) -> Document:
    """Read ``batch``, ``[defaults]`` and ``[[task]]``."""
    import tomllib

    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise MalformedError("is nested too deeply", Span(0, 1), code="H117") from None
    except ValueError as error:
        raise _toml_fault(str(error), text) from None
    return document_of(tree, "task", locator(lambda: toml_places(text)[0]))


def _toml_fault(message: str, text: str) -> MalformedError:
    _, repeated = toml_places(text)
    if repeated and ("overwrite" in message or "twice" in message):
        return MalformedError("this key or table is defined twice", repeated, code="H115")
    what = message.partition(" (at ")[0]
    return MalformedError(f"is no valid TOML: {what[:1].lower()}{what[1:]}", toml_error_span(message, text))


def _lines(text: str) -> Document:
    entries = []
    start = 0
    for line in text.split("\n"):
        if line.strip():
            entries.append(Entry({"prompt": line.strip()}, (start,)))
        start += len(line) + 1
    return Document(entries, at_offsets(text))


def _prompt(text: str) -> Document:
    entries = [Entry({"prompt": text.strip()}, (0,))] if text.strip() else []
    note = "read as one prompt; with --each every line becomes a task"
    return Document(entries, at_offsets(text), notes=(note,) if len(text.split("\n")) > 2 else ())


def at_offsets(text: str) -> Locate:
    """Return a locator for paths that begin with the offset of a line."""

    def locate(path: KeyPath) -> Place:
        start = int(path[0]) if path and isinstance(path[0], int) else 0
        end = text.find("\n", start)
        return Place(Span(start, len(text) if end < 0 else end))

    return locate
