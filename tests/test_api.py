from __future__ import annotations

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hive
from hive import api
from hive.clock import ManualClock
from hive.errors import HiveError, StoreUnsupported, UsageError
from hive.lock import EngineLock
from hive.model import Event, Phase, Reason, State
from hive.store import Added, Hold, Steer, TaskQuery
from tests.conftest import ROOT
from tests.rig import command, until

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a queue that does not exist yet."""
    return f"sqlite:///{tmp_path}/.hive/hive.db"


@pytest.fixture
def queue(url: str) -> Iterator[api.SyncHive]:
    """Return a queue for plain code."""
    with hive.open_sync(url) as opened:
        yield opened


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, from which an engine finds this package and no settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("HIVE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def work(title: str, **fields: Any) -> hive.NewTask:
    """Return a task that asks for something."""
    return hive.NewTask(title, prompt="Do it.", **fields)


# --- two doors


def test_both_doors_have_the_same_verbs() -> None:
    """Every public name of one class is there in the other, with the same arguments and defaults."""
    one, other = _verbs(api.Hive), _verbs(api.SyncHive)
    assert one.keys() == other.keys()
    for name in one:
        assert _arguments(one[name]) == _arguments(other[name]), name


def test_what_plain_code_gets_is_what_asyncio_gets() -> None:
    """Answers have the same type behind both doors, but for what awaits and iterates."""
    for name, verb in _verbs(api.Hive).items():
        asynchronous = inspect.signature(verb).return_annotation
        plain = inspect.signature(_verbs(api.SyncHive)[name]).return_annotation
        assert asynchronous.replace("AsyncIterator", "Iterator") == plain, name


def test_every_verb_says_what_it_does() -> None:
    """Each public verb of both doors has a docstring."""
    for kind in (api.Hive, api.SyncHive):
        assert [name for name, verb in _verbs(kind).items() if not (verb.__doc__ or "").strip()] == []


def test_the_package_names_what_people_need() -> None:
    """Everything promised by the package can be had from it, and nothing else answers."""
    for name in hive.__all__:
        assert getattr(hive, name) is not None
    with pytest.raises(AttributeError, match="no attribute `nonsense`"):
        hive.nonsense  # noqa: B018


# --- verbs


def test_a_story_in_plain_code(queue: api.SyncHive) -> None:
    """Adding, looking, cancelling and retrying work without an event loop."""
    one, two = queue.add([work("one", key="1", tags=("x",)), work("two", key="2", after=("1",))])
    assert (one.created, queue.add([work("one again", key="1")])[0]) == (
        True,
        Added(one.id, created=False),
    )
    assert [task.spec.title for task in queue.tasks()] == ["one", "two"]
    assert [task.id for task in queue.tasks(TaskQuery(tag="x"))] == [one.id]
    assert queue.needs(two.id) == [one.id]
    assert queue.task(4711) is None
    assert queue.runs(one.id) == []
    assert queue.counts().by_state[State.BLOCKED] == 1
    assert queue.cancel(one.id, 4711).refused == ((4711, "no such task"),)
    assert [_state(queue, added.id) for added in (one, two)] == [State.CANCELLED, State.FAILED]
    assert queue.retry(one.id, phase=Phase.APPLY, note="again").changed == (one.id,)
    assert [_state(queue, added.id) for added in (one, two)] == [State.QUEUED, State.BLOCKED]
    queue.control(Hold((one.id,)))
    queue.control(Steer(paused=True))
    assert queue.steering().paused
    assert [totals.batch for totals in queue.ledger()] == ["default"]
    assert len(queue.store_id) == 12


async def test_the_same_story_in_asyncio(url: str) -> None:
    """The verbs for asyncio see what plain code wrote, and answer alike."""
    async with hive.open(url) as queue:
        [one] = await queue.add([work("one", key="1")])
        with hive.open_sync(url) as plain:
            assert plain.task(one.id) == await queue.task(one.id)
            assert plain.store_id == queue.store_id
            assert plain.counts() == await queue.counts()
        assert (await queue.cancel(one.id)).changed == (one.id,)
        assert (await queue.retry(one.id)).changed == (one.id,)
        assert (await queue.needs(one.id), await queue.runs(one.id)) == ([], [])
        assert (await queue.tasks())[0].state is State.QUEUED
        await queue.control(Steer(paused=True))
        assert (await queue.steering()).paused
        assert [totals.batch for totals in await queue.ledger()] == ["default"]


def test_tasks_that_do_not_fit_together_are_not_added(queue: api.SyncHive) -> None:
    """A need that nobody knows refuses all of them."""
    with pytest.raises(UsageError):
        queue.add([work("one"), work("two", after=("nobody",))])
    assert queue.tasks() == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"phases": ()}, "H116"),
        ({"phases": (Phase.APPLY, Phase.REVIEW)}, "H120"),
        ({"phases": (Phase.MERGE,)}, "H120"),
        ({"phases": (Phase.TEST, Phase.APPLY)}, "H114"),
        ({"phases": (Phase.APPLY, Phase.APPLY)}, "H114"),
        ({"agent": "somebody"}, "H121"),
        ({"agent": "command"}, "H138"),
        ({"agent": "scripted", "script": " "}, "H138"),
        ({"agent": "claude", "prompt": "", "command": ("true",)}, "H138"),
        ({"prompt": ""}, "H138"),
    ],
)
async def test_tasks_that_no_engine_could_work_are_not_added(url: str, fields: dict[str, Any], code: str) -> None:
    """Phases of another version, no phases, unknown agents and tasks without work are refused behind both doors."""
    wrong = hive.NewTask(**{"title": "wrong", "prompt": "Do it.", **fields})
    async with hive.open(url) as queue:
        with pytest.raises(UsageError, match="`wrong`") as caught:
            await queue.add([work("right"), wrong])
        assert caught.value.code == code
        with hive.open_sync(url) as plain, pytest.raises(UsageError, match="`wrong`"):
            plain.add([work("right"), wrong])
        assert await queue.tasks() == []


def test_tasks_that_are_only_tested_need_nothing_else(queue: api.SyncHive) -> None:
    """A task without the phase apply needs no agent's work."""
    assert queue.add([hive.NewTask("test", phases=(Phase.TEST,), test=("true",))])[0].created


