from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive.agent import Brief, Emit
from hive.agent.process import Launcher
from hive.agent.proctable import boot_id
from hive.clock import ManualClock, SystemClock
from hive.model import (
    Cancelled,
    Errored,
    Failure,
    Interrupted,
    Lost,
    NewTask,
    Outcome,
    Phase,
    Reason,
    RunId,
    State,
    Succeeded,
    Task,
    TaskId,
    WorkspaceKind,
)
from hive.store import Retry
from hive.store.sqlite import SqliteStore
from hive.worker import prompt_for, run_files, session_for
from tests.rig import HOST, SHARD, Rig, alive, command, fill_disk, make_repo, memory, scripted, settings_for, until
from tests.workspace.conftest import Checkout


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a rig on a store in memory."""
    async with _rig(tmp_path) as rig:
        yield rig


@asynccontextmanager
async def _rig(tmp_path: Path, user: Checkout | None = None, **changes: object) -> AsyncIterator[Rig]:
    launcher = Launcher(SystemClock())
    settings = settings_for(tmp_path, repo=user.path if user else None, **changes)
    yield Rig(settings, memory(), launcher)
    await launcher.sweeper.sweep()
    launcher.close()


class Recorder:
    """An agent that keeps its briefs and ends as it was told."""

    name = "recorder"

    def __init__(self, outcome: Outcome | Exception | None = None) -> None:
        self.briefs: list[Brief] = []
        self._outcome = outcome or Succeeded()

    async def run(self, brief: Brief, emit: Emit) -> Outcome:
        self.briefs.append(brief)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


# --- phase apply


async def test_what_an_agent_leaves_is_committed_and_completes_the_task(tmp_path: Path) -> None:
    """A changed file becomes a commit on the task's branch: that commit is the evidence of a completed task."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        task = await rig.carry(await rig.add(_coded("say done\nedit b.txt two")))
    assert task.state is State.COMPLETED
    assert task.branch is not None
    assert user.git("rev-parse", task.branch) == task.commit
    assert user.files_of(task.branch) == ["a.txt", "b.txt"]


async def test_the_worktree_of_a_completed_task_is_removed(tmp_path: Path) -> None:
    """A completed task's directory goes, since its branch holds everything, and the task no longer names it."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        task = await rig.carry(await rig.add(_coded("edit b.txt two")))
    assert task.workspace == ""
    assert list((tmp_path / ".hive" / "worktrees").iterdir()) == []


async def test_the_worktree_of_a_failed_task_is_kept(tmp_path: Path) -> None:
    """A failed task's directory stays as the agent left it, and the task names it."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        task = await rig.carry(await rig.add(_coded("edit b.txt two\nfatal no")))
    assert task.state is State.FAILED
    assert task.workspace
    assert (Path(task.workspace) / "b.txt").read_text() == "two\n"


