"""The seam, fifth part: what a store tells: events, tasks, counts and sums; and how it forgets."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hive.clock import ManualClock
from hive.model import Errored, Json, Limited, NewEvent, NewTask, RunId, State, TaskId, Usage
from hive.store import BatchTotals, Cancel, Hold, Retry, Store, TaskQuery
from tests.store.play import (
    BROKEN,
    DONE,
    HOST,
    PLENTY,
    SHARD,
    add,
    claim,
    end,
    everything,
    get,
    goal,
    keyed,
    plan,
    run_through,
    start,
    states,
)


async def test_name_of_the_store(store: Store) -> None:
    """A store has a name of 12 hexadecimal digits."""
    assert re.fullmatch(r"[0-9a-f]{12}", store.store_id)


async def test_close_twice(store: Store) -> None:
    """Closing a closed store is harmless."""
    await store.close()
    await store.close()


class TestEvents:
    """One numbered record of all that happened."""

    async def test_numbered_from_one_without_gaps(self, store: Store, clock: ManualClock) -> None:
        """Facts and chatter share one sequence, in the order they were written."""
        [task_id] = await add(store, NewTask("t"))
        await store.append([NewEvent("agent.text", task_id), NewEvent("agent.tool", task_id)])
        await run_through(store, clock, task_id)
        events = await store.events()
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.kind for event in events] == [
            "task.added",
            "agent.text",
            "agent.tool",
            "task.claimed",
            "run.finished",
            "task.completed",
        ]

    async def test_keeps_all_of_an_event(self, store: Store, clock: ManualClock) -> None:
        """Kind, task, run, moment and data come back as given; tuples as lists."""
        plain: dict[str, Json] = {"text": 'ü"\n', "n": 1, "f": 0.5, "none": None, "yes": True}
        clock.advance(3)
        await store.append([NewEvent("agent.text", TaskId(7), RunId(8), plain | {"list": ("a", {"b": []})})])
        [event] = await store.events()
        assert (event.kind, event.task_id, event.run_id) == ("agent.text", 7, 8)
        assert event.at_ms == clock.now_ms()
        assert event.data == plain | {"list": ["a", {"b": []}]}

    async def test_nothing_to_append(self, store: Store) -> None:
        """No events are none."""
        await store.append([])
        assert await store.events() == []

    async def test_paged(self, store: Store) -> None:
        """Reading goes on after a number, as far as the limit, for all tasks or for one."""
        await store.append([NewEvent("agent.text", TaskId(1 + n % 2)) for n in range(6)])
        assert [event.seq for event in await store.events(limit=2)] == [1, 2]
        assert [event.seq for event in await store.events(after=2, limit=3)] == [3, 4, 5]
        assert [event.seq for event in await store.events(after=2, task_id=TaskId(2))] == [4, 6]
        assert [event.seq for event in await store.events(limit=1, task_id=TaskId(2))] == [2]
        assert await store.events(after=6) == []


class TestTasks:
    """Which tasks: every field that is set must hold."""

    async def test_one_or_none(self, store: Store) -> None:
        """A task is found by id; there are no runs or needs of one that is not there."""
        [task_id] = await add(store, NewTask("t"))
        assert (await get(store, task_id)).id == task_id
        assert await store.task(TaskId(99)) is None
        assert await store.runs(TaskId(99)) == []
        assert await store.needs(TaskId(99)) == []

    async def test_runs_oldest_first(self, store: Store, clock: ManualClock) -> None:
        """The runs of a task come in the order they were opened, without other tasks' runs."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Limited(None))
        _, other = await start(store, NewTask("other"))
        clock.advance(100)
        [again] = await claim(store)
        assert [run.id for run in await store.runs(task_id)] == [run_id, again]
        assert other == 2

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            (TaskQuery(), [1, 2, 3, 4, 5]),
            (TaskQuery(ids=(TaskId(4), TaskId(2), TaskId(99))), [2, 4]),
            (TaskQuery(states=frozenset({State.QUEUED})), [2, 4, 5]),
            (TaskQuery(states=frozenset({State.FAILED, State.BLOCKED})), [1, 3]),
            (TaskQuery(batch="night"), [4]),
            (TaskQuery(batch="nowhere"), []),
            (TaskQuery(tag="red"), [2, 4]),
            (TaskQuery(tag="re"), []),
            (TaskQuery(text="PARSER"), [2]),
            (TaskQuery(text="key-five"), [5]),
            (TaskQuery(text="Deep in the"), [4]),
            (TaskQuery(text="100%"), [5]),
            (TaskQuery(text="e_b"), []),
            (TaskQuery(text=""), [1, 2, 3, 4, 5]),
            (TaskQuery(limit=2), [1, 2]),
            (TaskQuery(after_id=2, limit=2), [3, 4]),
            (TaskQuery(newest_first=True), [5, 4, 3, 2, 1]),
            (TaskQuery(newest_first=True, limit=2), [5, 4]),
            (TaskQuery(newest_first=True, after_id=4, limit=2), [3, 2]),
            (TaskQuery(tag="red", states=frozenset({State.QUEUED}), batch="night"), [4]),
            (TaskQuery(tag="red", text="parser", batch="night"), []),
        ],
    )
    async def test_query(self, store: Store, clock: ManualClock, query: TaskQuery, expected: list[int]) -> None:
        """Tasks are selected by all fields together, ordered by id and paged."""
        await add(store, NewTask("broken"))
        await run_through(store, clock, TaskId(1), BROKEN)
        await add(
            store,
            NewTask("mend the Parser", key="need", tags=("red", "blue")),
            keyed("waits", "need"),
            NewTask("other", prompt="look deep in the code", batch="night", tags=("red",)),
            NewTask("cover 100%", key="key-five"),
        )
        assert [task.id for task in await store.tasks(query)] == expected

    async def test_query_by_failure_group(self, store: Store, clock: ManualClock) -> None:
        """Tasks that failed alike are found together."""
        ids = await add(store, NewTask("t"), NewTask("t"), NewTask("t"))
        for task_id, why in zip(ids, ("no module a", "no module a", "disk full"), strict=True):
            await claim(store)
            await end(store, clock, (await store.runs(task_id))[0].id, Errored("exit", why, retryable=False))
        failure = (await get(store, ids[0])).failure
        assert failure is not None
        assert [task.id for task in await store.tasks(TaskQuery(group=failure.group))] == ids[:2]
        await store.control(Retry((ids[0],)))
        assert [task.id for task in await store.tasks(TaskQuery(group=failure.group))] == ids[1:2]


