"""What Hive knows of a task's workspace, in one small file per task that is also its lock.

The file is only appended to and its last whole line counts, so a kill or a power cut between any two writes leaves
either the old record or the new one. It lies beside the worktrees, out of the agents' directories.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from hive.clock import Clock
from hive.model import Task, WorkspaceKind
from hive.workspace.git import locked


class Stage(StrEnum):
    """What may be in the directory."""

    PLANNED = "planned"  # nothing of value, and the branch is ours only if it stands at the base
    READY = "ready"  # an agent may have worked there
    VOID = "void"  # nothing of value: never filled, or kept elsewhere; the branch is ours


@dataclass(frozen=True, slots=True)
class Record:
    """A workspace as it was last noted.

    Attributes:
        created_at_ms: When the task was added; tells it from a task with the same id of an earlier store.
        branch, base_commit: The task's branch and where it started; empty, as all below, unless `kind` is repo.
        common_dir: The repository's common git directory.
        root: Top of the checkout `hive` was pointed at.
        git_dir: The worktree's own git directory, known when ready.
        included: Files copied in because of ``.worktreeinclude``; never committed.
    """

    stage: Stage
    created_at_ms: int
    kind: WorkspaceKind
    path: str
    branch: str = ""
    base_commit: str = ""
    common_dir: str = ""
    root: str = ""
    git_dir: str = ""
    included: tuple[str, ...] = ()


class RecordFile:
    """The record of one task, held exclusively; made by `held_record`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def latest_of(self, task: Task) -> Record | None:
        """Return the task's record; None if there is none, or it is that of another store's task with this id."""
        with os.fdopen(os.dup(self.descriptor), "rb") as file:
            file.seek(0)
            lines = file.read().split(b"\n")
        for line in reversed(lines):
            record = _parse(line)
            if record is not None:
                return record if record.created_at_ms == task.created_at_ms else None
        return None

    def append(self, record: Record) -> Record:
        """Make `record` the latest one, on disk before this returns, and return it."""
        # The newline comes first too: a line cut short by a crash must not swallow this one.
        data = b"\n" + json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"
        with os.fdopen(os.dup(self.descriptor), "ab") as file:
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return record


@contextmanager
def held_record(directory: Path, task: Task, clock: Clock) -> Iterator[RecordFile]:
    """Hold the record of a task: at any time at most one process works on one task's workspace.

    Raises:
        WorkspaceError: H216, another process did not let go of it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / f"{task.id}.jsonl", clock) as descriptor:
        yield RecordFile(descriptor)


def _parse(line: bytes) -> Record | None:
    try:
        fields = json.loads(line)
    except ValueError:  # an empty line, or one cut short by a crash
        return None
    stage, kind = Stage(fields.pop("stage")), WorkspaceKind(fields.pop("kind"))
    return Record(stage=stage, kind=kind, included=tuple(fields.pop("included")), **fields)
