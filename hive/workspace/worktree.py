"""Worktrees and branches of tasks: made, found again after any crash, repaired, removed.

Every step is noted in the task's record before or after it so that the next process knows what it finds. The
repository's lock is held around git's own bookkeeping only, never while files are written or deleted: five hundred
checkouts go on side by side.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hive.clock import Clock
from hive.errors import WorkspaceError
from hive.model import Task, WorkspaceKind
from hive.workspace.git import Git, Place, failed, locked
from hive.workspace.include import copy_included
from hive.workspace.names import name_of
from hive.workspace.record import Record, RecordFile, Stage
from hive.workspace.repository import find_source, repository_lock
from hive.workspace.snapshot import read_changes, salvage, tip_of

_FIRST_NAMES = 1000  # how many older directories or branches of the same name are stepped over


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a workspace that was to be removed.

    Attributes:
        removed: The directory is gone.
        salvage: Reference that keeps what the task's branch does not.
        why: Why the directory stays; empty if it is gone.
    """

    removed: bool
    salvage: str | None = None
    why: str = ""


class Worktrees:
    """The worktrees of one state directory; every method needs the task's record held."""

    def __init__(self, state_dir: Path, git: Git, clock: Clock, branch_prefix: str) -> None:
        self._state_dir = state_dir
        self._git = git
        self._clock = clock
        self._prefix = branch_prefix

    def open(self, task: Task, repo: Path | None, file: RecordFile) -> Record:
        """Return the task's worktree, ready for an agent: the one there is, repaired if need be, or a new one.

        Raises:
            NotReady, UsageError: As `find_source`, if the worktree has yet to be made.
            WorkspaceError: H215, git failed.
        """
        record = file.latest_of(task)
        if record is None:
            return self._make_new(task, repo, file)
        if record.stage is Stage.READY:
            self._put_back(record)
            if Path(record.path).is_dir():
                return record if is_attached(record) else self._reattach(record, file)
            record = file.append(replace(record, stage=Stage.VOID))
        return self._make_again(task, repo, file, record)

    def remove(self, task: Task, file: RecordFile) -> Removal:
        """Remove the task's worktree if nothing is lost by that, and its branch if no commit was added to it."""
        record = file.latest_of(task)
        if record is None:
            return Removal(removed=True)
        reference = None
        if record.stage is Stage.READY:
            self._put_back(record)
            if Path(record.path).is_dir():
                record = record if is_attached(record) else self._reattach(record, file)
                reference, why = self._saved(task, record)
                if why:
                    return Removal(removed=False, salvage=reference, why=why)
            record = file.append(replace(record, stage=Stage.VOID))
        with self._repository(Path(record.common_dir), file) as place:
            pass
        self._discard(record, file)
        self._drop_empty_branch(record, file)
        return Removal(removed=True, salvage=reference)

    def _make_new(self, task: Task, repo: Path | None, file: RecordFile) -> Record:
        planned = file.append(self._planned(task, repo))
        return self._fill(task, repo, file, self._register_new(task, planned, file))

    def _make_again(self, task: Task, repo: Path | None, file: RecordFile, record: Record) -> Record:
        """Make the worktree after a crash or a removal; work on the branch is taken up again."""
        self._discard(record, file)
        if record.stage is Stage.PLANNED:
            return self._fill(task, repo, file, self._register_new(task, record, file))
        assert record.branch
        if tip_of(self._git, _common(record), record.branch) is None:
            return self._make_new(task, repo, file)
        with self._repository(record, file) as place:
            self._git.run(place, "worktree", "add", "--no-checkout", record.path, record.branch)
        return self._fill(task, repo, file, record)
