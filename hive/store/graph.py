"""Tasks as a graph: needs in order, a plan's subtasks, and the failures that spread along the edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from hive.errors import UsageError
from hive.model import FINAL, Failure, NewTask, RunId, State, Step, TaskId


def order_needs(tasks: Sequence[NewTask], find: Callable[[str, str], TaskId | None]) -> list[int]:
    """Return the positions of all tasks so that every task comes after those it needs.

    Position 0 comes first if its needs allow, and so on: a list whose needs point backwards keeps its order.
    What a task needs does not matter when its key is stored already, since adding it changes nothing.

    Args:
        tasks: What is to be added in one call; a key may occur twice, the first one counts.
        find: Returns the stored task of a batch and key; asked at most once for each.

    Raises:
        UsageError: H112 when a need is neither among the tasks nor stored, H113 when needs form a cycle.
    """
    stored: dict[tuple[str, str], TaskId | None] = {}

    def is_stored(batch: str, key: str) -> bool:
        if (batch, key) not in stored:
            stored[batch, key] = find(batch, key)
        return stored[batch, key] is not None

    given = _positions(tasks)
    needs = [
        [] if task.key is not None and is_stored(task.batch, task.key) else _needs_of(task, given, is_stored)
        for task in tasks
    ]
    _refuse_cycle(tasks, needs)
    return _needs_first(needs)


def adopted(goal: TaskId, run_id: RunId, step: Step, batch: str) -> list[NewTask]:
    """Return the subtasks of a plan as they are to be added under their goal; none when the goal has ended.

    Keys and needs are marked with goal and run, so that two goals of a batch, or two plans of a goal, may use the
    same words without meaning the same task. While a person has to decide about the plan, its subtasks are held.
    """
    if step.state in FINAL:
        return []
    mark = f"{goal}.{run_id}/"
    return [
        replace(
            task,
            batch=batch,
            key=mark + task.key if task.key is not None else None,
            after=tuple(mark + key for key in task.after),
            hold=task.hold or step.state is State.NEEDS_YOU,
        )
        for task in step.subtasks
    ]


def need_failure(need: TaskId) -> Failure:
    """Return the failure of a task whose need failed or was cancelled; alike for nobody, it is not its own."""
    return Failure("dependency", f"task {need}, which it needs, failed or was cancelled")


def child_failure(children: Iterable[State]) -> Failure:
    """Return the failure of a goal whose subtasks are all final and not all completed."""
    states = list(children)
    missing = sum(state is not State.COMPLETED for state in states)
    return Failure("child_failed", f"{missing} of {len(states)} subtasks did not complete")


def _positions(tasks: Sequence[NewTask]) -> dict[tuple[str, str], int]:
    given: dict[tuple[str, str], int] = {}
    for index, task in enumerate(tasks):
        if task.key is not None:
            given.setdefault((task.batch, task.key), index)
    return given


def _needs_of(task: NewTask, given: dict[tuple[str, str], int], is_stored: Callable[[str, str], bool]) -> list[int]:
    """Return the positions of what a task needs from the same call."""
    found = []
    for key in task.after:
        index = given.get((task.batch, key))
        if index is not None:
            found.append(index)
        elif not is_stored(task.batch, key):
            raise UsageError(
                f"`{task.key or task.title}` needs `{key}`, which is not in batch `{task.batch}`",
                code="H112",
                why="`after` names keys of the same batch, in this call or added before",
                fix="correct the key, or add the missing task in the same file",
            )
    return found


def _refuse_cycle(tasks: Sequence[NewTask], needs: Sequence[Sequence[int]]) -> None:
    try:
        TopologicalSorter(dict(enumerate(needs))).prepare()
    except CycleError as error:
        # graphlib lists a cycle from need to dependent; people read "a needs b".
        names = [tasks[index].key or tasks[index].title for index in reversed(error.args[1])]
        raise UsageError(
            f"these tasks need each other: {' -> '.join(names)}",
            code="H113",
            why="none of them could ever start",
            fix=f"remove one of the needs, such as `{names[1]}` from `after` of `{names[0]}`",
        ) from None


def _needs_first(needs: Sequence[Sequence[int]]) -> list[int]:
    """Return positions depth first, iteratively: a chain of needs may be longer than Python's stack."""
    order: list[int] = []
    seen: set[int] = set()
    for root in range(len(needs)):
        path = [] if root in seen else [(root, iter(needs[root]))]
        seen.add(root)
        while path:
            index, rest = path[-1]
            unseen = next((need for need in rest if need not in seen), None)
            if unseen is None:
                order.append(index)
                path.pop()
            else:
                seen.add(unseen)
                path.append((unseen, iter(needs[unseen])))
    return order


__all__ = ["adopted", "child_failure", "need_failure", "order_needs"]
