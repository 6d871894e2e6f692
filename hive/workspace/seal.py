"""The end of an apply: whatever the agent left becomes a commit on the task's branch, and evidence is read from git."""

from __future__ import annotations

import re
from pathlib import Path

from hive.errors import WorkspaceError
from hive.model import Evidence, Task
from hive.workspace.git import Place
from hive.workspace.record import Record
from hive.workspace.snapshot import Head, commit_tree, read_changes, read_head, stage, tip_of

# Source: git's own wt_status_get_state(): what `git status` calls an operation in progress.
_UNFINISHED = {
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
}
_TRAILER = re.compile(r"\s*hive-\w+\s*:", re.IGNORECASE)


def seal(place: Place, record: Record, task: Task, summary: str) -> Evidence:
    """Commit what the agent left and return what its branch now holds against the base.

    Work on a detached HEAD or on another branch is taken over when it contains the task's branch.

    Raises:
        WorkspaceError: H217, a merge, rebase or the like is unfinished; H218, the work lies beside the branch.
    """
    git_dir = Path(record.git_dir)
    _check_finished(git_dir, place)
    drop_stale_locks(git_dir)
    head = read_head(place)
    if head is None:
        raise _astray(place, record.branch, "HEAD points at a branch without a commit")
    changes = read_changes(place, record.included)
    if changes.unmerged:
        raise _unfinished(place, f"{len(changes.unmerged)} files are in conflict, {changes.unmerged[0]} among them")
    tree = stage(place, changes)
    message = commit_message(task, summary)
    if head.ref == f"refs/heads/{record.branch}":
        tip = _commit(place, head, tree, message)
    else:
        tip = _take_over(place, record.branch, head, tree, message)
    return _evidence(place, record.base_commit, tip, allow_no_change=task.spec.allow_no_change)


def commit_message(task: Task, summary: str) -> str:
    """Return title, summary and trailers. What looks like a trailer of Hive in agent's text is dropped."""
    title = " ".join(task.spec.title.split())[:100] or f"Task {task.id}"
    body = "\n".join(line for line in summary.strip().splitlines() if not _TRAILER.match(line))
    trailers = [f"Hive-Task: {task.id}"]
    if task.spec.key is not None:
        trailers.append(f"Hive-Key: {' '.join(task.spec.key.split())}")
    return "\n\n".join(part for part in (title, body.strip(), "\n".join(trailers)) if part) + "\n"


def drop_stale_locks(git_dir: Path) -> None:
    """Remove locks a killed program's git left in its own worktree; the program is gone when this is called."""
    for name in ("index.lock", "HEAD.lock"):
        (git_dir / name).unlink(missing_ok=True)


def _check_finished(git_dir: Path, place: Place) -> None:
    for marker, operation in _UNFINISHED.items():
        if (git_dir / marker).exists():
            raise _unfinished(place, f"a {operation} is in progress")


def _commit(place: Place, head: Head, tree: str, message: str) -> str:
    """Commit the tree on the checked-out branch, if it is new, and return the tip."""
    if tree == head.tree:
        return head.commit
    commit = commit_tree(place, tree, [head.commit], message)
    place.run("update-ref", "-m", "hive: seal", "HEAD", commit, head.commit)
    return commit


def _take_over(place: Place, branch: str, head: Head, tree: str, message: str) -> str:
    """Bring work that is not on the task's branch there, never dropping a commit, and return the tip."""
    tip = tip_of(place, branch)
    if tip is not None and not _contains(place, head.commit, tip):
        if tree == head.tree and _contains(place, tip, head.commit):
            place.run("checkout", "--quiet", branch, "--")  # the agent only looked at an older commit
            return tip
        raise _astray(place, branch, f"HEAD is {head.commit[:12]}, the branch {tip[:12]}; neither contains the other")
    commit = head.commit if tree == head.tree else commit_tree(place, tree, [head.commit], message)
    place.run("update-ref", "-m", "hive: seal", f"refs/heads/{branch}", commit, tip or "")
    place.run("symbolic-ref", "-m", "hive: seal", "HEAD", f"refs/heads/{branch}")
    return commit


def _contains(place: Place, commit: str, ancestor: str) -> bool:
    return place.ask("merge-base", "--is-ancestor", ancestor, commit).code == 0


def _evidence(place: Place, base: str, tip: str, *, allow_no_change: bool) -> Evidence:
    nothing = Evidence(no_change=allow_no_change)
    # An agent that went back to an older commit has a difference but no commit of its own.
    if tip == base or place.run("rev-list", "--count", f"{base}..{tip}").strip() == "0":
        return nothing
    stat = place.run("diff-tree", "--shortstat", "--no-ext-diff", "--no-textconv", base, tip)
    if not stat.strip():
        return nothing
    files, insertions, deletions = (_number(stat, word) for word in ("file", "insertion", "deletion"))
    return Evidence(commit=tip, files=files, insertions=insertions, deletions=deletions)


def _number(stat: str, word: str) -> int:
    """Read a number from `` 3 files changed, 10 insertions(+), 1 deletion(-)``."""
    found = re.search(rf"(\d+) {word}", stat)
    return int(found[1]) if found else 0


def _unfinished(place: Place, why: str) -> WorkspaceError:
    return WorkspaceError(
        "the agent left its worktree in the middle of something",
        code="H217",
        why=why,
        where=str(place.work_tree),
        fix="`git status` there tells how to finish or abort; then `hive retry` the task",
    )


def _astray(place: Place, branch: str, why: str) -> WorkspaceError:
    return WorkspaceError(
        f"the agent's work is not on {branch}",
        code="H218",
        why=why,
        where=str(place.work_tree),
        fix=f"bring the work onto {branch} there, then `hive retry` the task",
    )
