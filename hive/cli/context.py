"""What every verb gets: where to look, how to print, what may be asked, and how to open the queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hive.clock import Clock, SystemClock
from hive.errors import NotReady

if TYPE_CHECKING:
    from hive.api import SyncHive
    from hive.config import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The global options, and what they stand for.

    Attributes:
        environ: The environment of this process.
        directory: Where ``-C`` points; paths on the command line are relative to it.
        json, jsonl: Print data for programs.
        color: ``auto``, ``always`` or ``never``.
        no_input: Never ask, even on a terminal.
        yes: Answer every question with yes.
    """

    environ: Mapping[str, str]
    directory: Path = field(default_factory=lambda: current_directory())
    db: str | None = None
    profile: str | None = None
    json: bool = False
    jsonl: bool = False
    quiet: bool = False
    verbose: bool = False
    color: str = "auto"
    no_input: bool = False
    yes: bool = False
    clock: Clock = field(default_factory=SystemClock)

    def given(self, options: Mapping[str, object]) -> Context:
        """Return this context with the global options that were typed; flags add up, values replace."""
        typed = {name: value for name, value in options.items() if value not in (None, False)}
        if "directory" in typed:
            typed["directory"] = self.directory / str(typed["directory"])
        return replace(self, **typed)  # type: ignore[arg-type]  # click has checked their types

    def settings(self, **flags: object) -> Settings:
        """Resolve all settings; `flags` are those of the verb, by field name, None where not typed.

        Raises:
            ConfigError: A setting has a wrong name or value, in whatever layer.
        """
        from hive.config import load

        return load(self.directory, self.environ, {"db": self.db, **flags}, self.profile)

    @contextmanager
    def queue(self, settings: Settings, *, create: bool = False) -> Iterator[SyncHive]:
        """Open the queue.

        Args:
            create: Make one when there is none; verbs that only read never do.

        Raises:
            NotReady: There is no queue.
            StoreError: It cannot be opened.
        """
        from hive.api import open_sync

        if not create:
            require_queue(settings)
        with open_sync(settings.db, clock=self.clock) as hive:
            yield hive

    @property
    def for_people(self) -> bool:
        """Return whether the output is read by a person."""
        return not (self.json or self.jsonl)

    def may_ask(self) -> bool:
        """Return whether a person is there to answer."""
        return not self.no_input and sys.stdin.isatty() and sys.stderr.isatty()

    def colored(self, stream: TextIO) -> bool:
        """Return whether to colour what goes to a stream."""
        if self.color != "auto":
            return self.color == "always"
        if self.environ.get("NO_COLOR"):
            return False
        if self.environ.get("FORCE_COLOR"):
            return True
        return stream.isatty() and self.environ.get("TERM") != "dumb"

    def width(self) -> int | None:
        """Return the columns of the terminal that shows stdout, or None when there is none to fit."""
        columns = self.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns) > 0:
            return int(columns)
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or None
        except (OSError, ValueError):  # not a terminal, or no file at all
            return None


def current_directory() -> Path:
    """Return where Hive was started.

    Raises:
        NotReady: H233, that directory was deleted.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise NotReady(
            "the directory you are in does not exist any more", code="H233", fix="cd to one that does"
        ) from None


def database_path(settings: Settings) -> Path:
    """Return the file of the queue."""
    return Path(settings.db.removeprefix("sqlite:///"))


def require_queue(settings: Settings) -> None:
    """Raise `NotReady` when there is no queue."""
    path = database_path(settings)
    if not path.exists():
        raise NotReady(
            "there is no queue here",
            code="H230",
            where=str(path),
            why="nothing was queued in this directory's repository yet, or the queue is elsewhere (-C DIR, --db URL)",
            fix='hive init && hive add "what to do"',
        )
