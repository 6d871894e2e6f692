"""YAML to plain values, and the place of each. Knows nothing of tasks.

A builder of its own over PyYAML's events, because the composer over libyaml overflows the C stack on deep nesting
(100,000 times ``- `` ends the process) and lets aliases grow without end. Scalars are read as YAML 1.2 does: only true
and false are booleans; ``012`` and ``1:30`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import yaml

from hive.source import KeyPath, Place, Span, quoted
from hive.taskfile.document import MalformedError, Places

_DEEPEST = 20
_ALIAS_GROWTH = 100_000  # values that aliases may add to what a text of its length can hold
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,20}|(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{0,20})?)(?:[eE][-+]?[0-9]{1,2})?")
_NUMERIC = frozenset("+-.0123456789")
_TAG = "tag:yaml.org,2002:"


def load_yaml(text: str) -> object:
    """Return the one document of a text; None when it is empty.

    Raises:
        MalformedError: It is not YAML, or holds what Hive does not take: tags, several documents, keys that are not
            text, a key twice, nesting beyond 20, aliases that grow.
    """
    return _Builder(text, None).build()


def yaml_places(text: str) -> Places:
    """Return where each value stands in a text that `load_yaml` accepted."""
    places: Places = {}
    _Builder(text, places).build()
    return places


@dataclass(slots=True)
class _Frame:
    """A list or mapping that has begun; `key` is the one whose value comes next."""

    value: list[object] | dict[str, object]
    path: KeyPath
    start: int
    anchor: str | None
    key: str | None = None
    key_span: Span | None = None
    merged: list[tuple[object, Span]] = field(default_factory=list)
    size: int = 1


class _Builder:
    """Builds without recursion: one frame for each collection that is open."""

    def __init__(self, text: str, places: Places | None) -> None:
        self._text = text
        self._places = places
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[object, int]] = {}
        self._root: object = None
        self._documents = 0

    def build(self) -> object:
        steps: dict[type[yaml.Event], Callable[..., None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._begin_mapping,
            yaml.SequenceStartEvent: self._begin_list,
            yaml.MappingEndEvent: self._end_mapping,
            yaml.SequenceEndEvent: self._end_list,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }
        for event in _events(self._text):
            step = steps.get(type(event))
            if step is not None:  # starts and ends of the stream carry nothing
                step(event)
        return self._root

    def _document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            raise MalformedError("a second YAML document begins here: one file holds one", _span(event))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.value, dict):
            self._key(frame, event)
            return
        value = _resolved(event)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._put(value, _span(event), 1)

    def _key(self, frame: _Frame, event: yaml.ScalarEvent) -> None:
        key = str(event.value)
        if key in frame.value:
            raise MalformedError(f"the key {quoted(key)} stands here twice", _span(event), code="H115")
        frame.key, frame.key_span = key, _span(event)

    def _begin_mapping(self, event: yaml.MappingStartEvent) -> None:
        self._begin(event, {}, "map")

    def _begin_list(self, event: yaml.SequenceStartEvent) -> None:
        self._begin(event, [], "seq")

    def _begin(self, event: yaml.CollectionStartEvent, value: list[object] | dict[str, object], tag: str) -> None:
        if event.tag not in {None, "!", _TAG + tag}:
            raise _tag_error(event)
        if len(self._frames) >= _DEEPEST:
            raise MalformedError(f"is nested more than {_DEEPEST} deep", _span(event), code="H117")
        path: KeyPath = ()
        if self._frames:
            outer = self._frames[-1]
            if isinstance(outer.value, dict) and outer.key is None:
                raise MalformedError("a key must be plain text", _span(event))
            path = _next_path(outer)
        self._frames.append(_Frame(value, path, _span(event).start, event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)  # an alias to it from inside would be endless

    def _end_mapping(self, event: yaml.MappingEndEvent) -> None:
        frame = self._frames[-1]
        for merged, span in frame.merged:
            for one in merged if isinstance(merged, list) else [merged]:
                if not isinstance(one, dict) or not isinstance(frame.value, dict):
                    raise MalformedError("`<<` takes a mapping or a list of mappings", span)
                for key, value in one.items():
                    frame.value.setdefault(key, value)
        self._end_list(event)

    def _end_list(self, event: yaml.CollectionEndEvent) -> None:
        frame = self._frames.pop()
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.value, frame.size)
        self._put(frame.value, Span(frame.start, _span(event).end), frame.size)

    def _alias(self, event: yaml.AliasEvent) -> None:
        anchor = event.anchor or ""
        if anchor not in self._anchors:
            raise MalformedError(f"the alias {quoted('*' + anchor)} means nothing here", _span(event))
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.value, dict):
            raise MalformedError("a key must be plain text", _span(event))
        value, size = self._anchors[anchor]
        self._put(value, _span(event), size)

    def _put(self, value: object, span: Span, size: int) -> None:
        """Hand a finished value to the collection around it."""
        if not self._frames:
            self._root = value
            self._note((), span, None)
            return
        frame = self._frames[-1]
        frame.size += size
        if frame.size > len(self._text) + _ALIAS_GROWTH:
            raise MalformedError("aliases make this file grow beyond bounds", span, code="H117")
        self._note(_next_path(frame), span, frame.key_span)
        if isinstance(frame.value, list):
            frame.value.append(value)
            return
        key, frame.key = frame.key, None
        if key == "<<":
            frame.merged.append((value, span))
        elif key is not None:
            frame.value[key] = value

    def _note(self, path: KeyPath, span: Span, key: Span | None) -> None:
        if self._places is not None:
            self._places[path] = Place(span, key)


def _next_path(frame: _Frame) -> KeyPath:
    if isinstance(frame.value, list):
        return (*frame.path, len(frame.value))
    return (*frame.path, frame.key or "")


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a text, with every complaint of the parser as ours."""
    loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = min(mark.index, len(text)) if mark else 0
        message = f"is no valid YAML: {error.problem or error.context or 'unreadable'}"
        raise MalformedError(message, Span(at, at + 1), note=_hint(text, at)) from None
    except yaml.reader.ReaderError as error:
        at = next((index for index, char in enumerate(text) if _is_control(char)), 0)
        raise MalformedError(f"is no valid YAML: {error.reason}", Span(at, at + 1)) from None


def _is_control(char: str) -> bool:
    """Return whether YAML forbids the character."""
    return char not in "\t\n\r\x85" and (char < " " or "\x7f" <= char <= "\x9f" or char in "\ufffe\uffff")


def _hint(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at + 1]
    return "YAML indents with spaces, not tabs" if "\t" in line and not line.strip() else ""


def _resolved(event: yaml.ScalarEvent) -> object:
    """Return the value of a scalar: text when quoted or a block, else what it looks like."""
    value: str = event.value
    if event.tag not in {None, "!", _TAG + "str"}:
        raise _tag_error(event)
    if not event.implicit[0]:
        return value
    if value[:1] in _NUMERIC:
        return _number(value)
    match value:
        case "" | "~" | "null" | "Null" | "NULL":
            return None
        case "true" | "True" | "TRUE":
            return True
        case "false" | "False" | "FALSE":
            return False
        case _:
            return value


def _number(value: str) -> object:
    if _INT.fullmatch(value):
        return int(value)
    return float(value) if _FLOAT.fullmatch(value) else value


def _tag_error(event: yaml.NodeEvent) -> MalformedError:
    return MalformedError(f"the tag {quoted(event.tag)} is not allowed", _span(event))  # type: ignore[attr-defined]


def _span(event: yaml.Event) -> Span:
    start, end = event.start_mark, event.end_mark
    return Span(start.index if start else 0, end.index if end else 0)
