"""The seam, second part: how runs end, are lost and are given back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hive.clock import ManualClock
from hive.lifecycle import advance
from hive.model import (
    Errored,
    Evidence,
    Interrupted,
    Limited,
    Lost,
    NewTask,
    Phase,
    Planned,
    Reason,
    Rejected,
    RunId,
    State,
    Succeeded,
    Usage,
)
from hive.store import Cancel, Finish, Hold, Limits, Release, Store
from tests.store.play import (
    BROKEN,
    DONE,
    HOST,
    PLENTY,
    SHARD,
    add,
    claim,
    end,
    get,
    goal,
    keyed,
    last,
    last_seq,
    rules,
    start,
    states,
    told,
)


class TestFinish:
    """An ending is recorded once, whole, and only for an open run."""

    async def test_writes_task_and_run(self, store: Store, clock: ManualClock) -> None:
        """Task, run and usage are written together."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        clock.advance(5)
        usage = Usage(1, 2, 3, 4, 0.25, 5.0)
        done = Succeeded(usage=usage, session_id="s-1", exit_code=0, evidence=Evidence(commit="abc"))
        assert await end(store, clock, run_id, done) is Finish.COMMITTED
        task = await get(store, task_id)
        assert (task.state, task.phase, task.attempt) == (State.QUEUED, Phase.TEST, 0)
        assert (task.commit, task.session_id, task.exit_code) == ("abc", "s-1", 0)
        assert (task.usage, task.runs, task.finished_at_ms, task.failure) == (usage, 1, None, None)
        [run] = await store.runs(task_id)
        assert (run.outcome, run.ended_at_ms, run.exit_code) == ("succeeded", clock.now_ms(), 0)
        assert (run.usage, run.session_id, run.failure) == (usage, "s-1", None)

    async def test_sums_over_runs(self, store: Store, clock: ManualClock) -> None:
        """A task's usage and run count are the sums over its runs, and the end is the last one's."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "no", usage=Usage(input_tokens=1, cost_usd=0.25)))
        clock.advance(5)
        [second] = await claim(store)
        await end(store, clock, second, replace(DONE, usage=Usage(input_tokens=2, cost_usd=0.5)))
        task = await get(store, task_id)
        assert (task.usage, task.runs) == (Usage(input_tokens=3, cost_usd=0.75), 2)
        assert (task.state, task.finished_at_ms) == (State.COMPLETED, clock.now_ms())

    async def test_keeps_the_commit_a_step_does_not_name(self, store: Store, clock: ManualClock) -> None:
        """A step without a commit leaves the task's tip alone."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        await end(store, clock, run_id, Succeeded(evidence=Evidence(commit="abc")))
        [second] = await claim(store)
        [assignment] = await store.load([second])
        step = advance(assignment.task, Rejected("red"), rules(clock))
        await store.finish(second, replace(step, commit=None))
        assert (await get(store, task_id)).commit == "abc"

    async def test_keeps_what_the_next_run_needs(self, store: Store, clock: ManualClock) -> None:
        """Feedback, failure, round and the count of alike failures are the step's."""
        task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
        await end(store, clock, run_id)
        [second] = await claim(store)
        await end(store, clock, second, Rejected("1 failed", exit_code=1))
        task = await get(store, task_id)
        assert (task.state, task.phase, task.round, task.alike) == (State.QUEUED, Phase.APPLY, 1, 1)
        assert (task.reason, task.feedback, task.exit_code) == (Reason.REWORK, "1 failed", 1)
        assert task.failure is not None
        assert (await store.runs(task_id))[-1].failure == task.failure

    async def test_a_run_shows_only_its_own_failure(self, store: Store, clock: ManualClock) -> None:
        """The failure an earlier run left with the task is not put down to a run that ended well."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "exit code 1"))
        clock.advance(5)
        [second] = await claim(store)
        await end(store, clock, second, Interrupted())
        failed, interrupted = await store.runs(task_id)
        assert failed.failure is not None
        assert interrupted.failure is None
        assert (await get(store, task_id)).failure == failed.failure

    @pytest.mark.parametrize("then", ["the same", "something else"])
    async def test_every_failed_run_shows_its_failure(self, store: Store, clock: ManualClock, then: str) -> None:
        """Two failures in a row are both in their runs, alike or not."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "the same"))
        clock.advance(5)
        [second] = await claim(store)
        await end(store, clock, second, Errored("exit", then))
        shown = [run.failure.message for run in await store.runs(task_id) if run.failure is not None]
        assert shown == ["the same", then]

    async def test_again_is_harmless(self, store: Store, clock: ManualClock) -> None:
        """Finishing a finished run again, with whatever step, is answered as committed and changes nothing."""
        task_id, run_id = await start(store, NewTask("t"))
        [assignment] = await store.load([run_id])
        await end(store, clock, run_id)
        before, seq = await get(store, task_id), await last_seq(store)
        other = advance(assignment.task, BROKEN, rules(clock))
        assert await store.finish(run_id, other) is Finish.COMMITTED
        assert (await get(store, task_id), await last_seq(store)) == (before, seq)

    async def test_interrupted_by_its_own_shard_is_finished(self, store: Store, clock: ManualClock) -> None:
        """A worker that finishes its run as interrupted may repeat that: only a release takes a run away."""
        task_id, run_id = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), Interrupted(), rules(clock))
        assert await store.finish(run_id, step) is Finish.COMMITTED
        assert await store.finish(run_id, step) is Finish.COMMITTED

    async def test_after_release_changes_nothing(self, store: Store, clock: ManualClock) -> None:
        """A shard that was presumed dead cannot overwrite the run that replaced its own."""
        task_id, run_id = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), DONE, rules(clock))
        await store.release([run_id], Lost(), rules(clock))
        clock.advance(5)
        [second] = await claim(store)
        before, seq = await get(store, task_id), await last_seq(store)
        assert await store.finish(run_id, step) is Finish.LOST
        assert (await get(store, task_id), await last_seq(store)) == (before, seq)
        assert await end(store, clock, second) is Finish.COMMITTED

    async def test_unknown_run(self, store: Store, clock: ManualClock) -> None:
        """A run that never was is lost."""
        task_id, _ = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), DONE, rules(clock))
        assert await store.finish(RunId(99), step) is Finish.LOST

    async def test_moment_in_the_past_parks_nothing(self, store: Store, clock: ManualClock) -> None:
        """A step whose moment has come leaves the task startable at once."""
        task_id, run_id = await start(store, NewTask("t"))
        step = advance(await get(store, task_id), Errored("exit", "no"), replace(rules(clock), jitter=0.0))
        await store.finish(run_id, step)
        assert (await store.counts()).startable == 1
        assert (await get(store, task_id)).not_before_at_ms is None
        assert len(await claim(store)) == 1

    async def test_facts(self, store: Store, clock: ManualClock) -> None:
        """An ending is told as the run's end and then what became of the task."""
        task_id, run_id = await start(store, NewTask("t"))
        seq = await last_seq(store)
        await end(store, clock, run_id, replace(BROKEN, usage=Usage(cost_usd=0.5, duration_s=2.0)))
        assert await told(store, seq) == [("run.finished", task_id), ("task.failed", task_id)]
        event = await last(store, "run.finished")
        assert event.run_id == run_id
        assert event.data == {
            "outcome": "errored",
            "phase": "apply",
            "attempt": 1,
            "exit_code": 1,
            "cost_usd": 0.5,
            "duration_s": 2.0,
        }
        failure = (await get(store, task_id)).failure
        assert failure is not None
        assert (await last(store, "task.failed")).data == {
            "phase": "apply",
            "reason": "not_retryable",
            "round": 0,
            "attempt": 1,
            "code": "exit",
            "message": "exit code 1",
            "group": failure.group,
        }

    @pytest.mark.parametrize(
        ("outcome", "kind"),
        [
            (DONE, "task.completed"),
            (Errored("exit", "no"), "task.queued"),
            (Limited(None), "task.queued"),
            (Planned(()), "task.waiting"),
        ],
    )
    async def test_fact_for_each_becoming(
        self, store: Store, clock: ManualClock, outcome: Succeeded | Errored | Limited | Planned, kind: str
    ) -> None:
        """What became of the task is told under the name of its state."""
        task_id, run_id = await start(store, goal() if isinstance(outcome, Planned) else NewTask("t"))
        seq = await last_seq(store)
        await end(store, clock, run_id, outcome)
        assert (await told(store, seq))[:2] == [("run.finished", task_id), (kind, task_id)]

    async def test_stuck_task_is_told_as_needs_you(self, store: Store, clock: ManualClock) -> None:
        """A task that failed alike twice asks a person."""
        task_id, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id, Errored("exit", "the same"))
        clock.advance(10)
        [second] = await claim(store)
        await end(store, clock, second, Errored("exit", "the same"))
        assert (await last(store, "task.needs_you")).data["reason"] == "same_failure"
        assert (await get(store, task_id)).alike == 2

    async def test_no_failure_no_failure_data(self, store: Store, clock: ManualClock) -> None:
        """A task without a failure is told without one."""
        _, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id)
        assert (await last(store, "task.completed")).data == {
            "phase": "apply",
            "reason": None,
            "round": 0,
            "attempt": 1,
        }