async def test_a_queue_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    """Both doors raise the store's own error."""
    (tmp_path / "hive.db").write_text("no database" * 100)
    with pytest.raises(StoreUnsupported):
        hive.open_sync(f"sqlite:///{tmp_path}/hive.db")
    with pytest.raises(StoreUnsupported):
        async with hive.open(f"sqlite:///{tmp_path}/hive.db"):
            pass


async def test_the_queue_is_closed_whatever_happens_inside(url: str) -> None:
    """Leaving the block by an error closes the queue and passes the error on."""
    with pytest.raises(ZeroDivisionError):
        async with hive.open(url) as queue:
            raise ZeroDivisionError
    with pytest.raises(HiveError, match="closed"):
        await queue.counts()
    with hive.open_sync(url) as plain:
        pass
    with pytest.raises(HiveError, match="closed"):
        plain.counts()
    plain.close()


# --- events


async def test_events_are_durable_and_resumable(url: str) -> None:
    """Whoever stops listening goes on later with the number of the last event, and misses and repeats nothing."""
    async with hive.open(url) as queue:
        await queue.add([work(f"task {number}") for number in range(1500)])
        first = await _first(queue, 0, 700)
    async with hive.open(url) as queue:
        rest = await _first(queue, first[-1].seq, 800)
    assert [event.seq for event in [*first, *rest]] == list(range(1, 1501))
    assert {event.kind for event in [*first, *rest]} == {"task.added"}


async def test_events_come_as_they_happen(url: str) -> None:
    """A listener that has seen all waits for the next, from whatever process it comes."""
    async with hive.open(url) as queue:
        heard: list[Event] = []

        async def listen() -> None:
            async for event in queue.events():
                heard.append(event)  # noqa: PERF401 - the list is looked at while it grows

        listening = asyncio.create_task(listen())
        with hive.open_sync(url) as plain:
            for number in range(1, 4):
                plain.add([work("later")])
                await until(lambda number=number: len(heard) == number)  # type: ignore[misc]
        listening.cancel()


def test_plain_code_listens_too(queue: api.SyncHive) -> None:
    """The plain iterator yields the same events, and one can stop listening at any time."""
    queue.add([work("one"), work("two")])
    events = queue.events()
    assert [next(events).seq, next(events).seq] == [1, 2]
    assert next(queue.events(1)).seq == 2
    assert [event.seq for event in queue.past_events(limit=1)] == [1]
    assert [event.seq for event in queue.past_events(task_id=2)] == [2]


