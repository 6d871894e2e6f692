"""Reading what a process writes into its files: no line limit of a pipe, no waiting for end-of-file.

Bytes for programs, and text made safe to show. Knows nothing of what they mean, nor when the process ends.
Small reads of files just written come from memory, so they are made in the loop.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

_CHUNK_BYTES = 256 * 1024
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SHORTEST_SECRET = 8  # shorter ones would blank out ordinary words


class LineFramer:
    r"""Turns chunks of bytes into lines; the lines do not depend on where the chunks were split.

    Attributes:
        skipped: Lines longer than the cap so far; they are left out, the lines after them are not.
    """

    def __init__(self, cap_bytes: int = 16 << 20) -> None:
        self.skipped = 0
        self._cap_bytes = cap_bytes
        self._open = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        r"""Return the lines that `data` completes, without their ``\n``."""
        *ended, rest = data.split(b"\n")
        lines = [line for piece in ended if (line := self._end(piece)) is not None]
        self._take(rest)
        return lines

    def flush(self) -> list[bytes]:
        r"""Return what follows the last ``\n``, if anything: at most one line. Call once, at the end."""
        line = self._end(b"")
        return [line] if line else []

    def _take(self, piece: bytes) -> None:
        if self._skipping:
            return
        if len(self._open) + len(piece) > self._cap_bytes:
            self._open.clear()
            self._skipping = True
            self.skipped += 1
        else:
            self._open += piece

    def _end(self, piece: bytes) -> bytes | None:
        self._take(piece)
        line = None if self._skipping else bytes(self._open)
        self._open.clear()
        self._skipping = False
        return line


class Tail:
    """Reads a growing file from where it stopped last.

    A file that became shorter was truncated by the process (``> /dev/stdout``) and is read again from its start.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset_bytes = 0

    def read(self) -> bytes:
        """Return the next bytes, at most 256 KiB; empty when there are none for now."""
        if os.fstat(self._fd).st_size < self._offset_bytes:
            self._offset_bytes = 0
        data = os.pread(self._fd, _CHUNK_BYTES, self._offset_bytes)
        self._offset_bytes += len(data)
        return data

    def close(self) -> None:
        """Let go of the file; twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def output_file(files: Path, kind: str) -> Path:
    """Return ``<files>.<kind>``; `kind` is ``in``, ``out`` or ``err``."""
    return Path(f"{files}.{kind}")


def size_bytes(path: Path) -> int:
    """Return how large a file is; 0 when somebody deleted it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_bytes(path: Path, limit_bytes: int = 16 * 1024) -> bytes:
    """Return the end of a file; empty when somebody deleted it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, limit_bytes, max(0, os.fstat(fd).st_size - limit_bytes))
    finally:
        os.close(fd)


def last_text(path: Path, secrets: Collection[str] = ()) -> str:
    """Return the end of a file, a few thousand characters at least, as `printable` text."""
    return printable(last_bytes(path).decode("utf-8", "replace"), secrets)


def printable(text: str, secrets: Collection[str] = ()) -> str:
    r"""Return text fit for a terminal, a log and a prompt.

    No escape sequences, no control characters but newline and tab, no marks that reverse the line.

    Args:
        text: Any text. Cut it afterwards: half a secret is not found.
        secrets: Values that must not appear; those under 8 characters are left alone.
    """
    found = _plain(text)
    known = {value for secret in secrets for value in (secret, _plain(secret))}
    for value in sorted(known, key=len, reverse=True):  # one may be part of another
        if len(value) >= _SHORTEST_SECRET:
            found = found.replace(value, "[redacted]")
    return found


def _plain(text: str) -> str:
    return _CONTROL.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n")))