class TestCancelMeanwhile:
    """A cancel that came during a run wins over going on."""

    async def test_cancels_instead_of_going_on(self, store: Store, clock: ManualClock) -> None:
        """The next phase does not start; the mark is gone; dependents fail."""
        a, b = await add(store, replace(keyed("a"), phases=(Phase.APPLY, Phase.TEST)), keyed("b", "a"))
        [run_id] = await claim(store)
        await store.control(Cancel((a,)))
        seq = await last_seq(store)
        await end(store, clock, run_id)
        task = await get(store, a)
        assert (task.state, task.reason, task.cancel_requested) == (State.CANCELLED, Reason.CANCELLED, False)
        assert task.finished_at_ms == clock.now_ms()
        assert task.commit == "c0ffee1"
        assert await told(store, seq) == [("run.finished", a), ("task.cancelled", a), ("task.failed", b)]

    async def test_what_is_done_is_done(self, store: Store, clock: ManualClock) -> None:
        """A run that completed the task in spite of the cancel completes it."""
        task_id, run_id = await start(store, NewTask("t"))
        await store.control(Cancel((task_id,)))
        await end(store, clock, run_id)
        task = await get(store, task_id)
        assert (task.state, task.cancel_requested) == (State.COMPLETED, False)

    async def test_release_cancels_too(self, store: Store, clock: ManualClock) -> None:
        """A cancelled task whose shard died is not started again."""
        task_id, run_id = await start(store, NewTask("t"))
        await store.control(Cancel((task_id,)))
        await store.release([run_id], Lost(), rules(clock))
        assert await states(store, [task_id]) == [State.CANCELLED]


