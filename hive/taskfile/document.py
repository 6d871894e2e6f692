"""What every format comes down to: a batch, defaults, entries of plain values, and where each value stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hive.source import KeyPath, Place, Span, did_you_mean, quoted

Locate: TypeAlias = Callable[[KeyPath], Place]
Places: TypeAlias = dict[KeyPath, Place]


@dataclass(frozen=True, slots=True)
class Entry:
    """A mapping as it was written: a task, or the defaults.

    Attributes:
        values: Plain values by key: text, numbers, booleans, None, lists and tables of them.
        path: Where it stands; the path of one of its values is this and the key.
    """

    values: Mapping[str, object]
    path: KeyPath


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the form of the file; `find` says where."""

    code: str
    message: str
    find: Callable[[], Span]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A file that has been parsed but not judged.

    Attributes:
        locate: Finds the place of a path, or of what encloses it; slow, used for errors only.
        batch: Whatever stands under ``batch``, at path ``("batch",)``.
        own_batches: Entries may name a batch of their own.
        faults: What is wrong with its form.
        notes: What people should know about how the file was read.
    """

    entries: Sequence[Entry]
    locate: Locate
    batch: object = None
    defaults: Entry | None = None
    own_batches: bool = False
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


class MalformedError(Exception):
    """The text is not in its format; nothing behind the fault was looked at."""

    def __init__(self, message: str, span: Span, *, code: str = "H110", note: str = "") -> None:
        super().__init__(message)
        self.fault = Fault(code, message, lambda: span, note)


def locator(places: Callable[[], Mapping[KeyPath, Place]]) -> Locate:
    """Return a function that finds the place of a path, or of what encloses it; `places` is asked once, if ever."""
    found: list[Mapping[KeyPath, Place]] = []

    def locate(path: KeyPath) -> Place:
        if not found:
            found.append(places())
        while path and path not in found[0]:
            path = path[:-1]
        return found[0].get(path, Place(Span(0, 0)))

    return locate


def document_of(tree: Mapping[str, object], list_key: str, locate: Locate) -> Document:
    """Return what ``{batch, defaults, tasks}`` says; `list_key` is how the format calls the tasks."""
    known = ("batch", "defaults", list_key)
    faults = [_unknown(key, known, locate) for key in tree if key not in known]
    tasks, defaults = tree.get(list_key), tree.get("defaults")
    if tasks is None:
        tasks = []
    if not isinstance(tasks, list):
        faults.append(_misshapen(f"`{list_key}` must be a list of tasks", (list_key,), locate))
        tasks = []
    if defaults is not None and not isinstance(defaults, dict):
        faults.append(_misshapen(f"`defaults` must be a table, not {quoted(defaults)}", ("defaults",), locate))
    entries, wrong = entries_of(tasks, (list_key,), locate)
    return Document(
        entries,
        locate,
        batch=tree.get("batch"),
        defaults=Entry(defaults, ("defaults",)) if isinstance(defaults, dict) else None,
        faults=(*faults, *wrong),
    )


def entries_of(tasks: Sequence[object], path: KeyPath, locate: Locate) -> tuple[list[Entry], list[Fault]]:
    """Return the tasks of a list, and a fault for each item that is no mapping."""
    entries: list[Entry] = []
    faults: list[Fault] = []
    for index, task in enumerate(tasks):
        here = (*path, index)
        if isinstance(task, dict):
            entries.append(Entry(task, here))
        else:
            faults.append(_misshapen(f"a task must be a table of keys, not {quoted(task)}", here, locate))
    return entries, faults


def _unknown(key: str, known: Sequence[str], locate: Locate) -> Fault:
    def find() -> Span:
        place = locate((key,))
        return place.key or place.value

    return Fault("H111", f"there is no key {quoted(key)} at the top of a task file", find, did_you_mean(key, known))


def _misshapen(message: str, path: KeyPath, locate: Locate) -> Fault:
    return Fault("H114", message, lambda: locate(path).value)
