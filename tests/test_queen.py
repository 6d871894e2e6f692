from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hive.agent.proctable import boot_id
from hive.clock import Clock, ManualClock, SystemClock
from hive.lifecycle import advance
from hive.model import Errored, Limited, Outcome, RunId, State, Succeeded, TaskId
from hive.queen import Queen, finished
from hive.store import Cancel, Counts, Hold, Limits, Release, Steer, Store
from hive.store.memory import MemoryStore
from hive.store.sqlite import SqliteStore
from tests.rig import HOST, agent_process, alive, fill_disk, memory, scripted, settings_for, until, until_awaited

LIVE = "here.0.live"
OTHER = "here.1.live"
DEAD = "here.0.dead"
Frames = list[tuple[str, tuple[RunId, ...]]]


class Pipe:
    """The queen's end of a shard's pipe, with the shard's answer to each frame."""

    def __init__(self, answer: Callable[[str, tuple[RunId, ...]], bool] = lambda *_: True) -> None:
        self.frames: Frames = []
        self.answer = answer

    def send(self, kind: str, run_ids: Sequence[RunId] = ()) -> bool:
        self.frames.append((kind, tuple(run_ids)))
        return self.answer(kind, tuple(run_ids))

    def dealt(self) -> list[RunId]:
        return [run_id for kind, run_ids in self.frames if kind == "run" for run_id in run_ids]


class Court:
    """A queen at work in this very loop, with pipes that are lists."""

    def __init__(
        self, directory: Path, store: Store, shards: Sequence[str], clock: Clock, changes: Mapping[str, Any]
    ) -> None:
        self.store = store
        self.pipes = {name: Pipe() for name in shards}
        self.asked: list[str] = []
        self.silent: list[str] = []
        agents = changes.get("agents", 4)
        self.settings = settings_for(directory, **{name: value for name, value in changes.items() if name != "most"})
        self.queen = Queen(
            self.settings,
            store,
            self.pipes,
            host=HOST,
            agents=agents,
            clock=clock,
            asked_to_stop=self.asked.append,
            fell_silent=self.silent.append,
            most=changes.get("most", 1000),
        )

    @property
    def pipe(self) -> Pipe:
        return self.pipes[LIVE]

    def start(self) -> None:
        self.work = asyncio.create_task(self.queen.run())

    async def end(self, run_id: RunId, outcome: Outcome | None = None) -> None:
        """End a run as its worker would."""
        [assignment] = await self.store.load([run_id])
        step = advance(assignment.task, outcome or Succeeded(), self.settings.rules(SystemClock().now_ms(), 0.0))
        await self.store.finish(run_id, step)
        self.queen.wake()

    async def add(self, count: int, **fields: Any) -> list[TaskId]:
        added = await self.store.add([scripted("say x", **fields) for _ in range(count)])
        self.queen.wake()
        return [one.id for one in added]


@asynccontextmanager
async def court(
    directory: Path,
    store: Store | None = None,
    shards: Sequence[str] = (LIVE,),
    clock: Clock | None = None,
    *,
    start: bool = True,
    **changes: Any,
) -> AsyncIterator[Court]:
    clock = clock or SystemClock()
    found = Court(directory, store or memory(clock), shards, clock, changes)
    if start:
        found.start()
    yield found
    found.work.cancel()
    await asyncio.gather(found.work, return_exceptions=True)


# --- the ordinary day


async def test_the_queen_deals_what_may_start_until_nothing_is_left(tmp_path: Path) -> None:
    """Every task is claimed and dealt once, never more at once than agents, and then her work is done."""
    async with court(tmp_path, start=False) as here:
        await here.add(10)
        here.start()
        for done in range(10):
            await until(lambda done=done: len(here.pipe.dealt()) == min(10, done + 4))  # type: ignore[misc]
            await here.end(here.pipe.dealt()[done])
        await asyncio.wait_for(here.work, 10)
    assert len(set(here.pipe.dealt())) == 10


async def test_work_is_spread_over_the_shards(tmp_path: Path) -> None:
    """The emptiest shard gets the next run: five agents on two shards are three and two."""
    async with court(tmp_path, shards=(LIVE, OTHER), agents=5, start=False) as here:
        await here.add(9)
        here.start()
        await until(lambda: sum(len(pipe.dealt()) for pipe in here.pipes.values()) == 5)
        assert sorted(len(pipe.dealt()) for pipe in here.pipes.values()) == [2, 3]


