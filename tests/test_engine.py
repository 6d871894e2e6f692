from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive import api, engine
from hive.config import load
from hive.ending import Ending
from hive.engine import AGENTS_PER_SHARD, Form
from hive.errors import NotReady, StoreUnsupported, UsageError
from hive.lock import EngineLock
from hive.model import NewTask, State, WorkspaceKind
from hive.store import Hold, Limits, Steer
from tests.rig import command, make_repo, scripted, settings_for

CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sync": True, "agents": 50, "cores": 4}, Form(sync=True, shards=1, agents=1)),
        ({"agents": 1}, Form(sync=False, shards=1, agents=1)),
        ({"agents": AGENTS_PER_SHARD}, Form(sync=False, shards=1, agents=AGENTS_PER_SHARD)),
        ({"agents": AGENTS_PER_SHARD + 1}, Form(sync=False, shards=min(2, CORES), agents=AGENTS_PER_SHARD + 1)),
        ({"agents": 10_000}, Form(sync=False, shards=CORES, agents=10_000)),
        ({"agents": 8, "cores": 3}, Form(sync=False, shards=3, agents=8)),
        ({"agents": 2, "cores": 16}, Form(sync=False, shards=2, agents=2)),
    ],
)
def test_the_form_follows_from_agents_and_cores(tmp_path: Path, changes: dict[str, Any], expected: Form) -> None:
    """One shard for every 32 agents but no more than cores, or what was asked for; never a shard without an agent."""
    assert engine.form(settings_for(tmp_path, **changes)) == expected


# The other rows of the matrix, with parts missing, are in test_sync.


def test_work_adds_runs_and_reports(tmp_path: Path) -> None:
    """The report counts the tasks that were given by state, with what their runs cost."""
    tasks = [scripted("cost 0.25", key="a"), scripted("cost 0.5\nfatal no", key="b")]
    report = engine.work(_settings(tmp_path), tasks, watcher=None)
    assert _standing(report) == {"completed": 1, "failed": 1}
    assert report.cost_usd == 0.75
    assert report.wall_s > 0
    assert (report.recovered, report.ending) == (0, Ending())


def test_the_same_tasks_again_are_taken_up_where_they_stand(tmp_path: Path) -> None:
    """Adding what is there changes nothing, and the report is about those tasks though nothing ran."""
    settings = _settings(tmp_path)
    engine.work(settings, [scripted("say x", key="a")], watcher=None)
    again = engine.work(settings, [scripted("say x", key="a"), scripted("say x", key="b")], watcher=None)
    assert _standing(again) == {"completed": 2}
    with api.open_sync(settings.db) as hive:
        assert [len(hive.runs(task.id)) for task in hive.tasks()] == [1, 1]


def test_without_tasks_the_report_is_about_what_happened_and_what_is_left(tmp_path: Path) -> None:
    """Tasks that ended before do not count; those that ended now and those that still wait do."""
    settings = _settings(tmp_path)
    engine.work(settings, [scripted("say x"), scripted("fatal no")], watcher=None)
    with api.open_sync(settings.db) as hive:
        ids = [added.id for added in hive.add([scripted("say x"), scripted("say x")])]
        hive.control(Hold((ids[1],)))
    assert _standing(engine.work(settings, [], watcher=None)) == {"completed": 1, "queued": 1}


def test_a_second_engine_adds_nothing(tmp_path: Path) -> None:
    """While another engine works the queue the tasks are not added, either."""
    settings = _settings(tmp_path)
    lock = EngineLock(tmp_path / ".hive" / "hive.db.engine")
    with pytest.raises(NotReady):
        engine.work(settings, [scripted("say x")], watcher=None)
    lock.close()
    assert _standing(engine.work(settings, [], watcher=None)) == {}


def test_tasks_that_do_not_fit_together_stop_the_engine_before_it_starts(tmp_path: Path) -> None:
    """Nothing is added, nothing runs, and the queue is free for the next engine."""
    settings = _settings(tmp_path)
    with pytest.raises(UsageError):
        engine.work(settings, [scripted("say x"), scripted("say x", after=("nobody",))], watcher=None)
    assert _standing(engine.work(settings, [], watcher=None)) == {}


def test_what_was_said_to_an_engine_before_is_not_meant_for_this_one(tmp_path: Path) -> None:
    """An old order to stop, or another number of agents, does not outlive the engine it was given to."""
    settings = _settings(tmp_path)
    with api.open_sync(settings.db) as hive:
        hive.control(Steer(stop="drain", agents=3))
    report = engine.work(settings, [scripted("say x")], watcher=None)
    assert (_standing(report), report.ending) == ({"completed": 1}, Ending())
    with api.open_sync(settings.db) as hive:
        assert (hive.steering().stop, hive.steering().agents) == ("no", None)


def test_runs_of_a_dead_engine_are_counted(tmp_path: Path) -> None:
    """What an engine that died left open is taken up again, and the report says how much that was."""
    settings = _settings(tmp_path)
    with api.open_sync(settings.db) as hive:
        hive.add([scripted("say x"), scripted("say x")])
        dead = {"dead": 2}
        assert len(api.drive(hive._hive._store.claim(_host(), dead, Limits(agents=2)))) == 2
    report = engine.work(settings, [], watcher=None)
    assert (report.recovered, _standing(report)) == (2, {"completed": 2})


def test_the_state_directory_is_kept_out_of_git(tmp_path: Path) -> None:
    """An engine in a repository makes git ignore what Hive keeps there, without touching a tracked file."""
    user = make_repo(tmp_path)
    settings = _settings(tmp_path, repo=user.path, db=f"sqlite:///{user.path}/.hive/hive.db")
    engine.work(settings, [command("true")], watcher=None)
    assert user.git("status", "--porcelain") == ""


class Noted:
    """A watcher that counts its looks."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.looks = 0
        self.closed = False

    def poll(self) -> None:
        self.looks += 1

    def close(self) -> None:
        self.closed = True


def test_the_watcher_starts_where_the_engine_does(tmp_path: Path) -> None:
    """Progress is shown from the first event of this run on, and closed with it."""
    settings = _settings(tmp_path)
    engine.work(settings, [scripted("say x")], watcher=None)
    with api.open_sync(settings.db) as hive:
        last = hive.counts().last_seq
    watchers: list[Noted] = []

    def make(after: int) -> Noted:
        watchers.append(Noted(after))
        return watchers[0]

    engine.work(settings, [scripted("sleep 0.1")], watcher=make)
    [watcher] = watchers
    assert watcher.after == last
    assert watcher.looks > 0
    assert watcher.closed


def _settings(directory: Path, **changes: Any) -> Any:
    return replace(settings_for(directory, **changes), sync=True)


def _standing(report: engine.Report) -> dict[str, int]:
    return {state.value: number for state, number in report.by_state.items() if number and state in State}


def _host() -> str:
    import socket

    return socket.gethostname()


def test_a_queue_that_was_deleted_meanwhile_is_no_success(tmp_path: Path) -> None:
    """When the queue's file goes while the engine runs, that is said and nothing is made up from an empty queue."""
    settings = load(tmp_path, {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, {"sync": True})
    database = tmp_path / ".hive" / "hive.db"
    remove = NewTask("remove", command=("rm", str(database)), agent="command", workspace=WorkspaceKind.NONE)
    with pytest.raises(StoreUnsupported) as gone:
        engine.work(settings, [remove], watcher=None)
    assert gone.value.code == "H310"