class TestCounts:
    """How the queue stands."""

    async def test_number_of_the_newest_event(self, store: Store) -> None:
        """The counts say how far the events go, so that a reader may start at the end."""
        assert (await store.counts()).last_seq == 0
        await add(store, NewTask("t"), NewTask("t"))
        assert (await store.counts()).last_seq == 2

    async def test_empty(self, store: Store) -> None:
        """An empty store has every state, at zero."""
        counts = await store.counts()
        assert counts.by_state == dict.fromkeys(State, 0)
        assert (counts.open_runs, counts.startable, counts.parked, counts.next_due_at_ms) == ({}, 0, 0, None)

    async def test_follow_every_change(self, store: Store, clock: ManualClock) -> None:
        """States, open runs and what can start are counted as they are."""
        await add(store, keyed("a"), keyed("b", "a"), NewTask("t", hold=True), *(NewTask("t") for _ in range(3)))
        await store.claim(HOST, {SHARD: 2, "other": 1}, PLENTY)
        counts = await store.counts()
        assert counts.by_state[State.IN_PROGRESS] == 3
        assert counts.by_state[State.QUEUED] == 2
        assert counts.by_state[State.BLOCKED] == 1
        assert counts.open_runs == {SHARD: 2, "other": 1}
        assert (counts.startable, counts.parked) == (1, 0)
        await end(store, clock, RunId(1))
        counts = await store.counts()
        assert counts.by_state[State.COMPLETED] == 1
        assert counts.by_state[State.BLOCKED] == 0
        assert (counts.startable, sum(counts.open_runs.values())) == (2, 2)

    async def test_parked_tasks_and_the_next_moment(self, store: Store, clock: ManualClock) -> None:
        """Parked tasks are counted with the earliest moment; a held one is neither parked nor startable."""
        a, b, c = await add(store, NewTask("t"), NewTask("t"), NewTask("t"))
        for run_id, wait_s in zip(await claim(store), (30, 20, 10), strict=True):
            await end(store, clock, run_id, Limited(clock.now_ms() + wait_s * 1000))
        due_at_ms = [(await get(store, task_id)).not_before_at_ms for task_id in (a, b, c)]
        counts = await store.counts()
        assert (counts.startable, counts.parked, counts.next_due_at_ms) == (0, 3, due_at_ms[2])
        await store.control(Hold((c,)))
        counts = await store.counts()
        assert (counts.startable, counts.parked, counts.next_due_at_ms) == (0, 2, due_at_ms[1])
        clock.advance(26)
        assert len(await claim(store)) == 1
        counts = await store.counts()
        assert (counts.parked, counts.next_due_at_ms) == (1, due_at_ms[0])


