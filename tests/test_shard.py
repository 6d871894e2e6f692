from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hive.agent import Brief, Emit
from hive.channel import Frame
from hive.clock import SystemClock
from hive.errors import ConfigError, StoreUnavailable
from hive.lifecycle import Rules
from hive.model import Lost, NewTask, Outcome, ProcessRecord, Reason, RunId, State, Step, Succeeded, TaskId
from hive.shard import Place, Shard
from hive.store import Cancel, Finish, Limits
from hive.store.memory import MemoryStore
from tests.rig import HOST, SHARD, alive, command, memory, scripted, settings_for, until, until_awaited

NEVER = {"renew_s": 1000.0, "lease_s": 3000.0}


class Bench:
    """One shard at work in this very loop, and what it told."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.settings = settings_for(directory, **{**NEVER, **changes})
        self.store = memory()
        self.ended: list[RunId] = []
        self.registered: list[ProcessRecord] = []
        self.forgotten: Callable[[int], None] = lambda _: None
        self.renewed: Callable[[], None] = lambda: None
        place = Place(
            SHARD,
            HOST,
            2,
            lambda process, _: self.registered.append(process),
            lambda pid: self.forgotten(pid),
            lambda: self.renewed(),
        )
        self.shard = Shard(self.settings, self.store, place, clock=SystemClock(), ended=self._note)
        self.stopping = asyncio.Event()
        self.work: asyncio.Task[None] | None = None

    async def claim(self, *tasks: NewTask) -> tuple[list[TaskId], list[RunId]]:
        """Add tasks and open their runs for this shard, without telling it."""
        ids = [added.id for added in await self.store.add(tasks)]
        claimed = await self.store.claim(HOST, {SHARD: 1000}, Limits(agents=1000))
        return ids, [claim.run_id for claim in claimed]

    async def deal(self, *tasks: NewTask) -> tuple[list[TaskId], list[RunId]]:
        """Add tasks, open their runs and tell the shard."""
        ids, run_ids = await self.claim(*tasks)
        self.shard.hear(Frame("run", tuple(run_ids)))
        return ids, run_ids

    async def state(self, task_id: TaskId) -> State:
        task = await self.store.task(task_id)
        assert task is not None
        return task.state

    async def kinds(self) -> list[str]:
        return [event.kind for event in await self.store.events(limit=100_000)]

    async def drained(self) -> None:
        """Order the shard to stop and wait until it has."""
        assert self.work is not None
        self.stopping.set()
        await asyncio.wait_for(self.work, 20)

    def _note(self, run_ids: Sequence[RunId]) -> None:
        self.ended += run_ids


@asynccontextmanager
async def shard_at_work(directory: Path, **changes: Any) -> AsyncIterator[Bench]:
    bench = Bench(directory, **changes)
    bench.work = asyncio.create_task(bench.shard.run(bench.stopping))
    yield bench
    if not bench.work.done():
        bench.shard.interrupt()
        await bench.drained()


class Gated:
    """An agent whose runs end when they are told to."""

    name = "command"

    def __init__(self) -> None:
        self.briefs: list[Brief] = []
        self.gates: list[asyncio.Event] = []

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        gate = asyncio.Event()
        self.briefs.append(brief)
        self.gates.append(gate)
        await gate.wait()
        return Succeeded()


async def test_what_is_dealt_is_carried_and_its_end_is_told(tmp_path: Path) -> None:
    """Runs that the queen deals are worked to their end, of which the queen hears by id."""
    async with shard_at_work(tmp_path) as bench:
        ids, run_ids = await bench.deal(scripted("say a"), scripted("say b"))
        await until(lambda: sorted(bench.ended) == run_ids)
        assert [await bench.state(task_id) for task_id in ids] == [State.COMPLETED] * 2


async def test_a_run_dealt_again_is_not_started_again(tmp_path: Path) -> None:
    """Ids the shard carries, loads or has finished are skipped, however often they come."""
    async with shard_at_work(tmp_path) as bench:
        _, run_ids = await bench.deal(command("sh", "-c", "sleep 0.3"))
        bench.shard.accept(run_ids)
        await until(lambda: bench.registered)
        bench.shard.accept(run_ids)
        await until(lambda: bench.ended)
        bench.shard.accept(run_ids)
        await bench.drained()
    assert len(bench.registered) == 1
    assert bench.ended == run_ids


async def test_ids_nobody_knows_are_left_alone(tmp_path: Path) -> None:
    """A late or mistaken id starts nothing and does not keep the shard from ending."""
    async with shard_at_work(tmp_path) as bench:
        bench.shard.accept([RunId(4711)])
        await bench.drained()
    assert bench.ended == []


async def test_an_unknown_frame_is_no_order(tmp_path: Path) -> None:
    """A kind of frame this version does not know changes nothing."""
    async with shard_at_work(tmp_path) as bench:
        bench.shard.hear(Frame("dance", (RunId(1),)))


# --- being stopped


async def test_a_drain_lets_running_work_end(tmp_path: Path) -> None:
    """What runs when the shard is told to stop is finished, and its result is kept."""
    async with shard_at_work(tmp_path) as bench:
        [task_id], _ = await bench.deal(command("sh", "-c", "sleep 0.3"))
        await until(lambda: bench.registered)
        await bench.drained()
        assert await bench.state(task_id) is State.COMPLETED


async def test_a_drain_that_takes_too_long_interrupts(tmp_path: Path) -> None:
    """After the drain time agents are stopped, and their tasks are queued again without a spent attempt."""
    async with shard_at_work(tmp_path, drain_s=0.1) as bench:
        [task_id], _ = await bench.deal(command("sleep", "300"))
        await until(lambda: bench.registered)
        await bench.drained()
        task = await bench.store.task(task_id)
    assert task is not None
    assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.INTERRUPTED, 0)
    assert not alive(bench.registered[0].pid)


async def test_a_drain_takes_nothing_new_and_gives_back_what_never_started(tmp_path: Path) -> None:
    """A run claimed for a shard that is already draining is queued again, as if it had not been claimed."""
    async with shard_at_work(tmp_path) as bench:
        await bench.deal(command("sh", "-c", "sleep 0.3"))
        await until(lambda: bench.registered)
        bench.stopping.set()
        await until(lambda: bench.shard._draining)
        [late], run_ids = await bench.claim(command("sleep", "300"))
        bench.shard.accept(run_ids)
        await bench.drained()
        task = await bench.store.task(late)
    assert task is not None
    assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.INTERRUPTED, 0)
    assert len(bench.registered) == 1
    assert await bench.store.open_runs(HOST) == []


async def test_an_interrupt_stops_every_agent_now(tmp_path: Path) -> None:
    """All runs end as interrupted, long before the drain time is over."""
    async with shard_at_work(tmp_path, drain_s=1000.0) as bench:
        ids, _ = await bench.deal(*[command("sleep", "300") for _ in range(3)])
        await until(lambda: len(bench.registered) == 3)
        bench.stopping.set()
        bench.shard.interrupt()
        await bench.drained()
        assert [await bench.state(task_id) for task_id in ids] == [State.QUEUED] * 3
    assert not any(alive(process.pid) for process in bench.registered)


async def test_what_is_loaded_during_an_interrupt_never_starts(tmp_path: Path) -> None:
    """A run whose frame came just before the interrupt is given back instead of started."""
    async with shard_at_work(tmp_path) as bench:
        [task_id], _ = await bench.deal(command("sleep", "300"))
        bench.shard.interrupt()
        await bench.drained()
        assert await bench.state(task_id) is State.QUEUED
    assert bench.registered == []


# --- leases


async def test_one_renew_frame_ends_a_cancelled_run(tmp_path: Path) -> None:
    """The queen's hint has a shard look at once: a cancelled task's agent is stopped long before the next renewal."""
    async with shard_at_work(tmp_path) as bench:
        [task_id], _ = await bench.deal(command("sleep", "300"))
        await until(lambda: bench.registered)
        await bench.store.control(Cancel((task_id,)))
        bench.shard.hear(Frame("renew"))
        await until(lambda: bench.ended)
        assert await bench.state(task_id) is State.CANCELLED
    assert not alive(bench.registered[0].pid)


async def test_every_renew_frame_is_a_look_of_its_own(tmp_path: Path) -> None:
    """A hint that comes while an earlier one is dealt with is not lost."""
    async with shard_at_work(tmp_path) as bench:
        ids, _ = await bench.deal(command("sleep", "300"), command("sleep", "300"))
        await until(lambda: len(bench.registered) == 2)
        for task_id in ids:
            await bench.store.control(Cancel((task_id,)))
            bench.shard.hear(Frame("renew"))
        await until(lambda: len(bench.ended) == 2)


async def test_the_lease_is_renewed_from_the_first_moment(tmp_path: Path) -> None:
    """A shard makes itself known when it starts and then at every interval, to the store and to the guardian."""
    looks: list[None] = []
    async with shard_at_work(tmp_path, renew_s=0.02) as bench:
        bench.renewed = lambda: looks.append(None)
        await until(lambda: len(looks) >= 3)
        assert SHARD in bench.store._tables.lease_until_s


async def test_a_run_that_was_taken_away_is_stopped(tmp_path: Path) -> None:
    """A run that the store released meanwhile is stopped and leaves no second ending."""
    async with shard_at_work(tmp_path) as bench:
        [task_id], run_ids = await bench.deal(command("sleep", "300", retries=9))
        await until(lambda: bench.registered)
        await bench.store.release(run_ids, Lost(), bench.settings.rules(0, 0.0))
        bench.shard.hear(Frame("renew"))
        await until(lambda: bench.ended)
        assert [run.outcome for run in await bench.store.runs(task_id)] == ["lost"]
    assert not alive(bench.registered[0].pid)


async def test_a_task_cancelled_before_its_run_was_loaded_starts_no_agent(tmp_path: Path) -> None:
    """A cancel between claim and deal ends the run without an agent."""
    async with shard_at_work(tmp_path) as bench:
        [task_id], run_ids = await bench.claim(command("sleep", "300"))
        await bench.store.control(Cancel((task_id,)))
        bench.shard.accept(run_ids)
        await until(lambda: bench.ended)
        assert await bench.state(task_id) is State.CANCELLED
    assert bench.registered == []


# --- slots, chatter, trouble


async def test_the_lowest_free_slot_is_taken(tmp_path: Path) -> None:
    """Slots number the configuration directories of a machine: freed ones are used again, the lowest first."""
    async with shard_at_work(tmp_path) as bench:
        agent = bench.shard._agents["command"] = Gated()
        await bench.deal(*[command("true") for _ in range(3)])
        await until(lambda: len(agent.briefs) == 3)
        agent.gates[1].set()
        agent.gates[0].set()
        await until(lambda: len(bench.ended) == 2)
        await bench.deal(*[command("true") for _ in range(3)])
        await until(lambda: len(agent.briefs) == 6)
        assert [brief.slot - 20_000 for brief in agent.briefs] == [0, 1, 2, 0, 1, 3]
        for gate in agent.gates:
            gate.set()
        await until(lambda: len(bench.ended) == 6)


async def test_chatter_reaches_the_store_and_is_bounded(tmp_path: Path) -> None:
    """What agents say becomes events; too much of it is dropped and counted, while facts never are."""
    async with shard_at_work(tmp_path) as bench:
        [task_id], _ = await bench.deal(scripted("\n".join(f"say word {number}" for number in range(3000))))
        await until(lambda: bench.ended)
        await bench.drained()
        kinds = await bench.kinds()
        assert kinds.count("agent.text") < 3000
        [dropped] = [event for event in await bench.store.events(limit=9999) if event.kind == "chatter.dropped"]
        assert kinds.count("agent.text") + int(str(dropped.data["count"])) == 3000
        assert "task.completed" in kinds
        assert await bench.state(task_id) is State.COMPLETED


async def test_the_last_words_are_kept(tmp_path: Path) -> None:
    """Chatter of the last moment before the end is written before the shard ends."""
    async with shard_at_work(tmp_path) as bench:
        await bench.deal(scripted("say goodbye"))
        await bench.drained()
        assert "agent.text" in await bench.kinds()


async def test_a_run_whose_worker_fails_is_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that dies of a bug outside its own guard does not leave its run open: it counts as lost."""

    def fail(_pid: int) -> None:
        raise RuntimeError("a bug")

    async with shard_at_work(tmp_path) as bench:
        bench.forgotten = fail
        [task_id], _ = await bench.deal(command("true"))
        await until(lambda: bench.ended)
        await until_awaited(lambda: _ended_as(bench, task_id, "lost"))
    assert "ended without a record: RuntimeError('a bug')" in capsys.readouterr().err