async def test_a_role_never_has_more_runs_than_its_limit(tmp_path: Path) -> None:
    """A crowded role waits while others go on; a limit of zero stops it altogether."""
    async with court(tmp_path, agents=10, role_limits={"coder": 2, "tester": 0}, start=False) as here:
        await here.add(5)
        await here.add(5, role="tester")
        other = await here.add(1, role="backend", priority=-5)
        here.start()
        await until(lambda: len(here.pipe.dealt()) == 3)
        await until_awaited(lambda: _is(here.store, other[0], State.IN_PROGRESS))
        await here.end(here.pipe.dealt()[0])
        await until(lambda: len(here.pipe.dealt()) == 4)
        assert len(await here.store.open_runs(HOST)) == 3


async def test_a_hint_wakes_her(tmp_path: Path) -> None:
    """Told that something changed she looks at once instead of at her next beat."""
    async with court(tmp_path, agents=100, start=False) as here:
        await here.add(1)
        here.start()
        began_s = time.monotonic()
        for number in range(1, 13):
            await until(lambda number=number: len(here.pipe.dealt()) == number)  # type: ignore[misc]
            await here.add(1)
        assert time.monotonic() - began_s < 12 * 0.25 * 0.6


async def test_she_waits_for_what_comes_due(tmp_path: Path) -> None:
    """A task that waits for its moment keeps her at work and is dealt when it has come."""
    async with court(tmp_path, limit_wait_s=0.2) as here:
        await here.add(1)
        await until(lambda: here.pipe.dealt())
        await here.end(here.pipe.dealt()[0], Limited(None))
        began_s = time.monotonic()
        await until(lambda: len(here.pipe.dealt()) == 2)
        assert time.monotonic() - began_s > 0.1


# --- after a death


async def test_what_was_claimed_but_never_dealt_is_dealt_by_her_successor(tmp_path: Path) -> None:
    """A queen that died between claim and deal leaves open runs: the next one's first act is to deal them."""
    store = memory()
    await store.add([scripted("say x"), scripted("say x")])
    claimed = await store.claim(HOST, {LIVE: 2}, Limits(agents=2))
    async with court(tmp_path, store) as here:
        await until(lambda: here.pipe.dealt())
    assert here.pipe.frames[0] == ("run", tuple(claim.run_id for claim in claimed))


async def test_runs_of_dead_incarnations_start_again_after_their_agents_were_stopped(tmp_path: Path) -> None:
    """An agent that ignores TERM is dead before its task is dealt again; that is told as a fact."""
    store = memory()
    await store.add([scripted("say x")])
    [claim] = await store.claim(HOST, {DEAD: 1}, Limits(agents=1))
    with agent_process(f"{store.store_id}.{claim.run_id}", "trap '' TERM; while :; do sleep 1; done", DEAD) as agent:
        await store.attach(claim.run_id, agent)
        alive_when_dealt: list[bool] = []

        def note(*_: object) -> bool:
            alive_when_dealt.append(alive(agent.pid))
            return True

        async with court(tmp_path, store, grace_s=0.1, start=False) as here:
            here.pipe.answer = note
            here.start()
            await until(lambda: here.pipe.dealt())
    assert alive_when_dealt == [False]
    assert [run.outcome for run in await store.runs(claim.task_id)] == ["lost", None]
    recovered = [event.data for event in await store.events() if event.kind == "engine.recovered"]
    assert recovered == [{"runs": 1}]


async def test_a_run_of_a_dead_incarnation_that_never_started_has_spent_no_attempt(tmp_path: Path) -> None:
    """A shard that died before its agent was at work gives the task back as if it had not been claimed."""
    store = MemoryStore(SystemClock())
    await store.add([scripted("say x", retries=0)])
    [claim] = await store.claim(HOST, {DEAD: 1}, Limits(agents=1))
    async with court(tmp_path, store) as here:
        await until(lambda: here.pipe.dealt())
    runs = await store.runs(claim.task_id)
    assert [(run.outcome, run.attempt) for run in runs] == [("interrupted", 1), (None, 1)]


async def test_a_living_shard_whose_lease_ran_out_is_told_of(tmp_path: Path) -> None:
    """A shard that lives but no longer renews is named to the supervisor; its runs are left until it is dead."""
    clock = ManualClock()
    store = MemoryStore(clock)
    await store.add([scripted("say x")])
    [claim] = await store.claim(HOST, {LIVE: 1}, Limits(agents=1))
    await store.renew(LIVE, HOST, [claim.run_id], lease_s=60.0)
    async with court(tmp_path, store, clock=clock) as here:
        await until(lambda: here.pipe.dealt())
        assert here.silent == []
        clock.advance(61.0)
        here.queen.wake()
        await until(lambda: here.silent)
    assert set(here.silent) == {LIVE}
    assert [run.outcome for run in await store.runs(claim.task_id)] == [None]


