"""Expands ``matrix: {file: "glob:src/*.py", level: [1, 2]}`` into one entry for each combination.

``{file}`` and, for paths, ``{file.stem}``, ``{file.name}``, ``{file.parent}``, ``{file.suffix}`` are replaced in every
text of the entry; ``{{file}}`` stays ``{file}``. Other braces are left alone: prompts hold code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path, PurePosixPath

from hive.source import KeyPath, did_you_mean, nearest, quoted
from hive.taskfile.document import Entry
from hive.taskfile.problems import Problems

CAP = 10_000  # tasks one matrix may make
FILE_CAP = 100_000  # tasks all of them may make
_TEXT_CAP = 200_000_000  # characters all of them may make
_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_.]*)\}\}|\{([A-Za-z_][A-Za-z0-9_]*)(?:\.([A-Za-z_]+))?\}")
_PARTS = ("stem", "name", "parent", "suffix")


class Expander:
    """Expands the matrices of one file.

    Args:
        root: Directory that globs are relative to.
        problems: Where errors go.
    """

    def __init__(self, root: Path, problems: Problems) -> None:
        self._root = root
        self._problems = problems
        self._made = 0
        self._characters = 0

    def entries(self, entry: Entry) -> Iterator[Entry]:
        """Yield the entries one entry stands for; itself when it has no matrix."""
        matrix = entry.values.get("matrix")
        if matrix is None:
            yield entry
            return
        axes = self._axes(matrix, (*entry.path, "matrix"))
        if not axes:
            return
        template = {key: value for key, value in entry.values.items() if key != "matrix"}
        if self._check(template, axes, entry.path):
            for values in product(*axes.values()):
                chosen = dict(zip(axes, values, strict=True))
                yield Entry({key: _filled(value, chosen) for key, value in template.items()}, entry.path)

    def _axes(self, matrix: object, path: KeyPath) -> dict[str, list[str]]:
        """Return the values of every axis; nothing when one of them is wrong."""
        if not isinstance(matrix, dict) or not matrix:
            self._problems.add("H119", f"`matrix` must be a table of names and lists, not {quoted(matrix)}", path)
            return {}
        axes = {axis: self._axis(axis, given, (*path, axis)) for axis, given in matrix.items()}
        count = 1
        for values in axes.values():
            count *= len(values)
        self._made += count
        if count > CAP or self._made > FILE_CAP:
            cap = f"{CAP:,}" if count > CAP else f"{FILE_CAP:,} in a file"
            self._problems.add("H119", f"`matrix` makes {count:,} tasks; at most {cap} are allowed", path, on_key=True)
            return {}
        return axes if count else {}

    def _axis(self, axis: str, given: object, path: KeyPath) -> list[str]:
        if not _AXIS.fullmatch(axis):
            self._problems.add("H119", f"{quoted(axis)} cannot be the name of an axis", path, on_key=True)
            return []
        if isinstance(given, str) and given.startswith("glob:"):
            return self._glob(given, path)
        if not isinstance(given, list) or not given:
            message = f"`matrix.{axis}` must be a list that is not empty, or `glob:PATTERN`"
            self._problems.add("H119", message, path)
            return []
        for index, value in enumerate(given):
            if not isinstance(value, str | int | float) or "\0" in str(value):
                self._problems.add("H119", f"`matrix.{axis}` takes texts and numbers", (*path, index))
                return []
        return [_shown(value) for value in given]

    def _glob(self, given: str, path: KeyPath) -> list[str]:
        import glob

        pattern = given.removeprefix("glob:").strip()
        pure = PurePosixPath(pattern)
        if not pattern or pure.is_absolute() or ".." in pure.parts or "\0" in pattern:
            self._problems.add("H118", f"{quoted(given)} must stay below {self._root}", path)
            return []
        pattern = re.sub(r"(?:\*\*/)+", "**/", pattern)  # a second one finds nothing new, at the price of the square
        found = glob.iglob(pattern, root_dir=self._root, recursive=True)  # noqa: PTH207 - knows hidden files
        files = islice((one for one in found if os.path.isfile(self._root / one)), CAP + 1)  # noqa: PTH113 - never raises
        names = sorted(files)
        if not names:
            self._problems.add("H119", f"{quoted(given)} matches no file below {self._root}", path)
        return names

    def _check(self, template: Mapping[str, object], axes: Mapping[str, Sequence[str]], path: KeyPath) -> bool:
        """Note placeholders that mean nothing, and refuse what would not fit into memory."""
        before = self._problems.count
        count = 1
        for values in axes.values():
            count *= len(values)
        for where, text in _texts(template, ()):
            self._characters += count * (len(text) + 1)
            self._check_text(text, axes, (*path, *where))
        if self._characters > _TEXT_CAP:
            self._problems.add("H117", "`matrix` makes more text than 200 MB", (*path, "matrix"), on_key=True)
        return self._problems.count == before

    def _check_text(self, text: str, axes: Mapping[str, Sequence[str]], path: KeyPath) -> None:
        for match in _PLACEHOLDER.finditer(text) if "{" in text else ():
            axis, part = match[2], match[3]
            if axis in axes and part and part not in _PARTS:
                note = did_you_mean(part, _PARTS)
                message = f"{quoted(match[0])} has no such part; there are {', '.join(_PARTS)}"
                self._problems.add("H119", message, path, note=note)
            elif axis and axis not in axes and (meant := nearest(axis, axes, cutoff=0.75)):
                note = f"did you mean `{{{meant}}}`?"
                message = f"{quoted(match[0])} names no axis of the matrix; write {{{match[0]}}} to mean it literally"
                self._problems.add("H119", message, path, note=note)


def _texts(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))


def _filled(value: object, chosen: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: _replacement(match, chosen), value) if "{" in value else value
    if isinstance(value, dict):
        return {key: _filled(inner, chosen) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, chosen) for inner in value]
    return value


def _replacement(match: re.Match[str], chosen: Mapping[str, str]) -> str:
    literal, axis, part = match[1], match[2], match[3]
    if literal is not None:
        return match[0][1:-1] if literal.split(".")[0] in chosen else match[0]
    if axis not in chosen:
        return match[0]
    if part is None:
        return chosen[axis]
    path = PurePosixPath(chosen[axis])
    return {"stem": path.stem, "name": path.name, "parent": str(path.parent), "suffix": path.suffix}[part]


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