async def test_a_worktree_that_cannot_be_removed_is_kept_and_said(tmp_path: Path) -> None:
    """A worktree that git has locked stays, the task still names it, and people are told why."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        lock = 'sh -c "git worktree lock \\"$PWD\\""'
        task = await rig.carry(await rig.add(_coded(f"edit b.txt two\nrun {lock}")))
    assert task.state is State.COMPLETED, task.failure
    assert task.workspace
    assert [str(path) for path in (tmp_path / ".hive" / "worktrees").iterdir()] == [task.workspace]
    [kept] = [event for event in rig.said if event.kind == "workspace.kept"]
    assert "locked" in str(kept.data["why"])


async def test_success_without_a_change_is_no_success(tmp_path: Path) -> None:
    """An agent that ends well but leaves no change failed, whatever it says."""
    async with _rig(tmp_path, make_repo(tmp_path)) as rig:
        task = await rig.carry(await rig.add(_coded("say all done")))
    assert task.state is State.QUEUED
    assert task.failure is not None
    assert task.failure.code == "no_change"


async def test_no_change_is_fine_where_the_task_allows_it(tmp_path: Path) -> None:
    """A task that allows it is completed without a commit."""
    async with _rig(tmp_path, make_repo(tmp_path)) as rig:
        task = await rig.carry(await rig.add(_coded("say ok", allow_no_change=True)))
    assert task.state is State.COMPLETED
    assert task.commit is None


async def test_a_failed_program_is_tried_again(rig: Rig) -> None:
    """An exit code other than 0 is the run's and the task's, and the task is queued again."""
    task = await rig.carry(await rig.add(command("sh", "-c", "echo broken >&2; exit 7")))
    assert (task.state, task.reason, task.attempt, task.exit_code) == (State.QUEUED, Reason.BACKOFF, 1, 7)
    assert task.failure is not None
    assert "broken" in task.failure.message


async def test_a_limit_is_recorded_and_parks_the_task(rig: Rig) -> None:
    """A usage limit becomes a fact, spends no attempt, and the task waits for its end."""
    task_id = await rig.add(scripted("limit 600"))
    task = await rig.carry(task_id)
    assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.LIMIT, 0)
    assert task.not_before_at_ms is not None
    assert [event.kind for event in await rig.store.events()].count("limit.met") == 1
    assert "limit.seen" in rig.kinds()


async def test_every_process_is_registered_attached_and_forgotten(tmp_path: Path) -> None:
    """The guardian hears of each process when it starts and when it has ended; the run row names the last."""
    async with _rig(tmp_path) as rig:
        task_id = await rig.add(scripted("run true\nrun true"))
        await rig.carry(task_id)
        [run] = await rig.store.runs(task_id)
    assert len(rig.registered) == 2
    assert sorted(rig.forgotten) == sorted(process.pid for process in rig.registered)
    assert run.process == rig.registered[-1]


async def test_a_program_sees_its_task_run_and_shard(rig: Rig) -> None:
    """The environment holds the task's own variables and Hive's marks, and its prompt comes on stdin."""
    task_id = await rig.add(command("sh", "-c", "env; cat", env={"COLOUR": "blue"}, prompt="Paint it."))
    worker = await rig.claim()
    await worker.carry()
    out = run_files(rig.settings.state_dir, worker.run_id).with_suffix(".out").read_text()
    for line in ("COLOUR=blue", f"HIVE_TASK_ID={task_id}", f"HIVE_RUN_ID={worker.mark}", f"HIVE_SHARD={SHARD}"):
        assert line in out.splitlines()
    assert "Paint it." in out


# --- phase test


async def test_a_red_test_sends_the_work_back_until_it_is_green(tmp_path: Path) -> None:
    """The tail of a red test's output becomes the next apply's feedback; a green one completes the task."""
    check = ("sh", "-c", "echo looked at f; grep good f")
    script = "[round 0] edit f bad\n[round >= 1] edit f good"
    task = _coded(script, phases=(Phase.APPLY, Phase.TEST), test=check)
    async with _rig(tmp_path, make_repo(tmp_path)) as rig:
        task_id = await rig.add(task)
        applied = await rig.carry(task_id)
        assert (applied.state, applied.phase, applied.round) == (State.QUEUED, Phase.TEST, 0)
        red = await rig.carry(task_id)
        assert (red.state, red.phase, red.round, red.reason) == (State.QUEUED, Phase.APPLY, 1, Reason.REWORK)
        assert red.feedback == "$ sh -c 'echo looked at f; grep good f'\nlooked at f\n(exit code 1)"
        await rig.carry(task_id)
        green = await rig.carry(task_id)
        outcomes = [run.outcome for run in await rig.store.runs(task_id)]
    assert green.state is State.COMPLETED
    assert green.commit != applied.commit
    assert outcomes == ["succeeded", "rejected", "succeeded", "succeeded"]


async def test_feedback_is_the_end_of_the_output_without_control_characters(tmp_path: Path) -> None:
    """At most 60 lines of what a red test printed come back, standard error last, free of escape sequences."""
    noise = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; printf '\\033[31mred\\033[0m\\n' >&2; exit 3"
    async with _rig(tmp_path) as rig:
        task_id = await rig.add(scripted("say", phases=(Phase.TEST, Phase.APPLY), test=("sh", "-c", noise)))
        task = await rig.carry(task_id)
    lines = task.feedback.splitlines()
    assert lines[-1] == "(exit code 3)"
    assert lines[-3] == "line 499"
    assert "red" in lines[-2]
    assert "\x1b" not in task.feedback
    assert len(lines) == 1 + 60 + 1


async def test_a_test_that_takes_too_long_is_no_verdict(tmp_path: Path) -> None:
    """A test command that is stopped for its time is a timeout, not a red test."""
    async with _rig(tmp_path, test_timeout_s=0.2) as rig:
        task_id = await rig.add(scripted("say", phases=(Phase.TEST,), test=("sleep", "60")))
        task = await rig.carry(task_id)
    assert task.phase is Phase.TEST
    assert task.failure is not None
    assert task.failure.code == "timeout_total"


_LITTER = "echo x >report.xml; echo x >cache.log; echo x >>a.txt; git add -A"


async def test_files_of_a_test_command_are_in_no_commit(tmp_path: Path) -> None:
    """What a red or green test writes, changes and stages is gone before the next apply; caches and the like stay."""
    user = make_repo(tmp_path)
    user.write(".gitignore", "*.log\n")
    user.commit()
    script = "[round 0] edit f bad\n[round >= 1] edit f good"
    async with _rig(tmp_path, user) as rig:
        task = _coded(script, phases=(Phase.APPLY, Phase.TEST), test=("sh", "-c", f"{_LITTER}; grep good f"))
        task_id = await rig.add(task)
        await rig.carry(task_id)
        red = await rig.carry(task_id)
        assert (red.state, red.reason) == (State.QUEUED, Reason.REWORK)
        left = Path(red.workspace or "")
        assert user.at(left).git("status", "--porcelain", "--ignored") == "!! cache.log"
        assert (left / "a.txt").read_text() == "one\n"
        await rig.carry(task_id)
        green = await rig.carry(task_id)
    assert green.state is State.COMPLETED
    assert user.git("diff", "--name-only", f"main...{green.branch}") == "f"
    assert user.git("for-each-ref", "refs/hive") == ""


async def test_files_of_a_test_that_took_too_long_are_removed(tmp_path: Path) -> None:
    """A test that was stopped leaves no more behind than one that ended."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user, test_timeout_s=1.0) as rig:
        task_id = await rig.add(_tested(f"{_LITTER}; rm -f cache.log; sleep 60"))
        await rig.carry(task_id)
        task = await rig.carry(task_id)
    assert task.failure is not None
    assert task.failure.code == "timeout_total"
    assert user.at(Path(task.workspace or "")).git("status", "--porcelain") == ""


