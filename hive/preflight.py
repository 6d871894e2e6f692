"""What must be there before tasks are queued: their repositories, their agent, scripts that can be played.

Asked once by `hive add` and `hive run`, so that nobody finds out from 500 failures. Changes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hive.clock import SystemClock
from hive.config import Settings
from hive.errors import HiveError, NotReady, UsageError
from hive.model import NewTask, Phase, Task, WorkspaceKind
from hive.source import quoted

if TYPE_CHECKING:
    from hive.workspace import Repo, Workspaces

_WANTS: Mapping[str, str] = {"command": "a command", "scripted": "a script", "claude": "a prompt"}
_MOST_NOTES = 5
_NO_GIT = "H213"


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


def check_queued(tasks: Sequence[Task], settings: Settings) -> list[str]:
    """Find out whether the engine can start on what is queued already, and return what people should know all the same.

    What stands in the way of single tasks is only noted: it shows in their own runs and must not keep others waiting.

    Raises:
        NotReady: H201, the claude CLI is missing; H213, git is missing.
    """
    specs = [_rest(task) for task in tasks]
    _check_claude(specs, settings)
    problems = list(_unworkable(specs, settings))
    roots: list[str] = []
    opened_later = [spec for task, spec in zip(tasks, specs, strict=True) if task.base_commit is None]
    for path, base in _starts(opened_later, settings):
        try:
            roots += _dirty(_workspaces(settings).check_repo_blocking(path, base))
        except HiveError as error:
            if error.code == _NO_GIT:
                raise
            problems.append(f"{error.message} (hive help {error.code}): queued tasks that start in {path} cannot run")
    more = len(problems) - _MOST_NOTES
    return [*problems[:_MOST_NOTES], *([f"and {more:,} more that cannot run"] if more > 0 else []), *_unseen(roots)]


def check_shape(tasks: Sequence[NewTask]) -> None:
    """Refuse tasks that no engine could work, whatever its settings.

    Raises:
        UsageError: H114, H116, H120, phases that cannot be gone through; H121, no such agent; H138, nothing to do.
    """
    for task in tasks:
        _check_phases(task)
        if task.agent is not None and task.agent not in _WANTS:
            raise UsageError(
                f"{_named(task)} names no agent: {quoted(task.agent)}", code="H121", fix=f"one of {', '.join(_WANTS)}"
            )
        _check_asked(task, task.agent)


def _check_phases(task: NewTask) -> None:
    from hive.values import AVAILABLE_PHASES, BadValueError, phases

    fix = f"phases are {', '.join(AVAILABLE_PHASES)}, in this order"
    if not task.phases:
        raise UsageError(f"{_named(task)} has no phases", code="H116", fix=fix)
    try:
        phases().parse(task.phases)
    except BadValueError as error:
        message = f"{_named(task)}: `phases` {error.message}"
        raise UsageError(message, code=error.code or "H114", fix=fix) from None


def _check_asked(task: NewTask, agent: str | None) -> None:
    """Refuse a task that asks its agent for nothing; `agent` None: any agent may get it."""
    given = {"command": bool(task.command), "scripted": bool(task.script.strip()), "claude": bool(task.prompt.strip())}
    if Phase.APPLY not in task.phases or (given[agent] if agent else any(given.values())):
        return
    wants = _WANTS[agent] if agent else " or ".join(_WANTS.values())
    raise UsageError(
        f"{_named(task)} has nothing to do",
        code="H138",
        why=f"the agent {agent} needs {wants}" if agent else "",
        fix=f"give it {wants}",
    )


def _rest(task: Task) -> NewTask:
    """Return what was asked for without the phases that are behind the task."""
    return replace(task.spec, phases=task.spec.phases[task.spec.phases.index(task.phase) :])


def _unworkable(tasks: Sequence[NewTask], settings: Settings) -> Iterator[str]:
    for task in tasks:
        try:
            _check_work(task, settings)
        except UsageError as error:
            yield f"{error.message} (hive help {error.code}): it cannot run"


def _check_work(task: NewTask, settings: Settings) -> None:
    agent = task.agent or settings.agent
    if Phase.TEST in task.phases and not (task.test or settings.test):
        raise UsageError(
            f"{_named(task)} has the phase test, but there is no test command",
            code="H137",
            fix="give one with --test, `test:` in the task file, or `test =` in hive.toml",
        )
    _check_asked(task, agent)
    if agent == "scripted" and Phase.APPLY in task.phases:
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
    workspaces = _workspaces(settings)
    found = [workspaces.check_repo_blocking(path, base) for path, base in _starts(tasks, settings)]
    return _unseen([root for repo in found for root in _dirty(repo)])


def _starts(tasks: Sequence[NewTask], settings: Settings) -> list[tuple[Path, str | None]]:
    """Return each repository and base that tasks start from, once."""
    pairs = {
        (Path(task.repo) if task.repo else settings.root, task.base or settings.base)
        for task in tasks
        if task.workspace is WorkspaceKind.REPO
    }
    return sorted(pairs, key=str)


def _workspaces(settings: Settings) -> Workspaces:
    from hive.workspace import Workspaces

    return Workspaces(settings.state_dir, SystemClock(), settings.environ, settings.branch_prefix)


def _dirty(repo: Repo) -> list[str]:
    return [str(repo.root)] if repo.dirty else []


def _unseen(roots: Sequence[str]) -> list[str]:
    return [f"changes in {root} that are not committed will not be seen by agents" for root in sorted(set(roots))]


def _named(task: NewTask) -> str:
    return f"task {quoted(task.key or task.title)}"
