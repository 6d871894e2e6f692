"""From entries of plain values to `NewTask`s: defaults, checks across keys, titles, keys nobody wrote."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.errors import HiveError
from hive.model import NewTask, Phase, WorkspaceKind
from hive.source import KeyPath, did_you_mean, quoted
from hive.taskfile.document import Entry
from hive.taskfile.graph import Keys, Needs
from hive.taskfile.keys import KEYS, Key, check_prompt_size
from hive.taskfile.problems import Problems
from hive.values import BadValueError

_TITLE = 80
_NO_NUL = "holds a NUL character"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What tasks are judged against.

    Attributes:
        directory: Where prompt files and other repositories are looked for.
        batch: Name for tasks that name none.
        own_batches: Tasks may name a batch.
        phases: Pipeline somebody chose for all; None: apply, and test where there is a test command.
        has_test: The settings know a test command.
        check_script: Raises `HiveError` or ValueError for a script that cannot be played.
    """

    directory: Path
    batch: str
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
        """Return the tasks of all entries that are right."""
        allowed = {name for name in KEYS if name != "batch" or self._around.own_batches} - {"matrix"}
        built = (self._task(entry, allowed) for entry in entries)
        made = [one for one in built if one is not None]
        return [self._keyed(task, entry) for task, entry in made]

    def _task(self, entry: Entry, allowed: set[str]) -> tuple[NewTask, Entry] | None:
        before = self._problems.count
        values = self._joined(self._parsed(entry, allowed))
        values.setdefault("batch", self._around.batch)
        if "key" in values:
            self._keys.claim(values["batch"], values["key"], entry.path)
        self._read_prompt(values, entry.path)
        self._choose_agent(values, entry.path)
        self._choose_phases(values, entry.path)
        self._check_work(values, entry.path)
        self._check_places(values, entry.path)
        if self._problems.count > before:
            return None
        values["title"] = _title(values)
        return NewTask(**values), entry

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
        message = f"there is no key {quoted(name)}"
        if name in KEYS:
            where = "stands at the top of the file" if name == "batch" else "cannot have a default"
            message = f"the key {quoted(name)} {where}"
        self._problems.add("H111", message, path, on_key=True, note=lambda: did_you_mean(name, sorted(allowed - {name})))

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
            check_prompt_size(values["prompt"])
        except BadValueError as error:
            self._problems.add(error.code or "H123", f"`prompt_file` {error.message}", here, note=error.note)
            values["prompt"] = "?"  # so that a missing prompt is not complained about as well

    def _choose_agent(self, values: dict[str, Any], path: KeyPath) -> None:
        """Let `command` and `script` name their agents, and refuse what contradicts."""
        for key, agent in (("command", "command"), ("script", "scripted")):
            if values.get(key) and values.setdefault("agent", agent) != agent:
                message = f"`{key}` is for the agent {agent}, not for {values['agent']}"
                self._problems.add("H114", message, (*path, key), on_key=True)
            if values.get("agent") == agent and not values.get(key) and key not in values:
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

    def _check_work(self, values: Mapping[str, Any], path: KeyPath) -> None:
        """Refuse a task that asks for nothing."""
        if values.get("command") or values.get("script") or values.get("agent") in {"command", "scripted"}:
            return
        if Phase.APPLY in values["phases"] and not values.get("prompt", "").strip():
            self._problems.add("H116", "the task has no prompt", (*path, "prompt"))

    def _check_places(self, values: dict[str, Any], path: KeyPath) -> None:
        """Make `repo` absolute; it must exist."""
        written = values.get("repo")
        if written is None:
            return
        if written not in self._repos:
            self._repos[written] = str((self._around.directory / Path(written).expanduser()).resolve())
        values["repo"] = self._repos[written]
        if not _is_directory(Path(values["repo"])):
            self._problems.add("H114", f"`repo` {quoted(written)} is no directory", (*path, "repo"))

    def _keyed(self, task: NewTask, entry: Entry) -> NewTask:
        return task
