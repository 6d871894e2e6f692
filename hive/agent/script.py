"""The language of the `scripted` agent: one step a line, read and checked before anything is done.

========================  ==============================================================================================
step                      what it does
========================  ==============================================================================================
``say TEXT``              says something; the last one is the summary of the run
``edit PATH TEXT``        writes a file: `TEXT` and a newline
``append PATH TEXT``      the same at the end of a file
``delete PATH``           deletes a file or a directory; nothing happens when there is none
``commit MESSAGE``        commits all changes in the directory, or says that there are none
``run PROGRAM ARGS...``   runs a program without a shell; ends the run unless it exits with 0
``sleep SECONDS``         waits
``hang``                  waits until the run is stopped or times out
``flood BYTES``           writes so much to the output file
``cost USD``              adds to what the run cost
``limit SECONDS``         ends the run: a usage limit was reached and is over after so long
``fail MESSAGE``          ends the run as failed; worth another attempt
``fatal MESSAGE``         ends the run as failed; not worth one
``exit N``                ends the run as a program with this exit code; 0 is success
========================  ==============================================================================================

`TEXT` may be several lines: ``<<WORD`` in its place, then the lines, then a line that is only ``WORD``. Paths are
relative, stay inside the directory and hold no spaces. Conditions may stand before a step, all of which must hold:
``[attempt 1]``, ``[round 0]``, ``[round >= 2]``; ``<``, ``<=``, ``=``, ``!=`` and ``>`` work too. Empty lines and lines
that begin with ``#`` are skipped. A script without an ending succeeds::

    say reading the code
    edit hello.py <<END
    print("hello")
    END
    commit add a greeting
    [attempt 1] fail the network is down
"""

from __future__ import annotations

import math
import operator
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType

from hive.errors import UsageError