# --- waiting


async def test_waiting_ends_when_all_are_settled(url: str) -> None:
    """Final tasks and those that need a person are settled; the others are waited for."""
    clock = ManualClock()
    async with hive.open(url, clock=clock) as queue:
        ids = [added.id for added in await queue.add([work("one"), work("two")])]
        waiting = asyncio.create_task(queue.wait(*ids))
        await queue.cancel(ids[0])
        clock.advance(1.0)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await queue.cancel(ids[1])
        while not waiting.done():
            clock.advance(1.0)
            await asyncio.sleep(0.01)
        assert [task.id for task in await waiting] == ids


def test_waiting_too_long_is_an_error_that_changes_nothing(queue: api.SyncHive) -> None:
    """The error names the time that was given."""
    [added] = queue.add([work("one")])
    with pytest.raises(TimeoutError, match=r"not settled after 0\.1 s"):
        queue.wait(added.id, timeout_s=0.1)
    assert _state(queue, added.id) is State.QUEUED


async def test_waiting_too_long_in_asyncio(url: str) -> None:
    """The same error comes behind the other door."""
    async with hive.open(url) as queue:
        [added] = await queue.add([work("one")])
        with pytest.raises(TimeoutError, match=r"not settled after 0\.1 s"):
            await queue.wait(added.id, timeout_s=0.1)


def test_waiting_for_nobody(queue: api.SyncHive) -> None:
    """A task that does not exist is not waited for."""
    with pytest.raises(UsageError, match="there is no task 4711"):
        queue.wait(4711)
    assert queue.wait() == []


def test_a_verb_that_would_wait_is_a_bug() -> None:
    """Plain code never gets a half-done answer: what would wait raises."""

    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited"):
        api.drive(waits())


# --- the engine


def test_running_the_engine_works_the_queue(here: Path) -> None:
    """`run` starts the same engine as the command line and says how it came out."""
    with hive.open_sync("sqlite:///.hive/hive.db") as queue:
        good, bad = queue.add([command("true"), command("false", retries=0)])
        summary = queue.run("--agents", "2", "--cores", "1")
        assert (summary.exit_code, summary.reason) == (1, "failed")
        assert (summary.states["completed"], summary.states["failed"]) == (1, 1)
        assert summary.wall_s > 0
        assert _state(queue, good.id) is State.COMPLETED
        task = queue.task(bad.id)
        assert task is not None
        assert task.reason is Reason.ATTEMPTS_EXHAUSTED


async def test_running_the_engine_beside_other_things(here: Path) -> None:
    """In asyncio the engine runs while the program goes on and waits for single tasks."""
    async with hive.open("sqlite:///.hive/hive.db") as queue:
        [added] = await queue.add([command("true")])
        engine = asyncio.create_task(queue.run("--cores", "1"))
        [task] = await queue.wait(added.id, timeout_s=30)
        assert task.state is State.COMPLETED
        assert (await engine).reason == "completed"


async def test_an_engine_that_cannot_start_says_why(here: Path) -> None:
    """The engine's own words come as the error, behind both doors."""
    lock = EngineLock(here / ".hive" / "hive.db.engine")
    with hive.open_sync("sqlite:///.hive/hive.db") as queue, pytest.raises(HiveError, match="H220"):
        queue.run()
    async with hive.open("sqlite:///.hive/hive.db") as other:
        with pytest.raises(HiveError, match="H220"):
            await other.run()
    lock.close()


def test_the_engine_is_not_taken_from_where_the_program_stands(here: Path) -> None:
    """A directory of the same name in the current directory is not mistaken for Hive."""
    (here / "hive").mkdir()
    (here / "hive" / "__init__.py").touch()
    (here / "hive" / "__main__.py").write_text("raise SystemExit('hijacked')")
    with hive.open_sync("sqlite:///.hive/hive.db") as queue:
        queue.add([command("true")])
        assert queue.run("--sync").reason == "completed"


def test_events_on_the_way_do_not_hide_the_summary(here: Path) -> None:
    """The summary is found behind the events that were asked for."""
    with hive.open_sync("sqlite:///.hive/hive.db") as queue:
        queue.add([command("true")])
        assert queue.run("--sync", "--progress", "json").reason == "completed"