async def test_what_a_person_changed_before_a_test_is_kept(tmp_path: Path) -> None:
    """Uncommitted work that was there when the test began is salvaged, since it goes with the test's own files."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        task_id = await rig.add(_tested("exit 1"))
        applied = await rig.carry(task_id)
        (Path(applied.workspace or "") / "draft").write_text("mine")
        task = await rig.carry(task_id)
    assert not (Path(task.workspace or "") / "draft").exists()
    assert user.git("show", f"refs/hive/salvage/{task_id}/1:draft") == "mine"


async def test_a_worktree_that_cannot_be_put_back_is_said_and_no_failure(tmp_path: Path) -> None:
    """A green test that deleted its own worktree is green all the same."""
    async with _rig(tmp_path, make_repo(tmp_path)) as rig:
        task_id = await rig.add(_tested('rm -rf "$PWD"'))
        await rig.carry(task_id)
        task = await rig.carry(task_id)
    assert task.state is State.COMPLETED, task.failure
    [told] = [event for event in rig.said if event.kind == "restore.failed"]
    assert told.data["code"] == "H215"


async def test_the_test_of_a_lost_run_leaves_the_worktree_alone(tmp_path: Path) -> None:
    """Once a run was taken away its worktree belongs to its successor, whose work must not be undone."""
    async with _rig(tmp_path, make_repo(tmp_path)) as rig:
        task_id = await rig.add(_tested("echo x >draft; until [ -e go ]; do sleep 0.01; done; exit 1"))
        directory = Path((await rig.carry(task_id)).workspace or "")
        worker = await rig.claim()
        work = asyncio.create_task(worker.carry())
        await until((directory / "draft").exists)
        await _release(rig, worker.run_id)
        (directory / "go").touch()
        await work
        assert (directory / "draft").exists()


async def test_secrets_reach_neither_feedback_nor_prompt(tmp_path: Path) -> None:
    """A value passed on by name that a test prints is in the run's file, and in nothing the store or an agent gets."""
    async with _rig(tmp_path, make_repo(tmp_path), pass_env=("LICENCE",)) as rig:
        object.__setattr__(rig.settings, "environ", {**rig.settings.environ, "LICENCE": "correct-horse"})
        task_id = await rig.add(_tested("echo key: $LICENCE; exit 1"))
        await rig.carry(task_id)
        task = await rig.carry(task_id)
        events = await rig.store.events()
    assert "key: [redacted]" in task.feedback
    assert "correct-horse" not in f"{task}{events}{rig.said}{prompt_for(task, test=())}"


