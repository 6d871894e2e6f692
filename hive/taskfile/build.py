"""From entries of plain values to `NewTask`s: defaults, checks across keys, titles, keys nobody wrote."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.errors import HiveError
from hive.model import NewTask, Phase, WorkspaceKind
from hive.source import KeyPath, did_you_mean, printable, quoted
from hive.taskfile.document import Entry
from hive.taskfile.graph import Keys, Needs
from hive.taskfile.keys import KEYS, MAX_PROMPT_BYTES, Key, check_prompt_size
from hive.taskfile.problems import Problems
from hive.values import BadValueError

_TITLE = 80
_SLUG = 40
_WORK = frozenset({"prompt", "prompt_file", "command", "script"})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What tasks are judged against.

    Attributes:
        directory: Where prompt files and other repositories are looked for.
        batch: Name for tasks that name none, or for all when `batch_wins`.
        own_batches: Tasks may name a batch.
        phases: Pipeline somebody chose for all; None: apply, and test where there is a test command.
        has_test: The settings know a test command.
        check_script: Raises `HiveError` or ValueError for a script that cannot be played.
    """

    directory: Path
    batch: str
    batch_wins: bool
    own_batches: bool
    phases: tuple[Phase, ...] | None
    has_test: bool
    check_script: Callable[[str], None] | None


class Builder:
    """Builds the tasks of one file; what is wrong goes to `problems`."""

    def __init__(self, around: Surroundings, keys: Keys, problems: Problems) -> None:
        self._around = around
        self._keys = keys
        self._problems = problems
        self._defaults: dict[str, Any] = {}
        self._repos: dict[str, str] = {}
        self.needs: list[Needs] = []

    def defaults(self, entry: Entry) -> None:
        """Take the defaults of the file."""
        allowed = {name for name, key in KEYS.items() if key.shared}
        self._defaults = self._parsed(entry, allowed)

    def tasks(self, entries: Iterable[Entry]) -> list[NewTask]:
        """Return the tasks, and note in `needs` what they wait for."""
        allowed = {name for name in KEYS if name != "batch" or self._around.own_batches}
        built = [(self._values(entry, allowed), entry.path) for entry in entries]
        return [self._finished(values, path) for values, path in built]

    def _values(self, entry: Entry, allowed: set[str]) -> dict[str, Any]:
        values = self._joined(self._parsed(entry, allowed))
        if self._around.batch_wins or "batch" not in values:
            values["batch"] = self._around.batch
        if "key" in values:
            self._keys.claim(values["batch"], values["key"], entry.path)
        self._read_prompt(values, entry.path)
        self._choose_agent(values, entry)
        self._choose_phases(values, entry.path)
        self._check_work(values, entry)
        self._check_repo(values, entry.path)
        return values

    def _finished(self, values: dict[str, Any], path: KeyPath) -> NewTask:
        """Give title and key; keys are made only now, since they must avoid those that were written."""
        values["title"] = _title(values)
        if "key" not in values:
            values["key"] = self._keys.free(values["batch"], _key(values), path)
        if "after" in values:
            self.needs.append(Needs(values["batch"], values["key"], values["after"], path))
        return NewTask(**values)

    def _parsed(self, entry: Entry, allowed: set[str]) -> dict[str, Any]:
        """Return the values by field; null counts as not given."""
        parsed: dict[str, Any] = {}
        for name, raw in entry.values.items():
            key = KEYS.get(name)
            if key is None or name not in allowed:
                self._unknown(name, allowed, (*entry.path, name))
            elif raw is not None:
                try:
                    parsed[key.field] = key.kind.parse(raw)
                except BadValueError as error:
                    self._wrong(key, error, entry.path)
        return parsed

    def _unknown(self, name: str, allowed: set[str], path: KeyPath) -> None:
        if name in KEYS:
            where = "stands at the top of the file" if name == "batch" else "cannot have a default"
            self._problems.add("H111", f"the key {quoted(name)} {where}", path, on_key=True)
            return
        message = f"there is no key {quoted(name)}"
        self._problems.add("H111", message, path, on_key=True, note=lambda: did_you_mean(name, sorted(allowed)))

    def _wrong(self, key: Key, error: BadValueError, path: KeyPath) -> None:
        code = error.code or "H114"
        self._problems.add(code, f"`{key.name}` {error.message}", (*path, key.name, *error.at), note=error.note)

    def _joined(self, own: dict[str, Any]) -> dict[str, Any]:
        joined = {**self._defaults, **own}
        if "env" in self._defaults and "env" in own:
            joined["env"] = {**self._defaults["env"], **own["env"]}
        if "after" in own:
            joined["after"] = tuple(dict.fromkeys(own["after"]))
        return joined

    def _read_prompt(self, values: dict[str, Any], path: KeyPath) -> None:
        written = values.pop("prompt_file", None)
        if written is None:
            return
        here = (*path, "prompt_file")
        if "prompt" in values:
            self._problems.add("H114", "`prompt` and `prompt_file` exclude each other", here, on_key=True)
            return
        try:
            values["prompt"] = _file_content(self._around.directory, written)
        except BadValueError as error:
            self._problems.add(error.code or "H123", f"`prompt_file` {error.message}", here, note=error.note)
            values["prompt"] = "?"  # so that a missing prompt is not complained about as well

    def _choose_agent(self, values: dict[str, Any], entry: Entry) -> None:
        """Let `command` and `script` name their agents, and refuse what contradicts."""
        path = entry.path
        for key, agent in (("command", "command"), ("script", "scripted")):
            if values.get(key) and values.setdefault("agent", agent) != agent:
                message = f"`{key}` is for the agent {agent}, not for {values['agent']}"
                self._problems.add("H114", message, (*path, key), on_key=True)
            if values.get("agent") == agent and key not in values and key not in entry.values:
                self._problems.add("H116", f"the agent {agent} needs `{key}`", (*path, "agent"))
        script = values.get("script")
        if script and self._around.check_script:
            try:
                self._around.check_script(script)
            except (HiveError, ValueError) as error:
                self._problems.add("H122", f"`script` cannot be played: {error}", (*path, "script"))

    def _choose_phases(self, values: dict[str, Any], path: KeyPath) -> None:
        in_repo = values.get("workspace", WorkspaceKind.REPO) is WorkspaceKind.REPO
        tested = bool(values["test"]) if "test" in values else self._around.has_test
        if "phases" in values:
            if Phase.TEST in values["phases"] and not tested:
                self._problems.add("H114", "`phases` has test, but there is no test command", (*path, "phases"))
            return
        wanted = self._around.phases or ((Phase.APPLY, Phase.TEST) if tested else (Phase.APPLY,))
        if not tested or not (in_repo or "test" in values):
            wanted = tuple(phase for phase in wanted if phase is not Phase.TEST)
        values["phases"] = wanted or (Phase.APPLY,)

    def _check_work(self, values: Mapping[str, Any], entry: Entry) -> None:
        """Refuse a task that asks for nothing; what was written wrongly has been complained about already."""
        if values.get("agent") in {"command", "scripted"} or Phase.APPLY not in values["phases"]:
            return
        unread = any(
            key not in KEYS or (key in _WORK and raw is not None and key not in values)
            for key, raw in entry.values.items()
        )
        if not unread and not values.get("prompt", "").strip():
            self._problems.add("H116", "the task has no prompt", (*entry.path, "prompt"))

    def _check_repo(self, values: dict[str, Any], path: KeyPath) -> None:
        """Make `repo` absolute; it must exist."""
        written = values.get("repo")
        if written is None:
            return
        if written not in self._repos:
            self._repos[written] = os.path.realpath(self._around.directory / written)
        values["repo"] = self._repos[written]
        if not os.path.isdir(values["repo"]):  # noqa: PTH112 - Path.is_dir raises for names that are too long
            self._problems.add("H114", f"`repo` {quoted(written)} is no directory", (*path, "repo"))