async def test_ledger(store: Store, clock: ManualClock) -> None:
    """Sums per batch come by name, with every state."""
    a, b = await add(store, keyed("a", batch="z"), keyed("b", batch="z"))
    await add(store, keyed("c", batch="a"))
    await claim(store)
    await end(store, clock, (await store.runs(a))[0].id, replace(DONE, usage=Usage(1, 2, 3, 4, 0.25, 1.0)))
    await end(store, clock, (await store.runs(b))[0].id, Errored("exit", "no", usage=Usage(1, 1, 1, 1, 0.5, 2.0)))
    nothing = dict.fromkeys(State, 0)
    assert await store.ledger() == [
        BatchTotals("a", nothing | {State.IN_PROGRESS: 1}, Usage(), 0),
        BatchTotals("z", nothing | {State.COMPLETED: 1, State.QUEUED: 1}, Usage(2, 3, 4, 5, 0.75, 3.0), 2),
    ]


class TestPrune:
    """Old finished tasks are forgotten, whole."""

    async def test_forgets_runs_and_events(self, store: Store, clock: ManualClock) -> None:
        """A task that ended before the moment goes with all that belongs to it; younger ones stay."""
        old, young = await add(store, keyed("old"), keyed("young"))
        await run_through(store, clock, old)
        clock.advance(10)
        await end(store, clock, (await store.runs(young))[0].id)
        assert await store.prune((await get(store, old)).finished_at_ms or 0, 100) == 0
        assert await store.prune(clock.now_ms(), 100) == 1
        assert [task.id for task in await everything(store)] == [young]
        assert await store.runs(old) == []
        assert await store.events(task_id=old) == []
        assert (await store.counts()).by_state[State.COMPLETED] == 1
        assert await store.load([RunId(1)]) == []

    async def test_as_many_as_asked(self, store: Store, clock: ManualClock) -> None:
        """At most `budget` tasks go at once, oldest first."""
        ids = await add(store, NewTask("t"), NewTask("t"), NewTask("t"))
        await store.control(Cancel(tuple(ids)))
        clock.advance(1)
        assert await store.prune(clock.now_ms(), 2) == 2
        assert [task.id for task in await everything(store)] == ids[2:]
        assert await store.prune(clock.now_ms(), 2) == 1
        assert await store.prune(clock.now_ms(), 2) == 0

    async def test_unfinished_tasks_stay(self, store: Store, clock: ManualClock) -> None:
        """What is not over is never forgotten, however old."""
        await add(store, keyed("a"), keyed("b", "a"), NewTask("t", hold=True))
        await claim(store)
        clock.advance(1_000_000)
        assert await store.prune(clock.now_ms(), 100) == 0

    async def test_keeps_what_is_needed(self, store: Store, clock: ManualClock) -> None:
        """A task stays while an unfinished one needs it, and goes with the edge when that is over."""
        a, b = await add(store, keyed("a"), keyed("b", "a"))
        await run_through(store, clock, a)
        clock.advance(1)
        assert await store.prune(clock.now_ms(), 100) == 0
        await run_through(store, clock, b)
        assert await store.prune(clock.now_ms(), 100) == 1
        assert await states(store, [b]) == [State.COMPLETED]
        assert await store.needs(b) == []

    async def test_keeps_the_other_needs(self, store: Store, clock: ManualClock) -> None:
        """Only edges to what was forgotten go."""
        a, b, c = await add(store, keyed("a"), keyed("b"), keyed("c", "a", "b"))
        for task_id in (a, b, c):
            await claim(store)
            await end(store, clock, (await store.runs(task_id))[0].id)
        clock.advance(1)
        assert await store.prune(clock.now_ms(), 1) == 1
        assert await store.needs(c) == [b]

    async def test_keeps_children_of_a_waiting_goal(self, store: Store, clock: ManualClock) -> None:
        """A goal's children stay until it is over; then they go before it."""
        [goal_id] = await add(store, goal())
        a, b = await plan(store, clock, goal_id, keyed("a"), keyed("b"))
        await run_through(store, clock, a)
        clock.advance(1)
        assert await store.prune(clock.now_ms(), 100) == 0
        await end(store, clock, (await store.runs(b))[0].id)
        clock.advance(1)
        assert await store.prune(clock.now_ms(), 100) == 2
        assert await store.prune(clock.now_ms(), 100) == 1
        assert await everything(store) == []

    async def test_numbers_are_never_given_again(self, store: Store, clock: ManualClock) -> None:
        """A key that was forgotten may be added again, as a task with a new number; events go on too."""
        old, run_id = await start(store, keyed("a"))
        await end(store, clock, run_id)
        seq = (await store.events())[-1].seq
        clock.advance(1)
        await store.prune(clock.now_ms(), 100)
        new, second = await start(store, keyed("a"))
        assert (new > old, second > run_id) == (True, True)
        assert (await store.events())[0].seq > seq
