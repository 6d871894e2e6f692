"""Names of workspaces and branches: readable, short, and always valid for git and the file system."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from hive.errors import ConfigError
from hive.model import Task

SLUG_LENGTH = 40
# Source: git-check-ref-format(1), made stricter: no component starts with a dot or a dash or ends in ".lock".
_PREFIX = re.compile(r"(?:(?![.-])(?:(?!\.\.|@\{)[A-Za-z0-9._@+=-])+(?<!\.)(?<!\.lock)/)*(?:(?![.-])[A-Za-z0-9_+=-]*)")


def slug(title: str) -> str:
    """Return 1 to `SLUG_LENGTH` characters of ``a-z0-9-`` that resemble the title; ``task`` if nothing does."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(text) > SLUG_LENGTH:
        cut = text[: SLUG_LENGTH + 1]
        text = cut.rpartition("-")[0] if "-" in cut[SLUG_LENGTH // 2 :] else cut[:SLUG_LENGTH]
    return text.strip("-") or "task"


def free_names(task: Task, directory: Path) -> Iterator[str]:
    """Yield names for a task's directory and the end of its branch, plain first, then numbered, that are not taken."""
    plain = f"{task.id}-{slug(task.spec.title)}"
    for name in chain([plain], (f"{plain}-{number}" for number in count(2))):
        if not os.path.lexists(directory / name):
            yield name


def checked_prefix(prefix: str) -> str:
    """Return the prefix if every branch named with it is valid.

    Raises:
        ConfigError: H105, git would refuse such a branch.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"branch prefix {prefix!r} makes no valid branch name",
            code="H105",
            why="git allows neither spaces nor ~^:?*[\\, nor a part that is empty, starts with a dot or ends in .lock",
            fix='use a prefix such as "hive/"',
        )
    return prefix
