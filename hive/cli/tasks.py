"""Task files and prompts from the command line to tasks, judged whole before anything is queued."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hive.cli.context import Context, database_path
from hive.cli.output import say
from hive.config import DEFAULT, Settings
from hive.model import NewTask, Phase
from hive.store import TaskQuery
from hive.taskfile import Context as Surroundings
from hive.taskfile import Format, read

if TYPE_CHECKING:
    from hive.api import SyncHive

STDIN = "-"
_SUFFIXES = frozenset({".yaml", ".yml", ".toml", ".jsonl", ".ndjson", ".md", ".markdown", ".txt"})
_PAGE = 1000


def read_files(ctx: Context, settings: Settings, files: Sequence[Path], *, each: bool = False) -> list[NewTask]:
    """Read task files; ``-`` is standard input. A task may need those of the files before it and those in the queue.

    Args:
        files: Relative ones are in the directory of ``-C``.
        each: Every line is a task.

    Raises:
        TaskFileError: One of them is wrong.
    """
    keys = StoredKeys(ctx, settings)
    around = surroundings(settings, keys)
    return [task for file in files for task in read_file(ctx, file, around, keys, each=each)]


def read_file(
    ctx: Context, file: Path, around: Surroundings, keys: StoredKeys, *, each: bool = False
) -> Sequence[NewTask]:
    """Read one task file and note its keys in `keys`; see `read_files`."""
    if str(file) == STDIN:
        found = read(None, sys.stdin.buffer.read(), around, each=each)
    else:
        found = read(file if ctx.directory == Path.cwd() else ctx.directory / file, None, around, each=each)
    for note in found.notes:
        say(ctx, f"{file}: {note}")
    keys.learn(found.tasks)
    return found.tasks


def read_prompt(prompt: str, around: Surroundings) -> NewTask:
    """Return the task a prompt on the command line asks for; without a key, so that it is a new one each time.

    Raises:
        TaskFileError: It is blank, or too long.
    """
    (task,) = read(None, prompt.encode("utf-8", "surrogateescape"), around, chosen=Format.PROMPT).tasks
    return replace(task, key=None)


def surroundings(
    settings: Settings,
    stored: Mapping[str, Collection[str]],
    *,
    batch: str | None = None,
    phases: tuple[Phase, ...] | None = None,
) -> Surroundings:
    """Return what task files are read against."""
    from hive.agent.script import parse_script

    def check_script(text: str) -> None:
        parse_script(text)

    chosen = settings.phases if settings.origin("phases") != DEFAULT else None
    return Surroundings(
        root=settings.repo,
        batch=batch,
        phases=phases or chosen,
        has_test=bool(settings.test),
        stored=stored,
        check_script=check_script,
    )


def is_file(ctx: Context, word: str) -> bool:
    """Return whether a word of the command line means a task file rather than a prompt."""
    if word == STDIN:
        return True
    if "\n" in word or len(word) > 1000:
        return False
    # os.path, since pathlib raises for what no file could be called.
    return os.path.isfile(ctx.directory / word) or (  # noqa: PTH113
        not any(char.isspace() for char in word) and Path(word).suffix.lower() in _SUFFIXES
    )


class StoredKeys(Mapping[str, Collection[str]]):
    """The keys in the queue by batch, read when a batch is first asked for: most files never ask."""

    def __init__(self, ctx: Context, settings: Settings) -> None:
        self._ctx = ctx
        self._settings = settings
        self._keys: dict[str, set[str]] = {}

    def learn(self, tasks: Sequence[NewTask]) -> None:
        """Note tasks that will be in the queue."""
        for task in tasks:
            if task.key is not None:
                self._of(task.batch).add(task.key)

    def __getitem__(self, batch: str) -> Collection[str]:
        return self._of(batch)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _of(self, batch: str) -> set[str]:
        if batch not in self._keys:
            self._keys[batch] = set(self._read(batch))
        return self._keys[batch]

    def _read(self, batch: str) -> Iterator[str]:
        if not database_path(self._settings).exists():
            return
        with self._ctx.queue(self._settings) as hive:
            yield from _keys(hive, batch)


def _keys(hive: SyncHive, batch: str) -> Iterator[str]:
    query = TaskQuery(batch=batch, limit=_PAGE)
    while page := hive.tasks(query):
        yield from (task.spec.key for task in page if task.spec.key is not None)
        query = replace(query, after_id=page[-1].id)
