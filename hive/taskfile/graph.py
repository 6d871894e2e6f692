"""Checks that keys are unique and that the needs of a file's tasks name tasks and form no circle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hive.source import KeyPath, did_you_mean, quoted
from hive.taskfile.problems import Problems

_NAMED = 8  # keys of a circle that a message names


@dataclass(slots=True)
class Keys:
    """The keys seen so far, by batch, with the place of their task; also those of tasks that are otherwise wrong."""

    problems: Problems
    stored: Mapping[str, Collection[str]]
    places: dict[str, dict[str, KeyPath]] = field(default_factory=dict)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def claim(self, batch: str, key: str, path: KeyPath) -> None:
        """Note a key that was written; a second use is an error."""
        taken = self.places.setdefault(batch, {})
        first = taken.get(key)
        if first is None:
            taken[key] = path
            return
        message = f"the key {quoted(key)} names two tasks, the first in line {self.problems.line(first)}"
        if first == path:
            message = f"the matrix gives the key {quoted(key)} to several tasks: put a placeholder into it"
        self.problems.add("H115", message, (*path, "key"))

    def free(self, batch: str, wanted: str, path: KeyPath) -> str:
        """Return a key for a task that has none: the wanted one, or with a number when the same content came before."""
        taken = self.places.setdefault(batch, {})
        key, number = wanted, self._numbers.get((batch, wanted), 1)  # counting from 1 would square the time
        while key in taken:
            number += 1
            key = f"{wanted}-{number}"
        self._numbers[batch, wanted] = number
        taken[key] = path
        return key

    def knows(self, batch: str, key: str) -> bool:
        """Return whether a need can be met: by a task of the file or of the store."""
        return key in self.places.get(batch, ()) or key in self.stored.get(batch, ())

    def options(self, batch: str) -> list[str]:
        """Return the keys a need may name."""
        return [*self.places.get(batch, ()), *self.stored.get(batch, ())]


@dataclass(frozen=True, slots=True)
class Needs:
    """What one task of a file waits for."""

    batch: str
    key: str
    after: tuple[str, ...]
    path: KeyPath


def check_needs(tasks: Sequence[Needs], keys: Keys) -> None:
    """Note every need that names nothing and every circle."""
    for task in tasks:
        for index, need in enumerate(task.after):
            if not keys.knows(task.batch, need):
                _missing(task, index, need, keys)
    by_key = {(task.batch, task.key): task for task in tasks}
    for circle in _circles(by_key):
        first = circle[0]
        names = [one.key for one in circle]
        shown = [*names[:_NAMED], "…"] if len(names) > _NAMED else names
        message = f"tasks wait for each other: {' -> '.join([*shown, names[0]])}"
        if len(names) == 1:
            message = f"the task {quoted(names[0])} waits for itself"
        keys.problems.add("H113", message, (*first.path, "after"))


def _missing(task: Needs, index: int, need: str, keys: Keys) -> None:
    keys.problems.add(
        "H112",
        f"`after: [{quoted(need)[1:-1]}]` names no task",
        (*task.path, "after", index),
        note=lambda: did_you_mean(need, keys.options(task.batch)),
    )


def _circles(tasks: Mapping[tuple[str, str], Needs]) -> Iterator[list[Needs]]:
    """Yield circles, each task in at most one: a walk in depth without recursion, since chains may be long."""
    done: set[tuple[str, str]] = set()
    for start in tasks:
        if start in done:
            continue
        trail = {start: 0}
        stack = [(start, iter(tasks[start].after))]
        while stack:
            at, needs = stack[-1]
            need = next(needs, None)
            if need is None:
                stack.pop()
                trail.pop(at)
                done.add(at)
                continue
            following = (at[0], need)
            if following in trail:
                yield [tasks[one] for one, _ in stack[trail[following] :]]
            elif following in tasks and following not in done:
                trail[following] = len(stack)
                stack.append((following, iter(tasks[following].after)))
