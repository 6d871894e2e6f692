"""The table of keys a task may have. Reading, suggestions, JSON Schema and docs all follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from hive.model import Json, WorkspaceKind
from hive.source import quoted
from hive.values import (
    PERMISSION_MODES,
    BadValueError,
    Kind,
    amount,
    argv,
    choice,
    duration,
    environment,
    flag,
    name,
    phases,
    several,
    text,
    whole,
    word,
)

MAX_PROMPT_BYTES = 10_000_000
"""Source: the claude CLI 2.1.330 takes 10 MB on stdin and exits with 1 on 11 MB."""

_MONTH_S = 30 * 86_400.0
_BYPASS = "bypassPermissions"


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes:
        name: As it is written.
        field: Name in `NewTask`, or its own where `build` makes something of it.
        kind: What may be written.
        doc: One line for people.
        shared: May stand in `defaults` too.
    """

    name: str
    field: str
    kind: Kind[object]
    doc: str
    shared: bool = True


def _prompt() -> Kind[str]:
    plain = text(blank=True)

    def parse(raw: object) -> str:
        value = plain.parse(raw)
        check_prompt_size(value)
        return value

    return Kind(plain.noun, parse, {"type": "string"}, plain.from_text)


def check_prompt_size(prompt: str) -> None:
    """Raise `BadValueError` for a prompt the claude CLI would not take."""
    if len(prompt) * 4 > MAX_PROMPT_BYTES and (size := len(prompt.encode())) > MAX_PROMPT_BYTES:
        raise BadValueError(f"has {size:,} bytes; at most {MAX_PROMPT_BYTES:,} can be handed over", code="H117")


def _workspace() -> Kind[WorkspaceKind]:
    plain = choice(*(kind.value for kind in WorkspaceKind))
    return Kind(plain.noun, lambda raw: WorkspaceKind(plain.parse(raw)), plain.schema, plain.from_text)


def _permission_mode() -> Kind[str]:
    plain = choice(*PERMISSION_MODES)

    def parse(raw: object) -> str:
        if raw == _BYPASS:  # a task file may come from anybody; the engine's flag comes from its owner
            raise BadValueError(f"cannot be {_BYPASS} in a task file; give the flag --permission-mode {_BYPASS}")
        return plain.parse(raw)

    modes: Json = [mode for mode in PERMISSION_MODES if mode != _BYPASS]
    return Kind(plain.noun, parse, {"enum": modes}, plain.from_text)


def _inside(noun: str) -> Kind[str]:
    """A relative path that stays below where it starts."""
    plain = text(noun)

    def parse(raw: object) -> str:
        value = plain.parse(raw)
        path = PurePosixPath(value.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or value[1:2] == ":":
            raise BadValueError(f"must stay below its directory, which {quoted(value)} does not", code="H118")
        return value

    return Kind(noun, parse, {"type": "string", "minLength": 1}, plain.from_text)


def _matrix() -> Kind[Mapping[str, object]]:
    """Axes: shape only; `hive.taskfile.matrix` judges and expands them before anything else is parsed."""
    axis: Json = {"anyOf": [{"type": "string", "pattern": "^glob:"}, {"type": "array", "minItems": 1}]}

    def parse(raw: object) -> Mapping[str, object]:
        if not isinstance(raw, dict):
            raise BadValueError(f"must be a table of names and lists, not {quoted(raw)}", code="H119")
        return raw

    return Kind("a table of names and lists", parse, {"type": "object", "additionalProperties": axis}, lambda raw: raw)


_SECONDS = duration(0.001, _MONTH_S)

KEYS: Mapping[str, Key] = {
    key.name: key
    for key in (
        Key("key", "key", name("a key"), "name in its batch; adding it twice adds it once", shared=False),
        Key("batch", "batch", name("a batch"), "its batch; in JSON lines only", shared=False),
        Key("title", "title", text(blank=True), "one line for people; else the prompt's first", shared=False),
        Key("prompt", "prompt", _prompt(), "what the agent is asked to do", shared=False),
        Key("prompt_file", "prompt_file", _inside("a path"), "file below this one that holds it", shared=False),
        Key("command", "command", argv(from_string=False), "argument list to run instead of an agent; no shell"),
        Key("script", "script", text("text"), "what the scripted agent plays"),
        Key("agent", "agent", choice("claude", "command", "scripted"), "who does the work"),
        Key("workspace", "workspace", _workspace(), "repo: a git worktree of its own; fresh: empty; none: right here"),
        Key("repo", "repo", text("a path"), "git repository to work in, if another one"),
        Key("base", "base", word("a commit or branch"), "where its branch starts"),
        Key("test", "test", argv(from_string=True), "command that must exit with 0; [] for none; no shell"),
        Key("phases", "phases", phases(), "what it goes through"),
        Key("role", "role", word("a role"), "role, for limits per role"),
        Key("priority", "priority", whole(-1000, 1000), "higher starts first"),
        Key("after", "after", several(name("a key")), "keys of the tasks that must be completed before", shared=False),
        Key("tags", "tags", several(word("a tag")), "words to find it by"),
        Key("paths", "paths", several(_inside("a path")), "files it is about"),
        Key("model", "model", word("a model"), "model to use"),
        Key("max_turns", "max_turns", whole(1, 10_000), "longest conversation of a run"),
        Key("permission_mode", "permission_mode", _permission_mode(), "what the agent may do unasked"),
        Key("allowed_tools", "allowed_tools", several(text("a permission rule")), "tools it may use unasked"),
        Key("task_budget", "budget_usd", amount(100_000), "most dollars a run may cost"),
        Key("timeout", "timeout_s", _SECONDS, "longest run"),
        Key("idle_timeout", "idle_timeout_s", _SECONDS, "longest silence"),
        Key("retries", "retries", whole(0, 1000), "attempts after the first one in each phase"),
        Key("rounds", "rounds", whole(0, 1000), "times a red test sends it back"),
        Key("hold", "hold", flag(), "queued, but not started until released"),
        Key("allow_no_change", "allow_no_change", flag(), "an apply that changes nothing counts as done"),
        Key("env", "env", environment(), "environment variables; defaults and task are joined"),
        Key("matrix", "matrix", _matrix(), "makes one task for each combination of values", shared=False),
    )
}


def schema() -> dict[str, Json]:
    """Return the JSON Schema of a task file in YAML or JSON lines; TOML has ``task`` for ``tasks``."""
    task: Json = {
        "type": "object",
        "properties": {key.name: {"description": key.doc, **key.kind.schema} for key in KEYS.values()},
        "additionalProperties": False,
    }
    names = [key.name for key in KEYS.values() if key.shared]
    shared: Json = {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/task/properties/{name}"} for name in names},
        "additionalProperties": False,
    }
    tasks: Json = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/task"}}
    whole_file: Json = {
        "type": "object",
        "properties": {"batch": KEYS["batch"].kind.schema, "defaults": {"$ref": "#/$defs/defaults"}, "tasks": tasks},
        "required": ["tasks"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hive task file",
        "anyOf": [whole_file, tasks],
        "$defs": {"task": task, "defaults": shared},
    }
