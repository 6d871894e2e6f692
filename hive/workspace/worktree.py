"""Worktrees and branches of tasks: made, found again after any crash, repaired, removed.

Each step is noted in the task's record so that the next process knows what it finds. A new worktree needs no lock on
its repository; mending and removing hold one around git's own bookkeeping, never while files are written or deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from hive.clock import Clock
from hive.errors import WorkspaceError
from hive.model import Task, WorkspaceKind
from hive.workspace.git import Answer, Git, Place, failed, locked
from hive.workspace.include import copy_included
from hive.workspace.link import is_attached, is_registered, link_of, register, set_aside, write_link
from hive.workspace.names import free_names
from hive.workspace.record import Record, RecordFile, Stage
from hive.workspace.repository import find_source, repository_lock
from hive.workspace.snapshot import salvage, tip_of
from hive.workspace.tree import delete_tree


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a workspace that was to be removed.

    Attributes:
        removed: The directory is gone.
        salvage: Reference that keeps what the task's branch does not; None if there was nothing of the kind.
        why: Why the directory stays; empty if it is gone.
    """

    removed: bool
    salvage: str | None = None
    why: str = ""


class Worktrees:
    """The worktrees of one state directory. The caller holds the record of the task it names."""

    def __init__(self, state_dir: Path, git: Git, clock: Clock, branch_prefix: str) -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "worktrees"
        self._git = git
        self._clock = clock
        self._prefix = branch_prefix

    def open(self, task: Task, repo: Path, file: RecordFile) -> Record:
        """Return the task's worktree, ready for an agent: the one there is, repaired if need be, or a new one.

        Raises:
            NotReady, UsageError: As `find_source`, where the worktree has yet to be made.
            WorkspaceError: git failed.
        """
        record = file.latest_of(task)
        if record is None:
            return self._make_new(task, repo, file)
        if record.stage is Stage.READY:
            if self._is_there(record):
                return record if is_attached(record) else self._reattach(record, file)
            record = file.append(replace(record, stage=Stage.VOID))
        return self._make_again(task, repo, file, record)

    def remove(self, task: Task, file: RecordFile) -> Removal:
        """Remove the task's worktree if nothing is lost by that, and its branch if it holds no commit of its own."""
        record = file.latest_of(task)
        if record is None:
            return Removal(removed=True)
        reference = None
        if record.stage is Stage.READY:
            if self._is_there(record):
                record = record if is_attached(record) else self._reattach(record, file)
                reference, why = self._save(task, record, file)
                if why:
                    return Removal(removed=False, salvage=reference, why=why)
            # Noted first: half a deletion must never be taken for an agent's work.
            record = file.append(replace(record, stage=Stage.VOID))
        self._discard(record, file)
        if record.stage is Stage.VOID:
            self._drop_empty_branch(record, file)
        return Removal(removed=True, salvage=reference)

    def place_of(self, record: Record, file: RecordFile) -> Place:
        """Return where git works on a ready worktree to keep what is in it, without asking the worktree itself.

        Raises:
            WorkspaceError: H215, the worktree is gone or git does not know it any more.
        """
        path = Path(record.path)
        if record.stage is not Stage.READY or not self._is_there(record) or not is_registered(record):
            raise WorkspaceError(
                f"{path} is no worktree of its repository any more",
                code="H215",
                where=str(path),
                why="it was removed or pruned while its task was in progress",
                fix="`hive retry` the task: the worktree is put in order first",
            )
        return replace(self._worktree(record, file), durable=True)

    def _make_new(self, task: Task, repo: Path, file: RecordFile) -> Record:
        source = find_source(self._git, repo, task.spec.base)
        self._directory.mkdir(parents=True, exist_ok=True)
        name = next(free_names(task, self._directory))
        planned = Record(
            stage=Stage.PLANNED,
            created_at_ms=task.created_at_ms,
            kind=WorkspaceKind.REPO,
            path=str(self._directory / name),
            branch=self._prefix + name,
            base_commit=source.commit,
            common_dir=str(source.common_dir),
            root=str(source.root),
        )
        return self._fill(self._register_new(task, file.append(planned), file), file)

    def _make_again(self, task: Task, repo: Path, file: RecordFile, record: Record) -> Record:
        """Make the worktree after a crash or a removal; commits on its branch are taken up again."""
        self._discard(record, file)
        if record.stage is Stage.PLANNED:
            return self._fill(self._register_new(task, record, file), file)
        if tip_of(self._common(record, file), record.branch) is None:
            return self._make_new(task, repo, file)
        with self._locked(record, file) as place:
            place.run(*_ADD, record.path, record.branch)
        return self._fill(record, file)

    def _register_new(self, task: Task, record: Record, file: RecordFile) -> Record:
        """Make branch and worktree under the planned name, or the next one whose branch is not somebody else's."""
        planned = Path(record.path).name
        for name in chain([planned], free_names(task, self._directory)):
            if name != planned:
                path = str(self._directory / name)
                record = file.append(replace(record, path=path, branch=self._prefix + name))
            if self._register(record, file):
                return record
        raise AssertionError("names never run out")

    def _register(self, record: Record, file: RecordFile) -> bool:
        """Make branch and worktree, without files; False if the branch exists and is not ours."""
        made = self._make_branch(self._common(record, file), record)
        # A branch made just now is checked out nowhere, so nothing has to be looked up and nobody kept out.
        if made.code == 0 and register(record):
            return True
        with self._locked(record, file) as place:
            # The directory is not there: what git may know of it is left from a crash or a deleted state directory.
            self._deregister(place, record)
            tip, user = self._branch(place, record.branch)
            if tip is None:
                raise failed(made, "update-ref", where=place.cwd)
            if tip != record.base_commit or user:
                return False
            place.run(*_ADD, record.path, record.branch)
        return True

    def _make_branch(self, place: Place, record: Record) -> Answer:
        """Make the branch at its base; fails if there is one of that name."""
        return place.ask("update-ref", "-m", "hive: open", f"refs/heads/{record.branch}", record.base_commit, "")

    def _fill(self, record: Record, file: RecordFile) -> Record:
        """Write the files of a registered worktree and note that it is ready."""
        record = replace(record, stage=Stage.READY, git_dir=str(link_of(record)))
        place = self._worktree(record, file)
        place.run("reset", "--hard", "--quiet")
        included = copy_included(Path(record.root), place, self._state_dir)
        return file.append(replace(record, included=included))

    def _is_there(self, record: Record) -> bool:
        """Return whether the worktree's directory exists, first undoing a `_reattach` that a crash cut short."""
        path, aside = Path(record.path), _aside(record)
        if aside.is_dir():
            if path.is_dir():
                (path / ".git").unlink(missing_ok=True)
                path.rmdir()
            aside.rename(path)
        if path.is_symlink():
            raise WorkspaceError(
                f"{path} is a symbolic link", code="H215", where=str(path), fix="put the worktree back in its place"
            )
        return path.is_dir()

    def _reattach(self, record: Record, file: RecordFile) -> Record:
        """Connect a worktree with its repository again, keeping its files as they are."""
        path, aside = Path(record.path), _aside(record)
        set_aside(path / ".git")
        if is_registered(record):
            write_link(record)
            return record
        path.rename(aside)  # git makes worktrees only where nothing is
        with self._locked(record, file) as place:
            self._deregister(place, record)
            self._make_branch(place, record)  # if somebody deleted it
            place.run(*_ADD, record.path, record.branch)
        (path / ".git").rename(aside / ".git")
        path.rmdir()
        aside.rename(path)
        record = replace(record, git_dir=str(link_of(record)))
        self._worktree(record, file).run("read-tree", "HEAD")
        return file.append(record)

    def _save(self, task: Task, record: Record, file: RecordFile) -> tuple[str | None, str]:
        """Keep what a removal would lose; return the reference, and why the worktree must stay if it must."""
        git_dir = Path(record.git_dir)
        if (git_dir / "locked").exists():
            return None, "it is locked; `git worktree unlock` unlocks it"
        saved = salvage(self.place_of(record, file), task.id, record.included)
        if saved.nested:
            return saved.ref, f"{saved.nested[0]} is a repository of its own, whose commits git cannot keep here"
        if (git_dir / "modules").is_dir():
            return saved.ref, "it has submodules, whose own commits git cannot keep here"
        return saved.ref, ""

    def _discard(self, record: Record, file: RecordFile) -> None:
        """Delete a directory that holds nothing of value, and what git knows of it."""
        delete_tree(Path(record.path))
        with self._locked(record, file) as place:
            self._deregister(place, record)

    def _deregister(self, place: Place, record: Record) -> None:
        """Have git forget the worktree, whose directory is gone; no answer but a later failure matters."""
        place.ask("worktree", "remove", "--force", "--force", record.path)

    def _drop_empty_branch(self, record: Record, file: RecordFile) -> None:
        with self._locked(record, file) as place:
            if tip_of(place, record.branch) == record.base_commit:
                # Refused when somebody has it checked out; then it stays, as any branch may.
                place.ask("branch", "-D", "--quiet", "--", record.branch)

    def _branch(self, place: Place, branch: str) -> tuple[str | None, str]:
        """Return a branch's tip and the worktree that has it checked out."""
        shape = "--format=%(objectname) %(worktreepath)"
        tip, _, user = place.run("for-each-ref", shape, f"refs/heads/{branch}").strip().partition(" ")
        return tip or None, user

    @contextmanager
    def _locked(self, record: Record, file: RecordFile) -> Iterator[Place]:
        """Yield the place of the repository's common data, alone among all Hive processes."""
        with locked(repository_lock(Path(record.common_dir)), self._clock) as descriptor:
            place = self._common(record, file)
            yield replace(place, held=(*place.held, descriptor))

    def _common(self, record: Record, file: RecordFile) -> Place:
        return Place(self._git, Path(record.common_dir), Path(record.common_dir), held=(file.descriptor,))

    def _worktree(self, record: Record, file: RecordFile) -> Place:
        path = Path(record.path)
        return Place(self._git, path, Path(record.git_dir), path, held=(file.descriptor,))


_ADD = ("worktree", "add", "--no-checkout")


def _aside(record: Record) -> Path:
    return Path(f"{record.path}.aside")
