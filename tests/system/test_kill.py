"""Any process may be killed at any moment: nothing is lost, nothing is done twice, nobody is left behind."""

from __future__ import annotations

from collections import Counter

import pytest

from hive.model import State
from tests.system.harness import Project, until

TASKS = 500
# An agent that a kill catches at work: it ignores TERM, and leaves a daemon in a session of its own that does, too.
PROGRAM = "trap '' TERM; sleep 0.2; (setsid sleep 300 &); exit 0"
RUN = ("tasks.jsonl", "--cores", "2", "--agents", "32", "--progress", "none")
VICTIMS = {
    "shard": ["hive-shard-0"],
    "queen": ["hive-queen"],
    "guardian": ["hive-guardian"],
    "supervisor": ["supervisor"],
    "shards, queen and supervisor": ["supervisor", "hive-shard-0", "hive-shard-1", "hive-queen"],
    "everything": ["supervisor", "hive-guardian", "hive-shard-0", "hive-shard-1", "hive-queen"],
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victims", VICTIMS.values(), ids=VICTIMS.keys())
def test_every_task_is_completed_exactly_once_after_a_kill(project: Project, victims: list[str]) -> None:
    """After a kill -9 in the middle, the same command again completes every task with one recorded success each."""
    project.tasks(
        [
            {"key": f"t{number}", "command": ["sh", "-c", PROGRAM], "workspace": "none", "phases": ["apply"]}
            for number in range(TASKS)
        ]
    )
    with project.engine(*RUN) as engine:
        until(lambda: project.log() or _completed(project) > TASKS // 10, "the engine did not start")
        until(lambda: _completed(project) > TASKS // 10, project.log())
        doomed = [engine.supervisor if name == "supervisor" else engine.part(name) for name in victims]
        for process in doomed:
            process.kill()
        if "supervisor" in victims:
            engine.end()
            if "hive-guardian" not in victims:
                until(lambda: not project.carriers(), "agents outlived their engine by 10 s", 10.0)
        else:
            assert engine.end() == 0, project.log()
    if "supervisor" in victims:
        with project.engine(*RUN) as engine:
            assert engine.end() == 0, project.log()
    until(lambda: not project.carriers(), "agents were left behind", 10.0)
    assert {task.state for task in project.all_tasks()} == {State.COMPLETED}
    outcomes = Counter((run.task_id, run.outcome) for run in project.all_runs())
    assert all(outcomes[task.id, "succeeded"] == 1 for task in project.all_tasks())
    assert all(run.ended_at_ms is not None for run in project.all_runs())
    completed = [event.task_id for event in project.all_events() if event.kind == "task.completed"]
    assert sorted(task_id for task_id in completed if task_id is not None) == list(range(1, TASKS + 1))


def _completed(project: Project) -> int:
    if not (project.directory / ".hive" / "hive.db").exists():
        return 0
    with project.open() as hive:
        return hive.counts().by_state[State.COMPLETED]
