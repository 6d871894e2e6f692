from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from hive.agent.process import Launcher
from hive.agent.proctable import carriers

from .conftest import until


def daemon(mark: str) -> None:
    """Start a process that is nobody's child and carries the mark."""
    env = {"PATH": os.environ["PATH"], "HIVE_RUN_ID": mark}
    subprocess.run(["sh", "-c", "setsid sleep 300 &"], env=env, check=True)


async def test_marks_given_for_later_are_swept_together(launcher: Launcher, mark: str) -> None:
    """What ended runs left behind goes with the next sweep, and a second sweep has nothing to do."""
    marks = [f"{mark}.{number}" for number in range(3)]
    for each in marks:
        await asyncio.to_thread(daemon, each)
        launcher.sweeper.later(each)
    await until(lambda: len(carriers(marks)) == 3)
    assert await launcher.sweeper.sweep() == []
    assert carriers(marks) == []
    assert await launcher.sweeper.sweep() == []


async def test_many_requests_share_few_looks(launcher: Launcher, mark: str) -> None:
    """Each request is answered, also those another one's look took along."""
    await asyncio.to_thread(daemon, mark)
    jobs = [launcher.sweeper.stop((), [mark, f"{mark}.{number}"], 0.2) for number in range(200)]
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*map(asyncio.wrap_future, jobs))
    assert answers == [[]] * 200
    assert carriers([mark]) == []


async def test_cancelled_finish_goes_on_to_its_end(launcher: Launcher, mark: str) -> None:
    """A cancellation is raised only when the work is done."""
    await asyncio.to_thread(daemon, mark)
    finishing = asyncio.create_task(launcher.sweeper.finish((), [mark], 0.2))
    await asyncio.sleep(0)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert carriers([mark]) == []
