"""Where a task's agent works: a git worktree and branch of its own, an empty directory, or the directory given.

All functions block and belong on a thread. They may be called from many processes at once and may be killed anywhere:
the next `open_blocking` puts things in order. The user's own checkout, index and configuration are never touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hive.clock import Clock
from hive.errors import WorkspaceError
from hive.model import Evidence, Task, WorkspaceKind
from hive.workspace.git import Git, Place
from hive.workspace.names import checked_prefix, free_names
from hive.workspace.record import Record, RecordFile, Stage, held_record
from hive.workspace.repository import Repo, check_repo, exclude_directory
from hive.workspace.restore import restore
from hive.workspace.seal import seal
from hive.workspace.snapshot import salvage
from hive.workspace.tree import delete_tree
from hive.workspace.worktree import Removal, Worktrees

__all__ = ["Removal", "Repo", "Workspace", "Workspaces"]

DIFF_LIMIT_BYTES = 8 << 20
_TASK_FILE = "task.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory for one task.

    Attributes:
        branch: The task's own branch; None unless `kind` is repo.
        base_commit: Commit the branch started from; None unless `kind` is repo.
    """

    kind: WorkspaceKind
    path: Path
    branch: str | None = None
    base_commit: str | None = None

    @property
    def env(self) -> Mapping[str, str]:
        """Return what an agent's environment needs: git in the workspace never finds the repository around it."""
        if self.kind is WorkspaceKind.NONE:
            return {}
        return {"GIT_CEILING_DIRECTORIES": str(self.path.parent)}