def _file_content(directory: Path, written: str) -> str:
    """Return a prompt from a file beside the task file, symbolic links included."""
    base = os.path.realpath(directory)
    path = Path(os.path.realpath(directory / written))
    if not path.is_relative_to(base):
        raise BadValueError(f"must stay below {base}, which {quoted(written)} does not", code="H118")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadValueError(f"{quoted(written)} is no file")
        with path.open("rb") as file:
            content = file.read(MAX_PROMPT_BYTES * 2)
    except OSError as error:
        note = _meant_file(directory / written)
        raise BadValueError(f"{quoted(written)} cannot be read: {_reason(error)}", note=note) from None
    try:
        prompt = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadValueError(f"{quoted(written)} is not UTF-8") from None
    if "\0" in prompt:
        raise BadValueError(f"{quoted(written)} holds a NUL character")
    if not prompt.strip():
        raise BadValueError(f"{quoted(written)} is empty", code="H116")
    check_prompt_size(prompt)
    return prompt


def _reason(error: OSError) -> str:
    return (error.strerror or "unreadable").lower()


def _meant_file(path: Path) -> str:
    try:
        names = sorted(one.name for one in path.parent.iterdir())
    except OSError:
        return ""  # the file's own error has been told
    return did_you_mean(path.name, names)


def _title(values: Mapping[str, Any]) -> str:
    """Return the title that was given, or the first line of what is to be done."""
    written = " ".join(str(values.get("title", "")).split())
    if written:
        return printable(written)
    command = values.get("command")
    told = str(values.get("prompt", "") or (shlex.join(command) if command else "") or values.get("script", ""))
    first = next((line for line in told.splitlines() if line.strip()), str(values.get("key", "task")))
    first = " ".join(first[: _TITLE * 4].split())
    return printable(first if len(first) <= _TITLE else first[: _TITLE - 1] + "…")


def _key(values: Mapping[str, Any]) -> str:
    """Return a key made of the content, wherever in the file it stands, so that adding it again adds nothing."""
    slug = re.sub(r"[^a-z0-9]+", "-", values["title"].lower()).strip("-")[:_SLUG].strip("-")
    content = [values["title"], values.get("prompt", ""), values.get("script", ""), values.get("repo") or ""]
    told = "\0".join([*content, *values.get("command", ())])  # no text holds NUL
    return f"{slug or 'task'}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"
