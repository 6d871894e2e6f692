"""Every error a person can meet, each with a code, a fix and an exit code.

The tree (a class of its own only where somebody catches it or it has its own exit code)::

    HiveError
    ├── UsageError              2   a flag, selector or argument makes no sense
    │   ├── TaskFileError       2   a task file is wrong, with file:line:column
    │   └── ConfigError         2   a setting is wrong, with the place it came from
    ├── NotReady                5   something this machine must have is missing: git, the claude CLI, a repository
    │   ├── WorkspaceError      5   a git operation on a workspace failed
    │   └── StoreError          5   the store cannot be used
    │       ├── StoreUnavailable    locked, full or gone for now; trying again may help
    │       └── StoreUnsupported    newer schema, corrupt file, network file system
    └── InvalidTransition       70  a bug: the life cycle has no such arrow

Expected endings of a run are not here: they are values (`hive.model.Outcome`).
"""

from __future__ import annotations


class HiveError(Exception):
    """An error with a stable code.

    Args:
        message: What went wrong, with the value; lower case, no full stop.
        code: ``H`` and three digits; never reused for another meaning.
        why: One clause on the cause, or empty.
        fix: One command or step that works when followed, or empty.
        where: ``file:line:column``, a path or an option name; or empty.
        excerpt: Lines of the source with a caret, or empty.
    """

    exit_code = 70

    def __init__(
        self, message: str, *, code: str, why: str = "", fix: str = "", where: str = "", excerpt: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.why = why
        self.fix = fix
        self.where = where
        self.excerpt = excerpt

    def lines(self) -> list[str]:
        """Return the error as people read it: what, where, why, fix; at most eight lines."""
        lines = [f"error[{self.code}]: {self.message}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.excerpt:
            lines.extend(self.excerpt.splitlines()[:4])
        if self.why:
            lines.append(f"why: {self.why}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return lines


class UsageError(HiveError):
    """A flag, selector or argument makes no sense."""

    exit_code = 2


class TaskFileError(UsageError):
    """A task file is wrong; nothing of it was queued."""


class ConfigError(UsageError):
    """A setting has a wrong name or value."""


class NotReady(HiveError):
    """Something this machine must have is missing."""

    exit_code = 5


class WorkspaceError(NotReady):
    """A git operation on a workspace failed; what the workspace held is still there."""


class StoreError(NotReady):
    """The store cannot be used."""


class StoreUnavailable(StoreError):
    """The store is locked, full or gone for now; the same call may work later."""


class StoreUnsupported(StoreError):
    """This Hive cannot use this store: newer schema, corrupt file or network file system."""


class InvalidTransition(HiveError):
    """The life cycle has no arrow for this state and trigger: a bug, or a command that came too late."""

    exit_code = 70
