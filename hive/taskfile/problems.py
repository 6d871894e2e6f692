"""Everything wrong with one task file, gathered and told at once: alike ones together, the first twenty in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hive.errors import TaskFileError
from hive.source import KeyPath, Source, Span
from hive.taskfile.document import Locate

SHOWN = 20
_PLACES_SHOWN = 4
_FIX = "correct it and run the same command again; nothing was queued"


class InvalidTaskFileError(TaskFileError):
    """A task file with one or more errors; nothing of it was queued. Its own fields are those of the first one.

    Attributes:
        problems: At most `SHOWN` errors that differ, in the order of the file.
        count: All errors, alike ones and those not shown included.
    """

    def __init__(self, problems: tuple[TaskFileError, ...], count: int) -> None:
        first = problems[0]
        super().__init__(
            first.message, code=first.code, why=first.why, fix=_FIX, where=first.where, excerpt=first.excerpt
        )
        self.problems = problems
        self.count = count

    def lines(self) -> list[str]:
        """Return all problems as people read them, and what to do at the end."""
        lines: list[str] = []
        for problem in self.problems:
            lines += [*problem.lines(), ""]
        lines.pop()
        if self.count > 1:
            alike = ", alike ones shown once" if self.count > len(self.problems) else ""
            lines += ["", f"{self.count} errors{alike}"]
        return [*lines, f"fix: {_FIX}"]


@dataclass(slots=True)
class _Group:
    """Problems with the same code and message."""

    code: str
    message: str
    note: Callable[[], str]
    finds: list[Callable[[], Span]] = field(default_factory=list)
    count: int = 0


class Problems:
    """Collects errors without the cost of finding their places, until they are raised.

    Args:
        source: The file.
        locate: Finds the places of paths.
    """

    def __init__(self, source: Source, locate: Locate) -> None:
        self._source = source
        self._locate = locate
        self._groups: dict[tuple[str, str], _Group] = {}
        self.count = 0

    def add(
        self,
        code: str,
        message: str,
        path: KeyPath,
        *,
        on_key: bool = False,
        note: str | Callable[[], str] = "",
    ) -> None:
        """Note an error at the value of a path, or at its key."""
        self.add_at(code, message, lambda: self._span(path, on_key=on_key), note=note)

    def add_at(self, code: str, message: str, find: Callable[[], Span], *, note: str | Callable[[], str] = "") -> None:
        """Note an error at the place `find` will tell."""
        self.count += 1
        group = self._groups.get((code, message))
        if group is None:
            if len(self._groups) >= SHOWN:
                return
            late: Callable[[], str] = note if callable(note) else lambda: note
            group = self._groups[code, message] = _Group(code, message, late)
        group.count += 1
        if len(group.finds) < _PLACES_SHOWN:
            group.finds.append(find)

    def line(self, path: KeyPath) -> int:
        """Return the line a path stands in."""
        return self._source.position(self._span(path, on_key=False).start)[0]

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            InvalidTaskFileError: Something was.
        """
        if self._groups:
            found = sorted((self._error(group) for group in self._groups.values()), key=lambda pair: pair[0])
            raise InvalidTaskFileError(tuple(error for _, error in found), self.count)

    def _error(self, group: _Group) -> tuple[int, TaskFileError]:
        spans = [find() for find in group.finds]
        error = TaskFileError(
            group.message,
            code=group.code,
            why=self._also(spans[1:], group.count),
            where=self._source.where(spans[0].start),
            excerpt=self._source.excerpt(spans[0], group.note()),
        )
        return spans[0].start, error

    def _also(self, others: list[Span], count: int) -> str:
        """Name the places of the alike ones, in lines and columns."""
        if not others:
            return ""
        places = ["{}:{}".format(*self._source.position(span.start)) for span in others]
        rest = count - 1 - len(others)
        return f"the same at {', '.join(places)}" + (f" and {rest} more" if rest else "")

    def _span(self, path: KeyPath, *, on_key: bool) -> Span:
        place = self._locate(path)
        return place.key if on_key and place.key else place.value