class TestLost:
    """Runs that nobody carries are found and given back."""

    async def test_this_hosts_dead_shards(self, store: Store) -> None:
        """On this host a run is lost when its incarnation is not among the living, lease or not."""
        await store.add([NewTask("t"), NewTask("t")])
        one, two = await store.claim(HOST, {"dead": 1, "live": 1}, PLENTY)
        await store.renew("dead", HOST, [one.run_id], 60)
        [lost] = await store.lost(HOST, ["live"])
        assert (lost.run.id, lost.task.id) == (one.run_id, one.task_id)
        assert [assignment.run.id for assignment in await store.lost(HOST, [])] == [one.run_id, two.run_id]
        assert await store.lost(HOST, ["live", "dead"]) == []

    async def test_living_shard_that_fell_silent(self, store: Store, clock: ManualClock) -> None:
        """A shard of this host that is said to live is lost all the same once its lease has run out."""
        await store.add([NewTask("t")])
        [claimed] = await store.claim(HOST, {"live": 1}, PLENTY)
        clock.advance(1000)
        assert await store.lost(HOST, ["live"]) == []  # it has not made itself known yet
        await store.renew("live", HOST, [], 60)
        clock.advance(59)
        assert await store.lost(HOST, ["live"]) == []
        clock.advance(1)
        assert [assignment.run.id for assignment in await store.lost(HOST, ["live"])] == [claimed.run_id]

    async def test_other_hosts_only_when_the_lease_ran_out(self, store: Store, clock: ManualClock) -> None:
        """Another host's run is lost only once its shard has been silent for the lease."""
        await store.add([NewTask("t")])
        await store.renew("far-0", "far", [], 60)
        [claimed] = await store.claim("far", {"far-0": 1}, PLENTY)
        clock.advance(59)
        assert await store.lost(HOST, []) == []
        await store.renew("far-0", "far", [claimed.run_id], 60)
        clock.advance(59)
        assert await store.lost(HOST, []) == []
        clock.advance(1)
        assert [assignment.run.id for assignment in await store.lost(HOST, [])] == [claimed.run_id]

    async def test_other_host_that_never_renewed(self, store: Store) -> None:
        """A shard that never said it lives holds nothing."""
        await store.add([NewTask("t")])
        [claimed] = await store.claim("far", {"far-0": 1}, PLENTY)
        assert [assignment.run.id for assignment in await store.lost(HOST, [])] == [claimed.run_id]

    async def test_ended_runs_are_not_lost(self, store: Store, clock: ManualClock) -> None:
        """Only open runs can be lost."""
        _, run_id = await start(store, NewTask("t"))
        await end(store, clock, run_id)
        assert await store.lost(HOST, []) == []

    async def test_open_runs_of_a_host(self, store: Store, clock: ManualClock) -> None:
        """A machine's open runs come oldest first, without ended ones and without other machines'."""
        await store.add([NewTask("t") for _ in range(4)])
        one, two, three = await claim(store, slots=3)
        await store.claim("far", {"far-0": 1}, PLENTY)
        await end(store, clock, two)
        assert [run.id for run in await store.open_runs(HOST)] == [one, three]

    async def test_release_as_lost_backs_off(self, store: Store, clock: ManualClock) -> None:
        """A lost run costs an attempt and a back-off; the release says which runs it ended."""
        task_id, run_id = await start(store, NewTask("t"))
        clock.advance(1)
        assert await store.release([run_id, RunId(99)], Lost(), rules(clock)) == [run_id]
        assert await store.release([run_id], Lost(), rules(clock)) == []
        task = await get(store, task_id)
        assert (task.state, task.reason, task.attempt, task.runs) == (State.QUEUED, Reason.BACKOFF, 1, 1)
        assert task.not_before_at_ms == clock.now_ms() + 1000
        [run] = await store.runs(task_id)
        assert (run.outcome, run.ended_at_ms) == ("lost", clock.now_ms())

    async def test_release_as_interrupted_is_free(self, store: Store, clock: ManualClock) -> None:
        """A shutdown costs no attempt and no wait."""
        task_id, run_id = await start(store, NewTask("t"))
        seq = await last_seq(store)
        await store.release([run_id], Interrupted(), rules(clock))
        task = await get(store, task_id)
        assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.INTERRUPTED, 0)
        assert [run.outcome for run in await store.runs(task_id)] == ["interrupted"]
        assert await told(store, seq) == [("run.finished", task_id), ("task.queued", task_id)]
        assert len(await claim(store)) == 1

    async def test_release_without_attempts_left_fails(self, store: Store, clock: ManualClock) -> None:
        """A task that is lost too often fails, and so do its dependents."""
        a, b = await add(store, replace(keyed("a"), retries=0), keyed("b", "a"))
        [run_id] = await claim(store)
        await store.release([run_id], Lost(), rules(clock))
        assert await states(store, [a, b]) == [State.FAILED, State.FAILED]

    async def test_released_slots_are_free(self, store: Store, clock: ManualClock) -> None:
        """What was released no longer counts against any limit."""
        _, run_id = await start(store, NewTask("t"))
        await store.release([run_id], Interrupted(), rules(clock))
        assert (await store.counts()).open_runs == {}
        assert len(await store.claim(HOST, {SHARD: 1}, Limits(1, {"coder": 1}))) == 1


async def test_hold_keeps_the_next_phase_from_starting(store: Store, clock: ManualClock) -> None:
    """A task held while it runs stops between phases and goes on when released."""
    task_id, run_id = await start(store, NewTask("t", phases=(Phase.APPLY, Phase.TEST)))
    await store.control(Hold((task_id,)))
    await end(store, clock, run_id)
    assert await claim(store) == []
    await store.control(Release((task_id,)))
    assert len(await claim(store)) == 1
