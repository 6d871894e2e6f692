"""What a worktree holds, made into commits: changes, staging, and salvage.

Plumbing only. `git add` and `git commit` would start `git status` inside submodules, whose configuration an agent can
write; `ls-files`, `update-index` and `commit-tree` look at a submodule's HEAD and no further.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hive.workspace.git import Place

STATE_DIRECTORY = ".hive"
_SALVAGE_ROOT = "refs/hive/salvage"
_MESSAGE_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Head:
    """Where a worktree stands: `ref` is the full name of the checked-out branch, or ``HEAD`` when detached."""

    commit: str
    tree: str
    ref: str


@dataclass(frozen=True, slots=True)
class Changes:
    """Files that differ from the index, relative to the top.

    Attributes:
        removed: Tracked files that are gone, be it that a directory or something behind a link took their place.
        written: Changed files, and untracked ones that are not ignored.
        untracked: Those of the written ones that the index does not have.
        unmerged: Tracked files in conflict.
        nested: Directories that are repositories of their own and no submodules; git cannot commit what is in them.
    """

    removed: tuple[str, ...]
    written: tuple[str, ...]
    untracked: tuple[str, ...]
    unmerged: tuple[str, ...]
    nested: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Salvage:
    """What was kept.

    Attributes:
        ref: The reference; None when the worktree is clean and a kept reference reaches its HEAD.
        nested: Repositories within the worktree, submodules included, whose own commits are not kept.
    """

    ref: str | None
    nested: tuple[str, ...]


def read_head(place: Place) -> Head | None:
    """Return where the worktree stands; None when HEAD names no commit."""
    answer = place.ask("rev-parse", "HEAD", "HEAD^{tree}", "--symbolic-full-name", "HEAD")
    lines = answer.out.split()
    return Head(*lines) if answer.code == 0 and len(lines) == 3 else None


def tip_of(place: Place, branch: str) -> str | None:
    """Return the commit a branch points at, or None if there is no such branch."""
    answer = place.ask("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")
    return answer.out.strip() if answer.code == 0 else None


def read_changes(place: Place, left_out: Sequence[str] = ()) -> Changes:
    """Compare the files with the index, without `left_out` and without Hive's own directory."""
    out = place.run("ls-files", "-z", "-t", "-o", "-m", "-d", "-u", "--exclude-standard")
    skipped = frozenset(left_out)
    entries = [entry for entry in _entries(out) if entry.path not in skipped and not _is_hives(entry.path)]
    removed = dict.fromkeys(entry.path for entry in entries if entry.tag == "R" or _is_displaced(place, entry))
    written = dict.fromkeys(entry.path for entry in entries if not entry.path.endswith("/"))
    return Changes(
        removed=tuple(removed),
        written=tuple(path for path in written if path not in removed),
        untracked=tuple(entry.path for entry in entries if entry.tag == "?" and not entry.path.endswith("/")),
        unmerged=tuple(dict.fromkeys(entry.path for entry in entries if entry.in_conflict)),
        nested=tuple(entry.path.rstrip("/") for entry in entries if entry.path.endswith("/")),
    )


def stage(place: Place, changes: Changes) -> str:
    """Put the files as they are into the index, conflicts with their markers, and return the tree."""
    # Removed ones first: a file must have left the index before what took its place can enter it.
    for paths, how in ((changes.removed, ("--force-remove",)), (changes.written, ("--add", "--remove"))):
        if paths:
            listed = "".join(f"{path}\0" for path in paths)
            place.run("update-index", "-z", *how, "--stdin", stdin=listed)
    return place.run("write-tree").strip()


def commit_tree(place: Place, tree: str, parents: Sequence[str], message: str) -> str:
    """Write a commit and return it. The author is who the repository's configuration names, else Hive."""
    options = [option for parent in parents for option in ("-p", parent)]
    text = _MESSAGE_CONTROL.sub("", message)
    return place.run(*_identity(place), "commit-tree", tree, *options, stdin=text).strip()


def salvage(place: Place, task_id: int, left_out: Sequence[str]) -> Salvage:
    """Keep all that would be lost with the worktree in a commit under ``refs/hive/salvage/<task>/<n>``.

    The commit's tree is the files as they are; its parents are HEAD and, if something else was staged, a commit of
    that. Index, branches and files stay as they are. Not kept: ignored files, nested repositories, and commits that
    only HEAD's reflog remembers.
    """
    head = read_head(place)
    with _copied_index(place) as copy:
        staged = copy.ask("write-tree")
        changes = read_changes(copy, left_out)
        tree = stage(copy, changes)
    parents = [head.commit] if head else []
    # A conflicted index has no tree; its files, with markers, are in the other one.
    if staged.code == 0 and staged.out.strip() not in (tree, head.tree if head else ""):
        parents.append(commit_tree(place, staged.out.strip(), parents, f"index of task {task_id}"))
    ref = _kept(place, task_id, head, tree, parents)
    return Salvage(ref, (*changes.nested, *_populated_submodules(place)))