class Workspaces:
    """The workspaces of one state directory.

    Args:
        state_dir: Where worktrees, fresh directories and records of workspaces are kept.
        clock: For the patience with locks.
        base_env: Hive's own environment; git gets its PATH, HOME, XDG_CONFIG_HOME and TMPDIR.
        branch_prefix: Start of every branch's name.

    Raises:
        ConfigError: H105, the prefix makes no valid branch name.
    """

    def __init__(
        self, state_dir: Path, clock: Clock, base_env: Mapping[str, str], branch_prefix: str = "hive/"
    ) -> None:
        self._state_dir = state_dir.resolve()
        self._clock = clock
        self._git = Git(base_env)
        self._worktrees = Worktrees(self._state_dir, self._git, clock, checked_prefix(branch_prefix))

    def open_blocking(self, task: Task, root: Path) -> Workspace:
        """Return the task's workspace, made if it does not exist, as it is if it does.

        Args:
            task: Its `spec.repo`, else `root`, names the repository when the worktree is made.
            root: The directory Hive works for; also the workspace of kind none.

        Raises:
            NotReady: H210 no repository, H211 bare or without a commit, H213 no git.
            UsageError: H212 no such base.
            WorkspaceError: H214 to H216, git failed, took too long, or another process did not let go.
        """
        if task.spec.workspace is WorkspaceKind.NONE:
            return Workspace(WorkspaceKind.NONE, root)
        with self._held(task) as file:
            if task.spec.workspace is WorkspaceKind.FRESH:
                return Workspace(WorkspaceKind.FRESH, self._open_fresh(task, file))
            record = self._worktrees.open(task, Path(task.spec.repo) if task.spec.repo else root, file)
            return Workspace(WorkspaceKind.REPO, Path(record.path), record.branch, record.base_commit)

    def seal_blocking(self, workspace: Workspace, task: Task, summary: str) -> Evidence:
        """Commit what the agent left, and say what the task's branch now holds against its base.

        For a repo workspace whose agent and all it started have ended. Ignored files, copies made for
        ``.worktreeinclude``, nested repositories and ``.hive`` are not committed. No hook runs: an agent could have
        written it. Other kinds have no evidence.

        Raises:
            WorkspaceError: H217, a merge or rebase is unfinished; H218, the work lies beside the task's branch; H214 to
                H216. Nothing is lost then.
        """
        if workspace.kind is not WorkspaceKind.REPO:
            return Evidence()
        with self._held(task) as file:
            record, place = self._ready(workspace, task, file)
            return seal(place, record, task, summary)

    def restore_blocking(self, workspace: Workspace, task: Task) -> None:
        """Undo what a test command did to a repo workspace: its files become those of the commit at HEAD again.

        Untracked files are deleted without a trace: call `salvage_blocking` before the command starts. Ignored files,
        copies made for ``.worktreeinclude``, nested repositories, HEAD and branches stay. Does nothing for other kinds.

        Raises:
            WorkspaceError: H214 to H216; some of it may be undone.
        """
        if workspace.kind is not WorkspaceKind.REPO:
            return
        with self._held(task) as file:
            record, place = self._ready(workspace, task, file)
            restore(place, record)

    def salvage_blocking(self, workspace: Workspace, task: Task) -> str | None:
        """Keep what only the worktree holds under ``refs/hive/salvage/<task>/<n>``; None if there is nothing of it.

        Neither files nor index nor branches change. Ignored files and nested repositories are not kept.

        Raises:
            WorkspaceError: H214 to H216.
        """
        if workspace.kind is not WorkspaceKind.REPO:
            return None
        with self._held(task) as file:
            record, place = self._ready(workspace, task, file)
            return salvage(place, task.id, record.included).ref

    def remove_blocking(self, workspace: Workspace, task: Task) -> Removal:
        """Remove a workspace if nothing is lost by that, after a salvage where needed; twice is harmless.

        The branch stays unless it stands at its base. A fresh directory stays if there is anything but ``task.json``
        in it, and the directory of kind none always.

        Raises:
            WorkspaceError: H214 to H216; the workspace, or a salvage of it, is still there.
        """
        if workspace.kind is WorkspaceKind.NONE:
            return Removal(removed=False, why="it is not a directory of Hive's own")
        with self._held(task) as file:
            if workspace.kind is WorkspaceKind.FRESH:
                return self._remove_fresh(workspace.path, task, file)
            return self._worktrees.remove(task, file)

    def diff_blocking(self, repo: Path, base_commit: str, branch: str, *, stat: bool = False) -> str:
        """Return the difference between a commit and a branch or commit as a patch, or per file if `stat`.

        At most `DIFF_LIMIT_BYTES`, with a last line that says so when cut.

        Raises:
            WorkspaceError: H215, one of them does not exist.
        """
        shape = ("--stat=100", "--summary") if stat else ("--patch",)
        options = ("-r", "-M", "--no-ext-diff", "--no-textconv", "--no-color", "--end-of-options")
        place = Place(self._git, repo)
        return place.run_capped("diff-tree", *shape, *options, base_commit, branch, "--", limit_bytes=DIFF_LIMIT_BYTES)

    def check_repo_blocking(self, path: Path, base: str | None = None) -> Repo:
        """Find out whether tasks can start from the repository at `path` and return what it is.

        Raises:
            NotReady: H210 no repository, H211 bare or without a commit, H213 no git or too old.
            UsageError: H212 no such base.
        """
        return check_repo(self._git, path, base)

    def exclude_state_dir_blocking(self, repo: Path) -> bool:
        """Have git ignore the state directory, in ``info/exclude`` only; True if that changed anything.

        Raises:
            NotReady: H210 no repository, H213 no git.
        """
        return exclude_directory(self._git, repo, self._state_dir, self._clock)

    @contextmanager
    def _held(self, task: Task) -> Iterator[RecordFile]:
        """Hold the task's record; what the file system refuses becomes a `WorkspaceError`."""
        try:
            with held_record(self._state_dir / "workspaces", task, self._clock) as file:
                yield file
        except OSError as error:
            raise WorkspaceError(
                f"the workspace of task {task.id} cannot be used: {error.strerror}",
                code="H215",
                where=str(error.filename or self._state_dir),
                fix="put that right, then `hive retry` the task",
            ) from error

    def _ready(self, workspace: Workspace, task: Task, file: RecordFile) -> tuple[Record, Place]:
        record = file.latest_of(task)
        if record is None or Path(record.path) != workspace.path:
            raise WorkspaceError(
                f"{workspace.path} is not the workspace of task {task.id}",
                code="H215",
                where=str(workspace.path),
                fix="`hive retry` the task",
            )
        return record, self._worktrees.place_of(record, file)

    def _open_fresh(self, task: Task, file: RecordFile) -> Path:
        record = file.latest_of(task)
        if record is None:
            directory = self._state_dir / "fresh"
            path = directory / next(free_names(task, directory))
            record = file.append(Record(Stage.PLANNED, task.created_at_ms, WorkspaceKind.FRESH, str(path)))
        path = Path(record.path)
        if record.stage is not Stage.READY or not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            (path / _TASK_FILE).write_text(_task_json(task), "utf-8")
            file.append(replace(record, stage=Stage.READY))
        return path

    def _remove_fresh(self, path: Path, task: Task, file: RecordFile) -> Removal:
        record = file.latest_of(task)
        if record is None or Path(record.path) != path or not path.is_dir():
            return Removal(removed=not path.exists())
        if any(entry.name != _TASK_FILE for entry in path.iterdir()):
            return Removal(removed=False, why="it holds what the task made")
        file.append(replace(record, stage=Stage.VOID))
        delete_tree(path)
        return Removal(removed=True)


def _task_json(task: Task) -> str:
    spec = task.spec
    facts = {
        "id": task.id,
        "key": spec.key,
        "batch": spec.batch,
        "title": spec.title,
        "prompt": spec.prompt,
        "role": spec.role,
        "tags": list(spec.tags),
        "paths": list(spec.paths),
        "env": dict(spec.env),
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