class Verb(StrEnum):
    """What a step does."""

    SAY = "say"
    EDIT = "edit"
    APPEND = "append"
    DELETE = "delete"
    COMMIT = "commit"
    RUN = "run"
    SLEEP = "sleep"
    HANG = "hang"
    FLOOD = "flood"
    COST = "cost"
    LIMIT = "limit"
    FAIL = "fail"
    FATAL = "fatal"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with the attempt or the round of the run."""

    name: str
    sign: str
    value: int

    def holds(self, attempt: int, round_: int) -> bool:
        """Whether it is true of this run."""
        return _SIGNS[self.sign](attempt if self.name == "attempt" else round_, self.value)


@dataclass(frozen=True, slots=True)
class Step:
    """One step; which fields beside `line` and `conditions` count depends on the verb.

    Attributes:
        line: Where it stands, from 1.
        text: What to say or write (with its newline), the message, or empty.
        path: Relative path.
        number: Seconds, bytes, US dollars or the exit code.
        argv: Program and arguments.
    """

    line: int
    verb: Verb
    conditions: tuple[Condition, ...] = ()
    text: str = ""
    path: str = ""
    number: float = 0.0
    argv: tuple[str, ...] = ()

    def applies(self, attempt: int, round_: int) -> bool:
        """Whether all its conditions hold."""
        return all(condition.holds(attempt, round_) for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Script:
    """Steps in the order they are done."""

    steps: tuple[Step, ...]


def parse_script(text: str) -> Script:
    """Read a script, all of it, before anything is done.

    Raises:
        UsageError: A line makes no sense; `where` says which one.
    """
    lines = iter(enumerate(text.splitlines(), start=1))
    steps = (_step(number, line.strip(), lines) for number, line in lines)
    return Script(tuple(step for step in steps if step is not None))


_Lines = Iterator[tuple[int, str]]

_SIGNS: Mapping[str, Callable[[int, int], bool]] = MappingProxyType(
    {
        "": operator.eq,
        "=": operator.eq,
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
)
_CONDITION = re.compile(r"\[\s*(attempt|round)\s*([<>!=]?=|[<>]|)\s*(\d+)\s*\]\s*")
_HEREDOC = re.compile(r"<<\s*(\w+)$")


def _step(number: int, line: str, lines: _Lines) -> Step | None:
    if not line or line.startswith("#"):
        return None
    conditions, rest = _conditions(line)
    if not rest or rest.startswith("["):
        raise _wrong(number, line, "a condition looks like `[attempt 1]` or `[round >= 2]`, with a step after it")
    word, _, argument = rest.partition(" ")
    try:
        verb = Verb(word)
    except ValueError:
        raise _wrong(number, line, f"there is no step `{word}`; there are: {', '.join(Verb)}") from None
    return _with_argument(Step(number, verb, conditions), argument.strip(), line, lines)


def _conditions(line: str) -> tuple[tuple[Condition, ...], str]:
    found: list[Condition] = []
    while match := _CONDITION.match(line):
        found.append(Condition(match[1], match[2], int(match[3])))
        line = line[match.end() :]
    return tuple(found), line


def _with_argument(step: Step, argument: str, line: str, lines: _Lines) -> Step:
    if bool(argument) == (step.verb is Verb.HANG):
        raise _wrong(step.line, line, "hang takes no argument" if argument else f"{step.verb} what?")
    at, verb, conditions = step.line, step.verb, step.conditions
    match verb:
        case Verb.HANG:
            return step
        case Verb.SAY:
            return Step(at, verb, conditions, text=_text(at, argument, line, lines).rstrip("\n"))
        case Verb.COMMIT | Verb.FAIL | Verb.FATAL:
            return Step(at, verb, conditions, text=argument)
        case Verb.DELETE:
            return Step(at, verb, conditions, path=_path(at, argument, line))
        case Verb.EDIT | Verb.APPEND:
            path, _, text = argument.partition(" ")
            content = _text(at, text.strip(), line, lines)
            return Step(at, verb, conditions, path=_path(at, path, line), text=content)
        case Verb.RUN:
            return Step(at, verb, conditions, argv=_argv(at, argument, line))
        case Verb.SLEEP | Verb.COST | Verb.LIMIT:
            return Step(at, verb, conditions, number=_number(at, argument, line))
        case Verb.FLOOD | Verb.EXIT:
            return Step(at, verb, conditions, number=_whole(at, argument, line, 255 if verb is Verb.EXIT else None))


def _text(at: int, argument: str, line: str, lines: _Lines) -> str:
    """Return the text with a newline at its end: what follows in the line, or the lines up to the given word."""
    heredoc = _HEREDOC.match(argument)
    if heredoc is None:
        return argument + "\n" if argument else ""
    content: list[str] = []
    for _, following in lines:
        if following.strip() == heredoc[1]:
            return "".join(content)
        content.append(following + "\n")
    raise _wrong(at, line, f"no line `{heredoc[1]}` ends the text")


def _path(at: int, argument: str, line: str) -> str:
    path = PurePosixPath(argument)
    if not argument or " " in argument or path.is_absolute() or ".." in path.parts or not path.parts:
        raise _wrong(at, line, f"`{argument}` is no relative path without spaces that stays inside the directory")
    return str(path)


def _argv(at: int, argument: str, line: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(argument))
    except ValueError as error:
        raise _wrong(at, line, str(error).lower()) from error


def _number(at: int, argument: str, line: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise _wrong(at, line, f"`{argument}` is no number of 0 or more")
    return value


def _whole(at: int, argument: str, line: str, most: int | None) -> int:
    if not argument.isascii() or not argument.isdecimal() or (most is not None and int(argument) > most):
        limit = f"from 0 to {most}" if most is not None else "of 0 or more"
        raise _wrong(at, line, f"`{argument}` is no whole number {limit}")
    return int(argument)


def _wrong(at: int, line: str, what: str) -> UsageError:
    return UsageError(f"script line {at}: {what}", code="H122", where=f"script:{at}:1", excerpt=f"  {line}")
