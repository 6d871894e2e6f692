"""What must be there before tasks are queued: their repositories, their agent, scripts that can be played.

Asked once by `hive add` and `hive run`, so that nobody finds out from 500 failures. Changes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hive.clock import SystemClock
from hive.config import Settings
from hive.errors import HiveError, NotReady, UsageError
from hive.model import NewTask, Phase, WorkspaceKind
from hive.source import quoted


def check(tasks: Sequence[NewTask], settings: Settings) -> list[str]:
    """Find out whether tasks can be worked on this machine, and return what people should know all the same.

    Args:
        tasks: Not queued yet; what they leave open the settings say.

    Raises:
        UsageError: H137 to H139, a task asks for nothing its agent could do; H212, there is no such base.
        NotReady: H201, the claude CLI is missing; H210, H211, H213, a repository cannot be used.
    """
    for task in tasks:
        _check_work(task, settings)
    _check_claude(tasks, settings)
    return _check_repositories(tasks, settings)


def _check_work(task: NewTask, settings: Settings) -> None:
    agent = task.agent or settings.agent
    if Phase.TEST in task.phases and not (task.test or settings.test):
        raise UsageError(
            f"{_named(task)} has the phase test, but there is no test command",
            code="H137",
            fix="give one with --test, `test:` in the task file, or `test =` in hive.toml",
        )
    if Phase.APPLY not in task.phases:
        return
    given = {"command": bool(task.command), "scripted": bool(task.script.strip()), "claude": bool(task.prompt.strip())}
    if not given[agent]:
        wants = {"command": "a command", "scripted": "a script", "claude": "a prompt"}[agent]
        raise UsageError(
            f"{_named(task)} has nothing to do",
            code="H138",
            why=f"the agent {agent} needs {wants}",
            fix=f"give it {wants}",
        )
    if agent == "scripted":
        _check_script(task)


def _check_script(task: NewTask) -> None:
    from hive.agent.script import parse_script

    try:
        parse_script(task.script)
    except HiveError as error:
        raise UsageError(
            f"{_named(task)} has a script that cannot be played: {error.message}",
            code="H139",
            where=error.where,
            why=error.why,
            fix=error.fix,
        ) from None


def _check_claude(tasks: Sequence[NewTask], settings: Settings) -> None:
    wanted = any((task.agent or settings.agent) == "claude" and Phase.APPLY in task.phases for task in tasks)
    if wanted and find_claude(settings) is None:
        raise NotReady(
            f"{quoted(settings.claude)} is not installed",
            code="H201",
            why="it is not a program on PATH",
            fix="npm install -g @anthropic-ai/claude-code && hive doctor",
        )


def find_claude(settings: Settings) -> str | None:
    """Return the path of the claude CLI as an agent would start it, or None."""
    return shutil.which(settings.claude, path=settings.environ.get("PATH", ""))


def _check_repositories(tasks: Sequence[NewTask], settings: Settings) -> list[str]:
    """Look at each repository and base once."""
    from hive.workspace import Workspaces

    here = settings.repo or settings.state_dir.parent
    pairs = {
        (Path(task.repo) if task.repo else here, task.base or settings.base)
        for task in tasks
        if task.workspace is WorkspaceKind.REPO
    }
    workspaces = Workspaces(settings.state_dir, SystemClock(), settings.environ, settings.branch_prefix)
    found = [workspaces.check_repo_blocking(path, base) for path, base in sorted(pairs, key=str)]
    dirty = sorted({str(repo.root) for repo in found if repo.dirty})
    return [f"changes in {root} that are not committed will not be seen by agents" for root in dirty]


def _named(task: NewTask) -> str:
    return f"task {quoted(task.key or task.title)}"