async def test_what_an_ended_run_of_a_dead_shard_left_behind_is_stopped(tmp_path: Path) -> None:
    """A daemon whose run ended well goes too, if its shard died before looking for it; those of others stay."""
    store = memory()
    with (
        agent_process(f"{store.store_id}.1", "sleep 300", DEAD) as stray,
        agent_process(f"{store.store_id}.2", "sleep 300", LIVE) as ours,
        agent_process("d" * 12 + ".1", "sleep 300", DEAD) as other,
    ):
        async with court(tmp_path, store, grace_s=0.1) as here:
            await here.work
        assert not alive(stray.pid)
        assert alive(ours.pid)
        assert alive(other.pid)


async def test_agents_of_living_shards_are_left_alone(tmp_path: Path) -> None:
    """A new queen touches no run of a shard that lives."""
    store = memory()
    await store.add([scripted("say x")])
    [claim] = await store.claim(HOST, {LIVE: 1}, Limits(agents=1))
    with agent_process(f"{store.store_id}.{claim.run_id}", "sleep 300", LIVE) as agent:
        await store.attach(claim.run_id, agent)
        async with court(tmp_path, store) as here:
            await until(lambda: here.pipe.dealt())
        assert alive(agent.pid)
    assert [run.outcome for run in await store.runs(claim.task_id)] == [None]


async def test_a_frame_that_did_not_go_through_is_dealt_again_later(tmp_path: Path) -> None:
    """A full pipe costs a beat, not the run."""
    async with court(tmp_path, start=False) as here:
        answers = iter([False, False])
        here.pipe.answer = lambda *_: next(answers, True)
        await here.add(1)
        here.start()
        await until(lambda: len(here.pipe.dealt()) == 3)
    assert len(set(here.pipe.dealt())) == 1


async def test_open_runs_are_dealt_again_with_every_renewal_interval(tmp_path: Path) -> None:
    """A frame that a shard lost comes again by itself."""
    clock = ManualClock()
    async with court(tmp_path, clock=clock, renew_s=15.0) as here:
        await here.add(1)
        await until(lambda: here.pipe.dealt())
        clock.advance(14.0)
        here.queen.wake()
        await asyncio.sleep(0.1)
        assert len(here.pipe.dealt()) == 1
        clock.advance(2.0)
        here.queen.wake()
        await until(lambda: len(here.pipe.dealt()) == 2)


