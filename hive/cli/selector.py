"""Which tasks a command line means: ``412``, ``412..430``, ``@failed``, ``batch:NAME``, a key, ``-F 'state:failed'``.

A term becomes a check of a task and, where the store can, a narrower query; the store may return too many, never too
few, and the checks decide.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from hive.api import SyncHive
from hive.errors import UsageError
from hive.model import FINAL, State, Task, TaskId
from hive.source import did_you_mean, quoted
from hive.store import TaskQuery
from hive.values import BadValueError, duration

Check: TypeAlias = Callable[[Task], bool]

_PAGE = 500
_LARGEST_ID = 2**63 - 1
_TOKEN = re.compile(r'([\w@]+[:<>=]+)?"([^"]*)"|(\S+)')
_COMPARISON = re.compile(r"(cost|age|runs|priority)(<=|>=|<|>|=)(.+)")
_RANGE = re.compile(r"(\d+)\.\.(\d*)")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
_GROUPS: Mapping[str, Check] = {
    "@all": lambda _: True,
    "@unfinished": lambda task: task.state not in FINAL,
    "@held": lambda task: task.held and task.state not in FINAL,
}
_FIELDS: Mapping[str, Callable[[Task], Sequence[str | None]]] = {
    "state": lambda task: (task.state,),
    "batch": lambda task: (task.spec.batch,),
    "group": lambda task: (task.failure.group if task.failure else None,),
    "tag": lambda task: task.spec.tags,
    "key": lambda task: (task.spec.key,),
    "role": lambda task: (task.spec.role,),
    "phase": lambda task: (task.phase,),
    "reason": lambda task: (task.reason,),
}
FORMS = "ID, ID..ID, @STATE, @unfinished, @held, @all, batch:NAME, group:G, tag:T, KEY or BATCH/KEY"


@dataclass(frozen=True, slots=True)
class Part:
    """Tasks for which all checks hold.

    Attributes:
        query: What narrows the search in the store; selects all of these tasks, perhaps more.
        first_id, last_id: None of these tasks is outside.
        must_match: The id or key that was typed, which must exist; or empty.
    """

    query: TaskQuery = field(default_factory=TaskQuery)
    first_id: int = 0
    last_id: int = _LARGEST_ID
    checks: tuple[Check, ...] = ()
    must_match: str = ""

    def holds(self, task: Task) -> bool:
        """Return whether the task is one of these."""
        return self.first_id <= task.id <= self.last_id and all(check(task) for check in self.checks)


def parse(names: Sequence[str], filters: Sequence[str], now_ms: int) -> tuple[Part, ...]:
    """Return the parts whose union is meant: any of `names`, and for each all of `filters`.

    Raises:
        UsageError: A selector or filter cannot be read.
    """
    parts = [_named(Part(), name, now_ms) for name in names] or [Part()]
    for text in filters:
        for match in _TOKEN.finditer(text):
            parts = [replace(_filtered(part, match, now_ms), must_match="") for part in parts]
    return tuple(parts)


def select(
    hive: SyncHive, parts: Sequence[Part], *, limit: int | None = None, newest_first: bool = False
) -> list[Task]:
    """Return the tasks that are meant, each once, by id.

    Raises:
        UsageError: An id or key that was typed does not exist.
    """
    found: dict[TaskId, Task] = {}
    for part in parts:
        before = len(found)
        for count, task in enumerate(_tasks(hive, part, newest_first=newest_first), 1):
            found[task.id] = task
            if count == limit:
                break
        if part.must_match and len(found) == before and not any(part.holds(task) for task in found.values()):
            raise _unknown(part.must_match)
    return sorted(found.values(), key=lambda task: task.id, reverse=newest_first)[:limit]


def _tasks(hive: SyncHive, part: Part, *, newest_first: bool) -> Iterator[Task]:
    """Yield the tasks of a part, page by page."""
    if part.first_id > part.last_id:
        return
    after = (
        part.last_id + 1 if newest_first and part.last_id < _LARGEST_ID else 0 if newest_first else part.first_id - 1
    )
    while True:
        page = hive.tasks(replace(part.query, after_id=max(0, after), limit=_PAGE, newest_first=newest_first))
        yield from (task for task in page if part.holds(task))
        if len(page) < _PAGE or not part.first_id <= page[-1].id <= part.last_id:
            return
        after = page[-1].id


def _named(part: Part, name: str, now_ms: int) -> Part:
    """Narrow a part by a selector; what is nothing else is a key."""
    found = _known(part, name, now_ms)
    if found is not None:
        return found
    if not name.strip():
        raise UsageError("an empty selector selects nothing", code="H131", fix=f"use {FORMS}")
    part = _checked(part, lambda task: name in {task.spec.key, f"{task.spec.batch}/{task.spec.key}"})
    return replace(_text_query(part, name.rpartition("/")[2]), must_match=name)


def _filtered(part: Part, match: re.Match[str], now_ms: int) -> Part:
    """Narrow a part by a word of a filter; what is nothing else is text."""
    prefix, in_quotes, word = match.groups()
    if word is None and prefix is None:
        return _text(part, in_quotes)
    term = word if word is not None else prefix + in_quotes
    found = _known(part, term, now_ms)
    if found is not None:
        return found
    label, colon, _ = term.partition(":")
    if colon and label.isalnum():
        fix = did_you_mean(label, _FIELDS) or f'put text in quotes: "{term}"'
        raise UsageError(f"{quoted(label)} is nothing to filter by", code="H131", fix=fix)
    return _text(part, term)


def _known(part: Part, term: str, now_ms: int) -> Part | None:
    """Narrow a part by a term that stands alone as well as in a filter, or return None."""
    if term.isdecimal():
        return replace(_between(part, int(term), int(term)), must_match=term)
    if match := _RANGE.fullmatch(term):
        return _between(part, int(match[1]), int(match[2]) if match[2] else _LARGEST_ID)
    if term.startswith("@"):
        return _at(part, term)
    if match := _COMPARISON.fullmatch(term):
        return _compared(part, match[1], match[2], match[3], now_ms)
    label, colon, value = term.partition(":")
    return _field(part, label, value) if colon and label in _FIELDS else None


def _between(part: Part, first: int, last: int) -> Part:
    if first > last:
        raise UsageError(f"the range {first}..{last} is backwards", code="H131", fix=f"write {last}..{first}")
    part = replace(part, first_id=max(part.first_id, first), last_id=min(part.last_id, last, _LARGEST_ID))
    single = first == last <= _LARGEST_ID and not part.query.ids
    return replace(part, query=replace(part.query, ids=(TaskId(first),))) if single else part


def _at(part: Part, term: str) -> Part:
    if check := _GROUPS.get(term):
        if term != "@all":
            part = _states(part, frozenset(State) - FINAL)
        return _checked(part, check)
    return _field(part, "state", term[1:], shown=term)


def _field(part: Part, label: str, value: str, shown: str = "") -> Part:
    """Narrow by a field that must have one of the values between commas; names may hold commas, states do not."""
    values = frozenset(value.split(",")) if label in {"state", "phase", "reason"} else frozenset({value})
    if not value and not shown:
        raise UsageError(f"`{label}:` names nothing", code="H131", fix=f"write {label}:VALUE")
    if label == "state":
        part = _states(part, frozenset(_state(one, shown or one) for one in values))
    elif label == "batch" and part.query.batch is None:
        part = replace(part, query=replace(part.query, batch=value))
    elif label == "tag" and part.query.tag is None:
        part = replace(part, query=replace(part.query, tag=value))
    elif label == "group" and part.query.group is None:
        part = replace(part, query=replace(part.query, group=value))
    elif label == "key":
        part = _text_query(part, value)
    read = _FIELDS[label]
    return _checked(part, lambda task: any(one in values for one in read(task)))


def _state(name: str, shown: str) -> State:
    try:
        return State(name)
    except ValueError:
        names = [f"@{state}" for state in State] + list(_GROUPS) if shown.startswith("@") else list(State)
        fix = did_you_mean(shown, names) or f"states are {', '.join(State)}"
        raise UsageError(f"{quoted(shown)} is no state", code="H131", fix=fix) from None


def _states(part: Part, states: frozenset[State]) -> Part:
    both = part.query.states & states if part.query.states else states
    return replace(part, query=replace(part.query, states=both)) if both else part


def _compared(part: Part, label: str, sign: str, value: str, now_ms: int) -> Part:
    try:
        limit = duration(0, 1e12).parse(value) if label == "age" else float(value.removeprefix("$"))
    except (BadValueError, ValueError):
        example = "age<1h" if label == "age" else f"{label}>2"
        raise UsageError(
            f"{quoted(label + sign + value)} compares nothing", code="H131", fix=f"write {example}"
        ) from None
    read: Mapping[str, Callable[[Task], float]] = {
        "cost": lambda task: task.usage.cost_usd,
        "age": lambda task: (now_ms - task.created_at_ms) / 1000,
        "runs": lambda task: task.runs,
        "priority": lambda task: task.spec.priority,
    }
    return _checked(part, lambda task: _SIGNS[sign](read[label](task), limit))


def _text(part: Part, text: str) -> Part:
    wanted = _lowered(text)
    part = _text_query(part, text)
    return _checked(
        part, lambda task: wanted in _lowered(f"{task.spec.title}\n{task.spec.key or ''}\n{task.spec.prompt}")
    )


def _text_query(part: Part, text: str) -> Part:
    """Let the store search for text, unless it already does for another."""
    if not text or part.query.text is not None:
        return part
    return replace(part, query=replace(part.query, text=text))


def _lowered(text: str) -> str:
    """Lower only ASCII, as the store does, so that both agree."""
    return "".join(char.lower() if char.isascii() else char for char in text)


def _checked(part: Part, check: Check) -> Part:
    return replace(part, checks=(*part.checks, check))


def _unknown(name: str) -> UsageError:
    words = [f"@{state}" for state in State] + list(_GROUPS)
    meant = did_you_mean(f"@{name}", words) if name.isalpha() or "_" in name else ""
    what = f"there is no task {name}" if name.isdecimal() else f"there is no task with the key {quoted(name)}"
    return UsageError(what, code="H130", fix=meant or "list tasks with: hive ls")
