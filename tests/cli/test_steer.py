from __future__ import annotations

import pytest

from hive.api import SyncHive
from hive.lock import EngineLock
from tests.cli.conftest import Cli, Zoo


def test_set_prints_old_and_new(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """The number of agents changes in the queue, and both values are said."""
    assert cli("set", "agents=4").lines[0] == "agents: as started -> 4"
    assert cli("set", "agents=40").lines[0] == "agents: 4 -> 40"
    assert cli("set", "agents=40").lines[0] == "nothing to change: it is so already"
    assert queue.steering().agents == 40


def test_pause_and_resume_are_opposites(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """Both print what changed; without an engine they hold for the next."""
    assert cli("pause").lines == ["paused: no -> yes", "no engine runs; this holds for the next one"]
    assert queue.steering().paused
    data = cli("resume", "--json").data
    assert (data["schema"], data["before"]["paused"], data["after"]["paused"]) == ("hive.steering/1", True, False)


def test_stop_reaches_only_an_engine_that_runs(cli: Cli, zoo: Zoo, queue: SyncHive) -> None:
    """Without an engine nothing is kept that would stop the next one; with one, drain or now is asked."""
    assert cli("stop").out == "no engine runs\n"
    assert queue.steering().stop == "no"
    lock = EngineLock(zoo.seed.path.with_name("hive.db.engine"))
    try:
        assert cli("stop").lines == ["stop: no -> drain"]
        assert cli("stop", "--now").lines == ["stop: drain -> now"]
    finally:
        lock.close()


@pytest.mark.parametrize("value", ["agents=0", "agents=many", "agents", "budget=3", "agents=99999"])
def test_what_cannot_be_set_is_refused(cli: Cli, zoo: Zoo, queue: SyncHive, value: str) -> None:
    """Unknown names and wrong numbers exit with 2 and change nothing."""
    answer = cli("set", value)
    assert (answer.code, "error[H135]" in answer.err) == (2, True)
    assert queue.steering().agents is None