async def test_a_test_phase_without_a_command_fails(rig: Rig) -> None:
    """A pipeline with phase test but no test command is a mistake that trying again cannot mend."""
    task = await rig.carry(await rig.add(scripted("say", phases=(Phase.TEST,))))
    assert task.state is State.FAILED
    assert task.failure is not None
    assert task.failure.code == "no_test"


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.REVIEW, Phase.MERGE])
async def test_a_phase_nobody_works_fails(rig: Rig, phase: Phase) -> None:
    """A phase that this version cannot work fails at once and says so."""
    task = await rig.carry(await rig.add(scripted("say", phases=(phase,))))
    assert task.state is State.FAILED
    assert task.failure is not None
    assert (task.failure.code, phase in task.failure.message) == ("phase", True)


# --- an agent that leaves its worktree in disorder

_STUCK_IN_A_MERGE = """
if git rev-parse -q --verify MERGE_HEAD; then echo both >a.txt; git add a.txt; exec git commit -qm merged; fi
git checkout -qb other; echo theirs >a.txt; git commit -qam theirs
git checkout -q -; echo ours >a.txt; git commit -qam ours
git merge other; exit 0
"""
_BESIDE_ITS_BRANCH = """
if git symbolic-ref -q HEAD; then
    echo 1 >one; git add one; git commit -qm one
    git checkout -q --detach HEAD~1; echo 2 >two; git add two; exec git commit -qm two
fi
beside=$(git rev-parse HEAD); git checkout -q "$(git for-each-ref --format='%(refname:short)' refs/heads/hive)"
git cherry-pick "$beside"
"""


@pytest.mark.parametrize(("script", "code"), [(_STUCK_IN_A_MERGE, "H217"), (_BESIDE_ITS_BRANCH, "H218")])
async def test_an_unfinished_operation_is_finished_by_the_next_attempt(tmp_path: Path, script: str, code: str) -> None:
    """The retry finds the worktree as it was left and is told what was wrong with it."""
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        task_id = await rig.add(command("sh", "-c", script, workspace=WorkspaceKind.REPO, prompt="Do it."))
        stuck = await rig.carry(task_id)
        assert stuck.failure is not None
        assert (stuck.state, stuck.reason, stuck.failure.code) == (State.QUEUED, Reason.BACKOFF, code)
        again = await rig.claim()
        await again.carry()
        done = await rig.task(task_id)
    assert done.state is State.COMPLETED, done.failure
    prompt = run_files(rig.settings.state_dir, again.run_id).with_suffix(".in").read_text()
    assert f"ended before it was done ({stuck.failure.message[:40]}" in prompt
    assert done.branch == stuck.branch
    assert user.git("rev-parse", str(done.branch)) == done.commit
    assert int(user.git("rev-list", "--count", f"main..{done.branch}")) >= 2