async def test_a_full_disk_pauses_her(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the store has no space she says so and waits; nothing that was claimed is lost."""
    store = await SqliteStore.open_inline(tmp_path / "hive.db", clock=SystemClock(), boot_id=boot_id())
    await store.add([scripted("say x") for _ in range(3)])
    lift = await fill_disk(store)
    said = ""
    async with court(tmp_path, store) as here:
        while "H308" not in said:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().err
        assert here.pipe.dealt() == []
        lift()
        await until(lambda: len(here.pipe.dealt()) == 3)
    await store.close()


# --- what people ask


async def test_a_paused_queen_starts_nothing(tmp_path: Path) -> None:
    """While paused nothing is claimed and she does not end; afterwards work goes on."""
    async with court(tmp_path, start=False) as here:
        await here.store.control(Steer(paused=True))
        await here.add(2)
        here.start()
        await asyncio.sleep(0.3)
        assert here.pipe.dealt() == []
        assert not here.work.done()
        await here.store.control(Steer(paused=False))
        await until(lambda: len(here.pipe.dealt()) == 2)


async def test_a_paused_queen_does_not_spin(tmp_path: Path) -> None:
    """A parked task whose moment has come while she is paused does not keep her busy."""

    class Counting(MemoryStore):
        looks = 0

        async def counts(self) -> Counts:
            self.looks += 1
            return await super().counts()

    store = Counting(SystemClock())
    async with court(tmp_path, store, backoff_base_s=0.01, backoff_cap_s=0.01) as here:
        await here.add(1)
        await until(lambda: here.pipe.dealt())
        await store.control(Steer(paused=True))
        await asyncio.sleep(0.3)
        rules = here.settings.rules(SystemClock().now_ms(), 0.9)
        [assignment] = await store.load(here.pipe.dealt())
        await store.finish(assignment.run.id, advance(assignment.task, Errored("exit", "no"), rules))
        store.looks = 0
        await asyncio.sleep(0.5)
        assert (await store.counts()).parked == 1
        assert store.looks < 30


async def test_the_number_of_agents_can_be_changed_while_she_works(tmp_path: Path) -> None:
    """Fewer agents means nothing new until enough have ended; more means more at once."""
    async with court(tmp_path, agents=2, start=False) as here:
        await here.add(8)
        here.start()
        await until(lambda: len(here.pipe.dealt()) == 2)
        await here.store.control(Steer(agents=5))
        await until(lambda: len(here.pipe.dealt()) == 5)
        await here.store.control(Steer(agents=1))
        await asyncio.sleep(0.3)
        for run_id in here.pipe.dealt()[:4]:
            await here.end(run_id)
        await asyncio.sleep(0.1)
        assert len(here.pipe.dealt()) == 5
        await here.end(here.pipe.dealt()[4])
        await until(lambda: len(here.pipe.dealt()) == 6)


async def test_no_number_of_agents_exceeds_what_the_engine_can_do(tmp_path: Path) -> None:
    """An engine for one task at a time stays one, whatever a person asks for."""
    async with court(tmp_path, agents=1, most=1, start=False) as here:
        await here.store.control(Steer(agents=5))
        await here.add(3)
        here.start()
        await until(lambda: here.pipe.dealt())
        await asyncio.sleep(0.3)
        assert len(here.pipe.dealt()) == 1


@pytest.mark.parametrize("how", ["drain", "now"])
async def test_an_order_to_stop_is_passed_on_and_nothing_new_starts(tmp_path: Path, how: str) -> None:
    """She tells the supervisor how to stop, and claims nothing from that moment on."""
    async with court(tmp_path, start=False) as here:
        await here.store.control(Steer(stop=how))
        await here.add(1)
        here.start()
        await until(lambda: here.asked)
        await asyncio.sleep(0.1)
        assert set(here.asked) == {how}
        assert here.pipe.dealt() == []


async def test_a_cancel_of_running_work_is_passed_on_at_once(tmp_path: Path) -> None:
    """Every shard is told once to look for cancelled runs."""
    async with court(tmp_path, shards=(LIVE, OTHER)) as here:
        ids = await here.add(1)
        await until(lambda: [pipe for pipe in here.pipes.values() if pipe.dealt()])
        await here.store.control(Cancel((ids[0],)))
        await until(lambda: all(("renew", ()) in pipe.frames for pipe in here.pipes.values()))
        await asyncio.sleep(0.3)
        assert [pipe.frames.count(("renew", ())) for pipe in here.pipes.values()] == [1, 1]


async def test_held_work_does_not_keep_her(tmp_path: Path) -> None:
    """Tasks that only a person can move do not keep the engine running."""
    async with court(tmp_path, start=False) as here:
        ids = await here.add(2)
        await here.store.control(Hold(tuple(ids)))
        here.start()
        await asyncio.wait_for(here.work, 10)
        await here.store.control(Release((ids[0],)))
    assert here.pipe.dealt() == []


# --- when there is nothing left


@pytest.mark.parametrize(
    ("standing", "paused", "expected"),
    [
        ({}, False, True),
        ({"completed": 3, "failed": 1, "cancelled": 1}, False, True),
        ({"needs_you": 1}, False, True),
        ({"blocked": 1}, False, True),
        ({"waiting": 1}, False, True),
        ({"held": 1}, False, True),
        ({"held and parked": 1}, False, True),
        ({"in_progress": 1}, False, False),
        ({"in_progress": 1}, True, False),
        ({"startable": 1}, False, False),
        ({"startable": 1}, True, False),
        ({"parked": 1}, False, False),
        ({"parked": 1}, True, False),
        ({}, True, False),
    ],
)
def test_she_ends_when_nothing_can_move_without_a_person(
    *, standing: Mapping[str, int], paused: bool, expected: bool
) -> None:
    """Running, startable and parked work keeps the engine; held, blocked, waiting and stuck work does not.

    A paused engine waits for whoever paused it.
    """
    by_state = {state: standing.get(state.value, 0) for state in State}
    startable, parked = standing.get("startable", 0), standing.get("parked", 0)
    by_state[State.QUEUED] = startable + parked + standing.get("held", 0) + standing.get("held and parked", 0)
    counts = Counts(by_state, {}, startable, parked, None)
    assert finished(counts, paused=paused) is expected


async def _is(store: Store, task_id: TaskId, state: State) -> bool:
    task = await store.task(task_id)
    return task is not None and task.state is state