async def test_a_shard_that_cannot_renew_because_of_a_bug_ends(tmp_path: Path) -> None:
    """A keeper that fails ends the shard loudly instead of leaving it without a lease."""

    def fail() -> None:
        raise RuntimeError("a bug")

    bench = Bench(tmp_path)
    bench.renewed = fail
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(bench.shard.run(bench.stopping), 10)


async def test_daemons_of_ended_runs_are_swept(tmp_path: Path) -> None:
    """What an agent leaves behind in a session of its own is stopped about a second after its run."""
    pid_file = tmp_path / "pid"
    async with shard_at_work(tmp_path) as bench:
        daemon = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 300' & until [ -s {pid_file} ]; do :; done"
        await bench.deal(command("sh", "-c", daemon))
        await until(lambda: bench.ended)
        await until(lambda: not alive(int(pid_file.read_text())), "the daemon was not stopped")


def test_there_is_no_agent_of_any_other_name(tmp_path: Path) -> None:
    """The error lists the agents there are."""
    from hive.shard import open_agent

    with pytest.raises(ConfigError, match="robot") as caught:
        open_agent("robot", settings_for(tmp_path), None, SystemClock())  # type: ignore[arg-type]
    assert "claude, command, scripted" in caught.value.fix


async def _ended_as(bench: Bench, task_id: TaskId, outcome: str) -> bool:
    return [run.outcome for run in await bench.store.runs(task_id)] == [outcome]