def _populated_submodules(place: Place) -> list[str]:
    """Return the submodules that have a repository, whose commits may be nowhere else."""
    entries = (line.partition("\t") for line in place.run("ls-files", "-z", "-s").split("\0"))
    links = (path for facts, _, path in entries if facts.startswith("160000 "))
    return [path for path in links if (place.cwd / path / ".git").exists()]


def _kept(place: Place, task_id: int, head: Head | None, tree: str, parents: list[str]) -> str | None:
    """Return a reference to a commit of the tree and parents; None if a branch or the like has all of it already."""
    if head and tree == head.tree and len(parents) == 1:
        return None if _is_kept(place, head) else _keep(place, task_id, head.commit)
    alike = _salvaged(place, task_id).get(f"{tree} {' '.join(parents)}".strip())
    if alike:
        return alike
    commit = commit_tree(place, tree, parents, f"salvage of task {task_id}\n\nHive-Task: {task_id}\n")
    return _keep(place, task_id, commit)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of ``ls-files -t -u``; `mode` and `in_conflict` only of tracked files."""

    tag: str
    path: str
    mode: str = ""
    in_conflict: bool = False


def _entries(out: str) -> Iterator[_Entry]:
    """Parse ``? path`` and ``C mode object stage<TAB>path``."""
    for line in out.split("\0"):
        tag, _, rest = line.partition(" ")
        if tag == "?":
            yield _Entry(tag, rest)
        elif tag:
            facts, _, path = rest.partition("\t")
            yield _Entry(tag, path, mode=facts[:6], in_conflict=not facts.endswith(" 0"))


def _is_hives(path: str) -> bool:
    return path.split("/", 1)[0] == STATE_DIRECTORY


def _is_displaced(place: Place, entry: _Entry) -> bool:
    """Return whether a directory stands where a tracked file (not a submodule) was."""
    path = place.cwd / entry.path
    return entry.mode not in ("", "160000") and path.is_dir() and not path.is_symlink()


def _identity(place: Place) -> list[str]:
    """Return options for the parts of the identity nobody configured; git would make them up from the host."""
    known = place.ask("config", "--name-only", "--get-regexp", r"^user\.(name|email)$").out.split()
    fallback = {"user.name": "Hive", "user.email": "hive@localhost"}
    return [part for name in fallback if name not in known for part in ("-c", f"{name}={fallback[name]}")]


@contextmanager
def _copied_index(place: Place) -> Iterator[Place]:
    """Yield the place with a copy of its index, so that staging there changes nothing."""
    assert place.git_dir is not None
    copy = place.git_dir / "hive-salvage-index"
    _forget(copy)
    if (place.git_dir / "index").exists():
        shutil.copy2(place.git_dir / "index", copy)  # with its time: git trusts file times older than the index
    try:
        yield replace(place, index=copy)
    finally:
        _forget(copy)


def _forget(index: Path) -> None:
    index.unlink(missing_ok=True)
    index.with_name(f"{index.name}.lock").unlink(missing_ok=True)


def _is_kept(place: Place, head: Head) -> bool:
    if head.ref.startswith("refs/heads/"):
        return True
    roots = ("refs/heads", "refs/tags", "refs/remotes", "refs/hive")
    return bool(place.run("for-each-ref", "--count=1", f"--contains={head.commit}", *roots).strip())


def _salvaged(place: Place, task_id: int) -> dict[str, str]:
    """Return the task's salvage references by what they keep: ``<tree> <parents>``."""
    shape = "--format=%(refname) %(tree) %(parent)"
    listed = place.run("for-each-ref", shape, f"{_SALVAGE_ROOT}/{task_id}/").splitlines()
    pairs = (line.split(" ", 1) for line in listed)
    return {kept.strip(): ref for ref, kept in pairs}


def _keep(place: Place, task_id: int, commit: str) -> str:
    """Name the commit with the next free reference."""
    root = f"{_SALVAGE_ROOT}/{task_id}"
    listed = place.run("for-each-ref", "--format=%(refname:lstrip=4)", f"{root}/").split()
    number = 1 + max((int(taken) for taken in listed if taken.isdecimal()), default=0)
    place.run("update-ref", "-m", "hive: salvage", f"{root}/{number}", commit, "")  # "": must not exist yet
    return f"{root}/{number}"
