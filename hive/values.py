"""What people write for a setting or a task key, turned into our types: durations, counts, argument lists, phases.

One kind for each shape of value, shared by settings and task files, so that `10m` means the same everywhere.
Does not know names of settings or keys, nor where a value stands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from hive.model import Json, Phase
from hive.source import KeyPath, did_you_mean, quoted

T_co = TypeVar("T_co", covariant=True)

AVAILABLE_PHASES = (Phase.APPLY, Phase.TEST)  # what this version can carry out
PERMISSION_MODES = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "manual", "plan")
"""Source: `claude --help`, 2.1.330."""

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_QUANTITY = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHELL_WORD = re.compile(r"&&|\|\|?|;|&|\d?(?:>>?|<<?)(?:&\d|.+)?|.+;")
_COMMAS = re.compile(r",(?![^()]*\))")


class BadValueError(ValueError):
    """A value is not what its place takes.

    Args:
        message: Goes behind the name of the key: ``must be ...``.
        at: Where inside the value: an index or a key.
        code: Error code when it has one of its own.
        note: What was probably meant, or empty.
    """

    def __init__(self, message: str, *, at: KeyPath = (), code: str = "", note: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.code = code
        self.note = note


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A shape of value.

    Attributes:
        noun: How people are told about it: ``a whole number from 1 to 8``.
        parse: From what YAML, TOML or JSON gave to our type; raises `BadValueError`.
        schema: The same as JSON Schema.
        from_text: From an environment variable or a flag to what `parse` takes.
    """

    noun: str
    parse: Callable[[object], T_co]
    schema: Mapping[str, Json]
    from_text: Callable[[str], object]


def text(noun: str = "text", *, blank: bool = False) -> Kind[str]:
    """Any text without NUL; not blank unless `blank`."""

    def parse(raw: object) -> str:
        value = _text(raw, noun)
        if not blank and not value.strip():
            raise BadValueError("is empty")
        return value

    return Kind(noun, parse, {"type": "string"} if blank else {"type": "string", "minLength": 1}, _as_is)


def word(noun: str) -> Kind[str]:
    """One word that cannot be taken for an option of a command."""

    def parse(raw: object) -> str:
        value = _text(raw, noun)
        if not value or not value.isprintable() or any(char.isspace() for char in value):
            raise BadValueError(f"must be {noun} without blanks, not {quoted(value)}")
        if value.startswith("-"):
            raise BadValueError(f"must not begin with a dash, as {quoted(value)} does")
        return value

    return Kind(noun, parse, {"type": "string", "pattern": r"^[^\s-]\S*$"}, _as_is)


def name(noun: str) -> Kind[str]:
    """What people call a task or batch: printable, at most 200 characters, no blanks at its ends."""

    def parse(raw: object) -> str:
        value = _text(raw, noun)
        if not value or len(value) > 200 or not value.isprintable() or value != value.strip():
            raise BadValueError(f"must be {noun} of 1 to 200 printable characters, not {quoted(value)}")
        return value

    return Kind(noun, parse, {"type": "string", "minLength": 1, "maxLength": 200}, _as_is)