class _FullStore(MemoryStore):
    """A store that takes no more writes once it is told so."""

    full = False

    async def finish(self, run_id: RunId, step: Step) -> Finish:
        self._refuse()
        return await super().finish(run_id, step)

    async def release(self, run_ids: Sequence[RunId], why: Outcome, rules: Rules) -> list[RunId]:
        self._refuse()
        return await super().release(run_ids, why, rules)

    def _refuse(self) -> None:
        if self.full:
            raise StoreUnavailable("no space left for the queue", code="H308")


async def test_an_interrupted_shard_does_not_wait_for_a_full_disk_for_ever(tmp_path: Path) -> None:
    """When nothing can be recorded, the second signal still ends the shard: its runs stay open for the next start."""
    settings = settings_for(tmp_path, **{**NEVER, "grace_s": 0.1})
    store = _FullStore(SystemClock())
    place = Place(SHARD, HOST, 0, lambda *_: None, lambda _: None, lambda: None)
    shard = Shard(settings, store, place, clock=SystemClock(), ended=lambda _: None)
    stopping = asyncio.Event()
    work = asyncio.create_task(shard.run(stopping))
    await store.add([command("sleep", "60")])
    [claim] = await store.claim(HOST, {SHARD: 1}, Limits(agents=1))
    shard.accept([claim.run_id])
    await until_awaited(lambda: _has_started(store, claim.task_id))
    store.full = True
    stopping.set()
    shard.interrupt()
    async with asyncio.timeout(15):
        await work
    [run] = await store.runs(claim.task_id)
    assert run.ended_at_ms is None


async def _has_started(store: MemoryStore, task_id: TaskId) -> bool:
    return (await store.runs(task_id))[0].started_at_ms is not None