@pytest.mark.parametrize("gone", ['rm -rf "$PWD"', 'git worktree remove --force "$PWD"'])
@pytest.mark.parametrize("code", [0, 1])
async def test_an_agent_that_deletes_its_worktree_gets_a_new_one(tmp_path: Path, gone: str, code: int) -> None:
    """The run ends as an error that says so, and the next attempt goes on from the branch in a fresh worktree."""
    script = f"if [ -e kept ]; then echo 2 >more; exit; fi; echo 1 >kept; git add kept; git commit -qm k; {gone}"
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        argv = ("sh", "-c", f"{script}; exit {code}")
        task_id = await rig.add(command(*argv, workspace=WorkspaceKind.REPO))
        broken = await rig.carry(task_id)
        assert broken.failure is not None
        assert (broken.state, broken.reason) == (State.QUEUED, Reason.BACKOFF)
        assert broken.failure.code == ("exit" if code else "H215")
        assert code or "is no worktree of its repository any more" in broken.failure.message
        done = await rig.carry(task_id)
    assert done.state is State.COMPLETED, done.failure
    assert done.branch == broken.branch
    assert user.files_of(str(done.branch)) == ["a.txt", "kept", "more"]


# --- being stopped


async def test_a_cancelled_run_ends_its_agent_and_its_task(rig: Rig) -> None:
    """A cancel stops the agent's process first and is then recorded as the run's ending."""
    task_id = await rig.add(command("sleep", "300"))
    worker = await rig.claim()
    work = asyncio.create_task(worker.carry())
    await until(lambda: rig.registered)
    worker.stop(Cancelled())
    await work
    assert not alive(rig.registered[0].pid)
    assert (await rig.task(task_id)).state is State.CANCELLED
    assert [run.outcome for run in await rig.store.runs(task_id)] == ["cancelled"]


async def test_an_interrupted_run_spends_no_attempt(rig: Rig) -> None:
    """What a shutdown interrupts is queued again as if it had never been tried."""
    task_id = await rig.add(command("sleep", "300"))
    worker = await rig.claim()
    work = asyncio.create_task(worker.carry())
    await until(lambda: rig.registered)
    worker.stop(Interrupted())
    await work
    task = await rig.task(task_id)
    assert (task.state, task.reason, task.attempt) == (State.QUEUED, Reason.INTERRUPTED, 0)


async def test_the_first_reason_to_stop_stands(rig: Rig) -> None:
    """A cancelled run that is then interrupted ends as cancelled."""
    task_id = await rig.add(scripted("hang"))
    worker = await rig.claim()
    work = asyncio.create_task(worker.carry())
    await asyncio.sleep(0)
    worker.stop(Cancelled())
    worker.stop(Interrupted())
    await work
    assert (await rig.task(task_id)).state is State.CANCELLED


async def test_a_worker_stopped_before_its_first_step_starts_no_agent(rig: Rig) -> None:
    """A stop that comes between the making of a worker and its first step is not lost."""
    task_id = await rig.add(command("sleep", "300"))
    worker = await rig.claim()
    work = asyncio.create_task(worker.carry())
    worker.stop(Interrupted())
    await asyncio.wait_for(work, 10)
    assert rig.registered == []
    assert (await rig.task(task_id)).reason is Reason.INTERRUPTED


async def test_a_lost_run_is_not_finished(rig: Rig) -> None:
    """A worker whose run was taken away stops its agent and records nothing."""
    task_id = await rig.add(command("sleep", "300"))
    worker = await rig.claim()
    work = asyncio.create_task(worker.carry())
    await until(lambda: rig.registered)
    await _release(rig, worker.run_id)
    seq = (await rig.store.counts()).last_seq
    worker.stop(Lost())
    await work
    assert not alive(rig.registered[0].pid)
    assert await rig.store.events(seq) == []
    assert [run.outcome for run in await rig.store.runs(task_id)] == ["lost"]


async def test_a_process_of_a_run_that_is_not_open_any_more_is_stopped(rig: Rig) -> None:
    """An agent that starts after its run was released is stopped as soon as the store refuses to attach it."""
    await rig.add(command("sleep", "300"))
    worker = await rig.claim()
    await _release(rig, worker.run_id)
    await asyncio.wait_for(worker.carry(), 10)
    assert not alive(rig.registered[0].pid)
    assert rig.forgotten == [rig.registered[0].pid]


