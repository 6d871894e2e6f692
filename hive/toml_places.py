"""Where the values of a TOML document stand, which `tomllib` does not tell.

Reads only documents `tomllib` accepted, so it recognises tokens without judging them; on anything else it stops early.
"""

from __future__ import annotations

import re
from contextlib import suppress

from hive.source import KeyPath, Place, Span

_WS = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_LINE_END = re.compile(r"[^\n]*\n?")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"{3,5}(?!")'
    r"|'''[\s\S]*?'{3,5}(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
)
_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)")
_PLAIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]*|[^\s,\]}#]+")


class _ScanError(Exception):
    """The text is not what `tomllib` would accept."""


def toml_places(text: str) -> tuple[dict[KeyPath, Place], Span | None]:
    """Return the place of every table, key and list item by its path, and the first key defined twice, if any."""
    scan = _Scan(text)
    with suppress(_ScanError):  # what was found until then is right, and callers fall back to the enclosing place
        scan.document()
    return scan.places, scan.repeated


def toml_error_span(message: str, text: str) -> Span:
    """Return where `tomllib` stumbled, from its message: ``... (at line 3, column 7)``."""
    match = _POSITION.search(message)
    if match is None:  # at end of document
        return Span(len(text), len(text))
    start = 0
    for _ in range(int(match[1]) - 1):
        start = text.find("\n", start) + 1
    at = min(start + int(match[2]) - 1, len(text))
    return Span(at, at + 1)


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[KeyPath, Place] = {}
        self.repeated: Span | None = None
        self._counts: dict[KeyPath, int] = {}  # lengths of arrays of tables so far

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_GAP) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        start = self.at
        array = self.text.startswith("[[", start)
        self.at += 2 if array else 1
        parts = self._dotted()
        path: KeyPath = ()
        for name, span in parts[:-1]:
            path = self._latest((*path, name))
            self.places.setdefault(path, Place(span, span))
        name, span = parts[-1]
        path = (*path, name)
        if array:
            self.places.setdefault(path, Place(span, span))
            self._counts[path] = self._counts.get(path, 0) + 1
            path = self._latest(path)
        self._expect("]]" if array else "]")
        self._note(path, Place(Span(start, self.at), span), header=True)
        self._skip(_LINE_END)
        return path

    def _latest(self, path: KeyPath) -> KeyPath:
        return (*path, self._counts[path] - 1) if path in self._counts else path

    def _pair(self, table: KeyPath) -> None:
        parts = self._dotted()
        path = table
        for name, span in parts:
            path = (*path, name)
            if span is not parts[-1][1]:
                self.places.setdefault(path, Place(span, span))
        self._expect("=")
        self._note(path, Place(self._value(path), parts[-1][1]))

    def _dotted(self) -> list[tuple[str, Span]]:
        parts = [self._key()]
        while self._peek() == ".":
            self.at += 1
            parts.append(self._key())
        return parts

    def _key(self) -> tuple[str, Span]:
        self._skip(_WS)
        match = _BARE.match(self.text, self.at) or _STRING.match(self.text, self.at)
        if match is None:
            raise _ScanError
        self.at = match.end()
        span = Span(match.start(), match.end())
        self._skip(_WS)
        return _unquoted(match.group()), span

    def _value(self, path: KeyPath) -> Span:
        self._skip(_WS)
        start = self.at
        match self._peek():
            case "[":
                self._items(path, "]")
            case "{":
                self._items(path, "}")
            case _:
                found = _STRING.match(self.text, start) or _PLAIN.match(self.text, start)
                if found is None:
                    raise _ScanError
                self.at = found.end()
        return Span(start, self.at)

    def _items(self, path: KeyPath, close: str) -> None:
        if len(path) > 50:
            raise _ScanError
        self.at += 1
        index = 0
        while self._skip(_GAP) < len(self.text) and self._peek() != close:
            if close == "}":
                self._pair(path)
            else:
                item = (*path, index)
                self._note(item, Place(self._value(item)))
                index += 1
            self._skip(_GAP)
            if self._peek() == ",":
                self.at += 1
        self._expect(close)

    def _note(self, path: KeyPath, place: Place, *, header: bool = False) -> None:
        known = self.places.get(path)
        if known is None or (header and known.key == known.value):  # a parent only implied so far
            self.places[path] = place
        elif self.repeated is None:
            self.repeated = place.key or place.value

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _expect(self, token: str) -> None:
        self._skip(_WS)
        if not self.text.startswith(token, self.at):
            raise _ScanError
        self.at += len(token)


def _unquoted(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"' or "\\" not in key:
        return key.strip('"')
    import tomllib

    try:
        return str(tomllib.loads(f"key = {key}")["key"])
    except tomllib.TOMLDecodeError as error:
        raise _ScanError from error