def whole(low: int, high: int) -> Kind[int]:
    """A whole number in a range."""
    noun = f"a whole number from {low} to {high}"

    def parse(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise _wrong(noun, raw)
        return raw

    return Kind(noun, parse, {"type": "integer", "minimum": low, "maximum": high}, _number_from_text)


def amount(high: float) -> Kind[float]:
    """A number greater than 0, such as dollars."""
    noun = f"a number above 0, at most {high:g}"

    def parse(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw <= high:
            raise _wrong(noun, raw)
        return float(raw)

    return Kind(noun, parse, {"type": "number", "exclusiveMinimum": 0, "maximum": high}, _number_from_text)


def flag() -> Kind[bool]:
    """True or false."""

    def parse(raw: object) -> bool:
        if not isinstance(raw, bool):
            raise _wrong("true or false", raw, _meant_flag(raw))
        return raw

    return Kind("true or false", parse, {"type": "boolean"}, _flag_from_text)


def duration(low_s: float, high_s: float) -> Kind[float]:
    """Seconds: a number, or text such as ``90s``, ``10m``, ``2h``."""
    noun = f"a duration from {_in_units(low_s)} to {_in_units(high_s)} such as 90s, 10m or 2h"

    def parse(raw: object) -> float:
        seconds = _quantity(raw, _UNITS_S, noun)
        if not low_s <= seconds <= high_s:
            raise _wrong(noun, raw)
        return seconds

    types: Json = [{"type": "number", "minimum": low_s, "maximum": high_s}, _pattern(r"^\d+(\.\d+)?(ms|s|m|h|d)?$")]
    return Kind(noun, parse, {"anyOf": types}, _as_is)


def size(low: int, high: int) -> Kind[int]:
    """Bytes: a number, or text such as ``500MB``, ``1GiB``."""
    noun = f"a size from {low} to {high} bytes such as 500MB or 1GiB"

    def parse(raw: object) -> int:
        value = round(_quantity(raw.upper() if isinstance(raw, str) else raw, _UNITS_BYTES, noun))
        if not low <= value <= high:
            raise _wrong(noun, raw)
        return value

    return Kind(noun, parse, {"type": ["integer", "string"]}, _as_is)


def choice(*options: str) -> Kind[str]:
    """One of a few words."""
    noun = f"one of {', '.join(options)}"

    def parse(raw: object) -> str:
        if raw not in options:
            raise _wrong(noun, raw, did_you_mean(str(raw), options))
        return str(raw)

    return Kind(noun, parse, {"enum": list(options)}, _as_is)


def several(item: Kind[str]) -> Kind[tuple[str, ...]]:
    """A list of texts; a single text stands for a list of one."""
    noun = f"a list, each item {item.noun}"

    def parse(raw: object) -> tuple[str, ...]:
        return tuple(_each(raw if isinstance(raw, list | tuple) else [raw], item.parse, noun))

    schema: Json = [item.schema, {"type": "array", "items": item.schema}]
    return Kind(noun, parse, {"anyOf": schema}, _split_commas)


def argv(*, from_string: bool) -> Kind[tuple[str, ...]]:
    """An argument list; with `from_string` also one text, split as a shell would but run without one."""
    noun = "a list of texts, run without a shell" + (", or one text" if from_string else "")
    argument = text("text", blank=True)

    def parse(raw: object) -> tuple[str, ...]:
        if isinstance(raw, str) and from_string:
            return _split(raw)
        if isinstance(raw, str):
            raise BadValueError("must be a list of texts, not one text", note=f"write {_as_list(raw)}")
        if not isinstance(raw, list | tuple):
            raise _wrong(noun, raw)
        words = tuple(_each(raw, argument.parse, noun))
        if words and not words[0].strip():
            raise BadValueError("must begin with the name of a program", at=(0,))
        if not words and not from_string:
            raise BadValueError("is empty")
        return words

    array: Json = {"type": "array", "items": {"type": "string"}, "minItems": 0 if from_string else 1}
    return Kind(noun, parse, {"anyOf": [{"type": "string"}, array]} if from_string else {"allOf": [array]}, _as_is)


def phases() -> Kind[tuple[Phase, ...]]:
    """A pipeline: phases in their natural order, none twice."""
    noun = "a list of phases"

    def parse(raw: object) -> tuple[Phase, ...]:
        items = raw if isinstance(raw, list | tuple) else [raw]
        found = tuple(_phase(item, index) for index, item in enumerate(items))
        order = [list(Phase).index(phase) for phase in found]
        if not found or order != sorted(set(order)):
            raise BadValueError("must name each phase once, in the order apply, test", note="write [apply, test]")
        return found

    available: Json = [phase.value for phase in AVAILABLE_PHASES]
    return Kind(noun, parse, {"type": "array", "items": {"enum": available}, "minItems": 1}, _split_commas)


def environment() -> Kind[Mapping[str, str]]:
    """Names and values for a process."""
    noun = "a table of names and texts"

    def parse(raw: object) -> Mapping[str, str]:
        values = {}
        for variable, value in _pairs(raw, noun):
            env_name(variable, at=(variable,))
            values[variable] = _inside(variable, partial(_text, value, "text"))
        return values

    schema: Json = {"type": "string"}
    return Kind(noun, parse, {"type": "object", "additionalProperties": schema}, _pairs_from_text)


def counts(low: int, high: int) -> Kind[Mapping[str, int]]:
    """A table of names and whole numbers."""
    noun = "a table of names and whole numbers"
    each = whole(low, high)

    def parse(raw: object) -> Mapping[str, int]:
        return {label: _inside(label, partial(each.parse, value)) for label, value in _pairs(raw, noun)}

    def from_text(given: str) -> object:
        pairs = _pairs_from_text(given)
        return {label: _number_from_text(value) for label, value in pairs.items()}

    return Kind(noun, parse, {"type": "object", "additionalProperties": each.schema}, from_text)


def variable_names() -> Kind[tuple[str, ...]]:
    """Names of environment variables."""
    return several(Kind("the name of an environment variable", env_name, {"type": "string"}, _as_is))


def optional(kind: Kind[T_co]) -> Kind[T_co | None]:
    """The kind, or the word ``none`` for no limit."""

    def parse(raw: object) -> T_co | None:
        return None if raw == "none" else kind.parse(raw)

    def from_text(given: str) -> object:
        return given if given == "none" else kind.from_text(given)

    return Kind(f"{kind.noun}, or none", parse, {"anyOf": [kind.schema, {"const": "none"}]}, from_text)


def env_name(raw: object, at: KeyPath = ()) -> str:
    """Return the name of an environment variable people may set; `HIVE_` names are the engine's."""
    if not isinstance(raw, str) or not _ENV_NAME.fullmatch(raw):
        raise BadValueError(f"must name an environment variable, not {quoted(raw)}", at=at)
    if raw.startswith("HIVE_"):
        raise BadValueError(f"must not set {quoted(raw)}: names beginning with HIVE_ are Hive's own", at=at)
    return raw


def _text(raw: object, noun: str) -> str:
    if not isinstance(raw, str):
        raise _wrong(noun, raw, "write it in quotes" if isinstance(raw, int | float) else "")
    if "\0" in raw:
        raise BadValueError("holds a NUL character")
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            raise BadValueError("holds half a surrogate pair, which is no character") from None
    return raw


def _wrong(noun: str, raw: object, note: str = "") -> BadValueError:
    given = "a list" if isinstance(raw, list | tuple) else "a table" if isinstance(raw, dict) else quoted(raw)
    return BadValueError(f"must be {noun}, not {given}", note=note)


def _each(raw: Sequence[object], parse: Callable[[object], str], noun: str) -> list[str]:
    """Parse the items, and say which one is wrong."""
    items = []
    for index, item in enumerate(raw):
        if isinstance(item, list | dict):
            raise BadValueError(f"must be {noun}", at=(index,))
        try:
            items.append(parse(item))
        except BadValueError as error:
            raise BadValueError(error.message, at=(index, *error.at), code=error.code, note=error.note) from None
    return items


def _inside(label: str, parse: Callable[[], T_co]) -> T_co:
    try:
        return parse()
    except BadValueError as error:
        raise BadValueError(f"{quoted(label)} {error.message}", at=(label, *error.at), note=error.note) from None


def _pairs(raw: object, noun: str) -> list[tuple[str, object]]:
    if not isinstance(raw, dict):
        raise _wrong(noun, raw)
    return [(_text(label, "text"), value) for label, value in raw.items()]


def _phase(raw: object, index: int) -> Phase:
    try:
        phase = Phase(_text(raw, "the name of a phase"))
    except BadValueError as error:
        raise BadValueError(error.message, at=(index,)) from None
    except ValueError:
        note = did_you_mean(str(raw), [phase.value for phase in AVAILABLE_PHASES])
        raise BadValueError(f"names no phase: {quoted(raw)}", at=(index,), note=note) from None
    if phase not in AVAILABLE_PHASES:
        message = f"names {quoted(raw)}, which is not in this version; it has {' and '.join(AVAILABLE_PHASES)}"
        raise BadValueError(message, at=(index,), code="H120")
    return phase


def _split(command: str) -> tuple[str, ...]:
    """Split as a shell would, and refuse what only a shell could do."""
    _text(command, "text")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise BadValueError(f"cannot be split into words: {str(error).lower()}") from None
    for one in words:
        if _SHELL_WORD.fullmatch(one) or "$(" in one:
            script = command.replace("\\", "\\\\").replace('"', '\\"')
            note = f'write ["sh", "-c", "{script}"]'
            raise BadValueError(f"is run without a shell, so {quoted(one)} would be a plain argument", note=note)
    return words


def _as_list(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return "[" + ", ".join(f'"{one}"' for one in words) + "]"


def _quantity(raw: object, units: Mapping[str, float], noun: str) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return min(float(raw), 1e18) if raw < 1e18 else 1e18  # also for integers too large for a float
    match = _QUANTITY.fullmatch(raw) if isinstance(raw, str) else None
    if match is None or match[2] not in units:
        raise _wrong(noun, raw)
    return float(match[1]) * units[match[2]]


def _in_units(seconds: float) -> str:
    unit = max(
        (unit for unit in "smhd" if seconds and seconds % _UNITS_S[unit] == 0), key=_UNITS_S.__getitem__, default="s"
    )
    return f"{seconds / _UNITS_S[unit]:g}{unit}"


def _pattern(pattern: str) -> Json:
    return {"type": "string", "pattern": pattern}


def _meant_flag(raw: object) -> str:
    meant = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}
    found = meant.get(str(raw).lower())
    return f"did you mean `{found}`?" if found else ""


def _as_is(given: str) -> object:
    return given


def _number_from_text(given: str) -> object:
    for number in (int, float):
        try:
            return number(given)
        except ValueError:
            continue
    return given


def _flag_from_text(given: str) -> object:
    if given.lower() in {"1", "true", "yes", "on"}:
        return True
    return False if given.lower() in {"0", "false", "no", "off"} else given


def _split_commas(given: str) -> object:
    """Split at commas that are not inside parentheses: permission rules hold some."""
    return [part.strip() for part in _COMMAS.split(given) if part.strip()]


def _pairs_from_text(given: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in given.split(",") if part.strip())
    return {label.strip(): value.strip() for label, _, value in pairs}