async def test_a_worker_that_is_cancelled_by_nobody_it_knows_passes_it_on(rig: Rig) -> None:
    """A cancellation without a reason, as at the end of a loop, stops the agent and is raised."""
    await rig.add(command("sleep", "300"))
    work = asyncio.create_task((await rig.claim()).carry())
    await until(lambda: rig.registered)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not alive(rig.registered[0].pid)


# --- trouble


async def test_an_ending_waits_for_a_full_disk_and_no_stop_can_lose_it(tmp_path: Path) -> None:
    """While the store has no space the worker says so and tries again; a stop that comes meanwhile changes nothing."""
    clock = ManualClock()
    store = await SqliteStore.open_inline(tmp_path / "hive.db", clock=clock, boot_id=boot_id())
    launcher = Launcher(SystemClock())
    rig = Rig(settings_for(tmp_path), store, launcher, clock)
    task_id = await rig.add(scripted("say done"))
    worker = await rig.claim()
    lift = await fill_disk(store)
    work = asyncio.create_task(worker.carry())
    await until(lambda: "store.unavailable" in rig.kinds())
    worker.stop(Interrupted())
    clock.advance(1.0)
    await until(lambda: rig.kinds().count("store.unavailable") == 2)
    assert (await rig.task(task_id)).state is State.IN_PROGRESS
    lift()
    clock.advance(1.0)
    await work
    assert (await rig.task(task_id)).state is State.COMPLETED
    await store.close()
    launcher.close()


async def test_a_bug_in_an_agent_does_not_lose_the_run(rig: Rig) -> None:
    """An exception becomes a failure that is worth another attempt, and its traceback an event."""
    rig.more_agents["command"] = Recorder(RuntimeError("boom"))
    task = await rig.carry(await rig.add(command("true")))
    assert (task.state, task.reason) == (State.QUEUED, Reason.BACKOFF)
    assert task.failure is not None
    assert (task.failure.code, task.failure.message) == ("internal", "RuntimeError: boom")
    [told] = [event for event in rig.said if event.kind == "hive.error"]
    assert "test_worker.py" in str(told.data["traceback"])


async def test_an_error_of_hive_is_final_and_keeps_its_code(rig: Rig) -> None:
    """A task for a repository that is not there fails with the error's own code and fix."""
    task = await rig.carry(await rig.add(NewTask("Add b", agent="scripted", script="edit b two", repo="/nowhere")))
    assert task.state is State.FAILED
    assert task.failure is not None
    assert task.failure.code == "H210"
    assert "fix:" in task.failure.message


async def test_a_task_for_an_unknown_agent_fails(rig: Rig) -> None:
    """An agent nobody knows is named in the failure."""
    task = await rig.carry(await rig.add(replace(scripted("say"), agent="robot")))
    assert task.failure is not None
    assert (task.state, task.failure.code) == (State.FAILED, "H121")


async def test_the_duration_of_a_run_is_measured(rig: Rig) -> None:
    """A run's usage holds its wall time, however it ended."""
    task = await rig.carry(await rig.add(scripted("sleep 0.05\nfatal no")))
    assert 0.05 <= task.usage.duration_s < 5


# --- what the agent is told


async def test_the_session_is_known_before_it_was_ever_recorded(rig: Rig) -> None:
    """The first brief names a derived session that does not exist yet; the second asks to resume the very same."""
    agent = rig.more_agents["command"] = Recorder(Errored("exit", "no"))
    task_id = await rig.add(command("true", retries=5))
    await rig.carry(task_id)
    await rig.store.control(Retry((task_id,)))
    await rig.carry(task_id)
    first, second = agent.briefs
    assert first.session_id == second.session_id == session_for(rig.store.store_id, await rig.task(task_id))
    assert (first.resume, second.resume) == (False, True)
    assert (first.attempt, second.attempt) == (1, 2)


def test_sessions_differ_by_store_task_and_role() -> None:
    """Two tasks never share a session, nor do two stores, nor the coder and another role of one task."""
    task = _task()
    others = [
        session_for("b" * 12, task),
        session_for("a" * 12, replace(task, id=TaskId(2))),
        session_for("a" * 12, replace(task, spec=replace(task.spec, role="backend"))),
    ]
    assert len({session_for("a" * 12, task), *others}) == 4
    assert session_for("a" * 12, task) == session_for("a" * 12, _task())