async def test_cancelling_a_run_stops_its_engine(here: Path) -> None:
    """The agent at work is stopped, the engine ends before the cancellation is passed on, and nothing is lost."""
    async with hive.open("sqlite:///.hive/hive.db") as queue:
        [added] = await queue.add([command("sh", "-c", "echo $$ > agent.pid; exec sleep 300")])
        engine = asyncio.create_task(queue.run("--cores", "1"))
        await until(lambda: _pid_in(here / "agent.pid") is not None)
        began_s = time.monotonic()
        engine.cancel()
        with pytest.raises(asyncio.CancelledError):
            await engine
        assert time.monotonic() - began_s < 20
        _assert_stopped(here)
        task = await queue.task(added.id)
        assert task is not None
        assert (task.state, task.attempt) == (State.QUEUED, 0)


async def test_cancelling_twice_kills_the_engine(here: Path) -> None:
    """An impatient program that cancels again does not wait for a stubborn agent longer than its grace time."""
    (here / "hive.toml").write_text('grace = "1s"\n')
    stubborn = "trap '' TERM; echo $$ > agent.pid; while :; do sleep 1; done"
    async with hive.open("sqlite:///.hive/hive.db") as queue:
        await queue.add([command("sh", "-c", stubborn)])
        engine = asyncio.create_task(queue.run("--cores", "1"))
        await until(lambda: _pid_in(here / "agent.pid") is not None)
        engine.cancel()
        done, _ = await asyncio.wait([engine], timeout=0.2)
        assert not done
        engine.cancel()
        with pytest.raises(asyncio.CancelledError):
            await engine
        await until(lambda: _gone(here))
        EngineLock(here / ".hive" / "hive.db.engine").close()


def test_an_interrupt_stops_the_engine_of_plain_code(here: Path) -> None:
    """KeyboardInterrupt in the program ends its engine and the agents, then goes on as itself."""
    program = (
        "import hive\n"
        "with hive.open_sync('sqlite:///.hive/hive.db') as queue:\n"
        "    try: queue.run('--cores', '1')\n"
        "    except KeyboardInterrupt: print('interrupted')\n"
    )
    with hive.open_sync("sqlite:///.hive/hive.db") as queue:
        [added] = queue.add([command("sh", "-c", "echo $$ > agent.pid; exec sleep 300")])
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            deadline_s = time.monotonic() + 30
            while _pid_in(here / "agent.pid") is None:
                assert time.monotonic() < deadline_s
                process.poll()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            out, _ = process.communicate(timeout=30)
        assert (out, process.returncode) == ("interrupted\n", 0)
        _assert_stopped(here)
        assert _state(queue, added.id) is State.QUEUED


def test_the_page_has_an_example_for_each_door() -> None:
    """docs/api.md shows plain code and asyncio."""
    assert any("open_sync" in block for block in BLOCKS)
    assert any("asyncio.run" in block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_examples_of_the_page_run(here: Path, block: str) -> None:
    """Each example of docs/api.md runs as it stands, in an empty directory, and prints something."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_page_names_every_verb() -> None:
    """No public verb is missing from docs/api.md."""
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in _verbs(api.Hive) if f"`{name}" not in page and f", {name}(" not in page] == ["close"]


def _pid_in(path: Path) -> int | None:
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else None


def _assert_stopped(directory: Path) -> None:
    """Neither the agent nor the engine lives: the lock of the next one is free."""
    assert _gone(directory)
    EngineLock(directory / ".hive" / "hive.db.engine").close()


def _gone(directory: Path) -> bool:
    try:
        os.kill(_pid_in(directory / "agent.pid") or 0, 0)
    except ProcessLookupError:
        return True
    return False


def _verbs(kind: type) -> dict[str, Callable[..., object]]:
    public = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    verbs = {name: value.fget if isinstance(value, property) else value for name, value in public.items()}
    return {name: verb for name, verb in verbs.items() if callable(verb)}


def _arguments(verb: Callable[..., object]) -> list[tuple[str, object, object, object]]:
    parameters = inspect.signature(verb).parameters.values()
    return [(one.name, one.kind, one.default, one.annotation) for one in parameters]


async def _first(queue: api.Hive, after: int, count: int) -> list[Event]:
    events = queue.events(after)
    return [await anext(events) for _ in range(count)]


def _state(queue: api.SyncHive, task_id: int) -> State:
    task = queue.task(task_id)
    assert task is not None
    return task.state
