"""A user's repository as Hive needs it: where it is, what a task starts from, and that it can be used at all.

Only reads, but for one line in ``info/exclude``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hive.clock import Clock
from hive.errors import HiveError, NotReady, UsageError
from hive.workspace.git import Answer, Git, Place, locked

_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_OLDEST_GIT = (2, 31)  # Source: git 2.31 release notes, `rev-parse --path-format`


@dataclass(frozen=True, slots=True)
class Source:
    """A repository and the commit a task starts from.

    Attributes:
        root: Top of the checkout `hive` was pointed at.
        common_dir: The git directory all worktrees share.
    """

    root: Path
    common_dir: Path
    commit: str


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository that can be used.

    Attributes:
        branch: The checked-out branch, or None when HEAD is detached.
        dirty: Tracked files have changes that are not committed; tasks start without them.
    """

    root: Path
    common_dir: Path
    head: str
    branch: str | None
    dirty: bool


def repository_lock(common_dir: Path) -> Path:
    """Return the file that serialises Hive's worktree and branch operations on a repository."""
    return common_dir / "hive.lock"


def find_source(git: Git, path: Path, base: str | None) -> Source:
    """Find the repository at or above `path` and resolve `base` (None: HEAD), in one git call.

    Raises:
        NotReady: H210 no repository, H211 bare or without a commit, H213 no git.
        UsageError: H212 no such base.
    """
    if not path.is_dir():
        raise _no_repository(path, "no such directory")
    wanted = "HEAD" if base is None else base
    # With the suffix no text is an option of rev-parse; what is not a commit does not come out as exactly one object.
    answer = Place(git, path).ask(*_REV_PARSE, "--git-common-dir", "--show-toplevel", f"{wanted}^{{commit}}")
    lines = answer.out.splitlines()
    if answer.code != 0 or len(lines) != 3 or not _OID.fullmatch(lines[2]):
        raise _diagnosis(git, path, wanted, answer)
    return Source(Path(lines[1]), Path(lines[0]), lines[2])


def check_repo(git: Git, path: Path, base: str | None) -> Repo:
    """Find out whether tasks can start here and return what was found; raises as `find_source`."""
    _check_version(git)
    source = find_source(git, path, base)
    place = Place(git, source.root)
    head = place.run("rev-parse", "--verify", "HEAD^{commit}").strip()
    branch = place.ask("symbolic-ref", "--quiet", "--short", "HEAD").out.strip() or None
    status = place.run("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    return Repo(source.root, source.common_dir, head, branch, dirty=bool(status))


def exclude_directory(git: Git, path: Path, directory: Path, clock: Clock) -> bool:
    """Have git ignore `directory` in every worktree of the repository; True if that changed anything.

    Writes only ``info/exclude``, which is not tracked; does nothing for a directory outside of the checkout.

    Raises:
        NotReady: H210 no repository, H213 no git.
    """
    answer = Place(git, path).ask(*_REV_PARSE, "--git-common-dir", "--show-toplevel")
    lines = answer.out.splitlines()
    if answer.code != 0 or len(lines) != 2:
        raise _no_repository(path, answer.err)
    common_dir, root = Path(lines[0]), Path(lines[1])
    if root not in directory.parents:
        return False
    pattern = "/" + re.sub(r"([\\*?\[\] !#])", r"\\\1", directory.relative_to(root).as_posix()) + "/"
    with locked(repository_lock(common_dir), clock):
        return _append_line(common_dir / "info" / "exclude", pattern)


_REV_PARSE = ("rev-parse", "--path-format=absolute")


def _append_line(path: Path, line: str) -> bool:
    path.parent.mkdir(exist_ok=True)
    text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
    if line in text.splitlines():
        return False
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")
    return True


def _check_version(git: Git) -> None:
    text = Place(git, Path("/")).run("version")
    found = re.search(r"(\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_GIT:
        raise NotReady(
            f"this git is too old: {text.strip()}", code="H213", why="Hive needs 2.31 or newer", fix="upgrade git"
        )


def _diagnosis(git: Git, path: Path, base: str, answer: Answer) -> HiveError:
    """Return the error that says why `path` and `base` cannot be used."""
    bare = Place(git, path).ask("rev-parse", "--is-bare-repository")
    if bare.code != 0:
        return _no_repository(path, bare.err)
    if bare.out.strip() == "true":
        return _unusable(path, "it is a bare repository", f"git clone {path} work && cd work")
    if Place(git, path).ask("rev-parse", "--is-inside-work-tree").out.strip() != "true":
        return _no_repository(path, "the directory belongs to a repository's own data")
    if base == "HEAD" or Place(git, path).ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}").code != 0:
        return _unusable(path, "it has no commit yet", "git add -A && git commit -m 'Start'")
    return _no_base(path, base, answer.err)


def _no_repository(path: Path, err: str) -> NotReady:
    return NotReady(
        f"{path} is not in a git repository",
        code="H210",
        where=str(path),
        why=err.strip().removeprefix("fatal: ").splitlines()[0] if err.strip() else "",
        fix='run `git init` there, name the repository with `-C DIR`, or give the task `repo` or `workspace: "fresh"`',
    )


def _unusable(path: Path, why: str, fix: str) -> NotReady:
    return NotReady(f"tasks cannot start from {path}", code="H211", where=str(path), why=why, fix=fix)


def _no_base(path: Path, base: str, err: str) -> UsageError:
    return UsageError(
        f"base {base!r} is no commit of this repository",
        code="H212",
        where=str(path),
        why=err.strip().removeprefix("fatal: ").splitlines()[0]
        if err.strip()
        else "it is not the name of a single commit",
        fix="name a branch, tag or commit that `git log` can show, or fetch it first",
    )