async def test_the_task_outranks_the_settings(tmp_path: Path) -> None:
    """Limits that a task names go into its brief; the others are those of the settings."""
    async with _rig(tmp_path, model="small", timeout_s=100.0, task_budget_usd=2.0, max_turns=9) as rig:
        agent = rig.more_agents["command"] = Recorder()
        await rig.carry(await rig.add(command("true", model="large", budget_usd=0.5)))
    [brief] = agent.briefs
    assert (brief.model, brief.budget_usd, brief.timeout_s, brief.max_turns) == ("large", 0.5, 100.0, 9)


def test_a_first_prompt_is_the_task_with_the_house_rules() -> None:
    """The task comes first, then where it may change things and how it will be tested."""
    text = prompt_for(replace(_task(), spec=replace(_task().spec, paths=("src", "docs"))), test=("make", "a b"))
    assert text.startswith("Mend the parser.\n")
    assert "and only in: src, docs." in text
    assert "tested with `make 'a b'`" in text


def test_without_paths_and_tests_the_prompt_says_nothing_of_them() -> None:
    """What does not apply leaves no gap in the prompt."""
    text = prompt_for(_task(), test=())
    assert "only in" not in text
    assert "tested" not in text
    assert "$" not in text


def test_a_later_prompt_says_that_work_was_begun() -> None:
    """A task that ran before is told to look at what is there, and is told the task again."""
    text = prompt_for(replace(_task(), runs=1, failure=Failure("exit", "no \x1b[31mdisk")), test=())
    assert "ended before it was done (no" in text
    assert "\x1b" not in text
    assert "Mend the parser." in text


def test_feedback_makes_it_a_rework() -> None:
    """A task that was sent back is told what was found, whatever signs it contains."""
    text = prompt_for(replace(_task(), runs=2, feedback="$HOME ${x} $$ failed"), test=())
    assert "sent back" in text
    assert "$HOME ${x} $$ failed" in text
    assert "Mend the parser." in text


def test_run_files_are_a_thousand_to_a_directory() -> None:
    """The files of a run stand under its thousand, so that no directory grows without end."""
    assert run_files(Path("/s"), 1234567) == Path("/s/runs/1234/1234567")


def _coded(script: str, **fields: Any) -> NewTask:
    return scripted(script, workspace=WorkspaceKind.REPO, **fields)


def _tested(check: str) -> NewTask:
    return _coded("edit f done", phases=(Phase.APPLY, Phase.TEST), test=("sh", "-c", check))


def _task() -> Task:
    return Task(TaskId(1), NewTask("Mend", prompt="Mend the parser."), State.IN_PROGRESS, Phase.APPLY, created_at_ms=0)


async def _release(rig: Rig, run_id: RunId) -> None:
    rules = rig.settings.rules(rig.clock.now_ms(), 0.0)
    assert await rig.store.release([run_id], Lost(), rules) == [run_id]
    assert not await rig.store.open_runs(HOST)


@pytest.mark.timeout(60)
async def test_what_an_agent_left_running_does_not_touch_the_work_any_more(tmp_path: Path) -> None:
    """A daemon that goes on editing is stopped before the work is sealed: what is tested is what is committed."""
    cheat = "echo bad >code; (setsid sh -c 'sleep 0.4; echo good >code; sleep 30' >/dev/null 2>&1 &); exit 0"
    user = make_repo(tmp_path)
    async with _rig(tmp_path, user) as rig:
        task = NewTask(
            "cheat",
            agent="command",
            command=("sh", "-c", cheat),
            phases=(Phase.APPLY, Phase.TEST),
            test=("sh", "-c", "sleep 0.7; grep good code"),
            rounds=0,
        )
        task_id = await rig.add(task)
        await rig.carry(task_id)
        tested = await rig.carry(task_id)
    assert tested.state is State.NEEDS_YOU
    assert tested.reason is Reason.REWORK_EXHAUSTED
