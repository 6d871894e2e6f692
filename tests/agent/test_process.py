from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hive.agent import Brief
from hive.agent.output import output_file
from hive.agent.process import Ending, Launcher, Process, SpawnFailed, Sweep, child_env, supervise
from hive.agent.proctable import boot_id, carriers, start_ticks
from hive.clock import SystemClock
from hive.model import Errored, TimedOut

from .conftest import until

# Parent and child both ignore TERM; the child is in the parent's group.
STUBBORN = "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo ready; while :; do sleep 1; done"

# Says in the file `up` that it has left its parent's group and session.
DAEMON = "setsid sh -c 'echo $$ > up; exec sleep 300'"


async def start(launcher: Launcher, brief: Brief, argv: Sequence[str], stdin: bytes | None = None) -> Process:
    env = child_env(os.environ, mark=brief.mark, shard=brief.shard)
    return await launcher.start(argv, brief.directory, env, brief.files, stdin)


async def shell(launcher: Launcher, brief: Brief, script: str, stdin: bytes | None = None) -> Process:
    return await start(launcher, brief, ["sh", "-c", script], stdin)


def out(brief: Brief) -> bytes:
    return output_file(brief.files, "out").read_bytes()


async def watch(process: Process, brief: Brief, sweep: Sweep = Sweep.NOW) -> Ending:
    return await supervise(process, brief, SystemClock(), sweep=sweep)


async def test_output_and_input_are_files_only_their_owner_can_read(launcher: Launcher, brief: Brief) -> None:
    """Input comes from `.in`, stdout goes to `.out`, stderr to `.err`, all with mode 0600."""
    process = await shell(launcher, brief, "cat; echo oops >&2", b"hello")
    assert await process.wait(20) == 0
    assert out(brief) == b"hello"
    assert output_file(brief.files, "err").read_bytes() == b"oops\n"
    modes = {stat.S_IMODE(output_file(brief.files, kind).stat().st_mode) for kind in ("in", "out", "err")}
    assert modes == {0o600}


async def test_without_input_stdin_is_at_its_end(launcher: Launcher, brief: Brief) -> None:
    """A program that reads stdin does not wait for anybody."""
    process = await start(launcher, brief, ["cat"])
    assert await process.wait(20) == 0
    assert not output_file(brief.files, "in").exists()


async def test_record_is_exact(launcher: Launcher, brief: Brief) -> None:
    """The record holds pid, start time and boot, and the pid leads a group and session of its own."""
    process = await start(launcher, brief, ["sleep", "300"])
    pid = process.record.pid
    assert process.record.started == start_ticks(pid) != 0
    assert process.record.boot_id == boot_id()
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert await process.wait(0.01) is None
    await process.stop(5.0)
    assert process.exit_code == -signal.SIGTERM


@pytest.mark.parametrize("pidfds", [True, False])
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$", -15)])
async def test_exit_code_is_the_programs_own(brief: Brief, pidfds: bool, script: str, code: int) -> None:  # noqa: FBT001
    """Exit codes and signals are told apart, with process descriptors and with a thread instead."""
    launcher = Launcher(SystemClock(), pidfds=pidfds)
    process = await shell(launcher, brief, script)
    assert await process.wait(20) == code
    launcher.close()


async def test_exit_code_of_a_child_reaped_by_somebody_else_is_not_success(launcher: Launcher, brief: Brief) -> None:
    """Nobody saw the code, so the run did not succeed."""
    process = await shell(launcher, brief, "exit 0")
    os.waitpid(process.record.pid, 0)  # noqa: ASYNC222 - the loop must not see the end first
    assert await process.wait(20) == 255


async def test_missing_program_is_a_clear_failure(launcher: Launcher, brief: Brief) -> None:
    """The name of the program is in the reason, and trying again is pointless."""
    with pytest.raises(SpawnFailed, match="no-such-program") as failed:
        await start(launcher, brief, ["no-such-program"])
    outcome = failed.value.outcome()
    assert (outcome.code, outcome.retryable) == ("spawn", False)


async def test_missing_directory_is_a_clear_failure(launcher: Launcher, brief: Brief) -> None:
    """The directory, not the program, is blamed."""
    missing = replace(brief, directory=brief.directory / "gone")
    with pytest.raises(SpawnFailed, match=r"directory '.*gone' does not exist"):
        await start(launcher, missing, ["true"])


@pytest.mark.parametrize("argv", [(), ("",), ("a\0b",), ("/",), ("/dev/null",)])
async def test_impossible_argument_lists_fail_without_a_child(
    launcher: Launcher, brief: Brief, argv: tuple[str, ...]
) -> None:
    """Nothing but `SpawnFailed` comes out of a start."""
    with pytest.raises(SpawnFailed):
        await start(launcher, brief, argv)


async def test_cancelled_spawn_leaves_no_child(launcher: Launcher, brief: Brief) -> None:
    """A cancellation that comes while a thread is in the middle of a spawn stops the child before it goes on."""
    fifo = output_file(brief.files, "out")
    fifo.parent.mkdir()
    os.mkfifo(fifo)  # opening it for writing blocks the thread until somebody reads
    starting = asyncio.create_task(start(launcher, brief, ["sleep", "300"], b"made before the fifo is opened"))
    await until(output_file(brief.files, "in").exists)
    starting.cancel()
    starting.cancel()
    done, _ = await asyncio.wait({starting}, timeout=0.05)
    assert not done, "it must wait for the thread"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(asyncio.CancelledError):
        await starting
    os.close(reader)
    assert carriers([brief.mark]) == []


async def test_cancelled_before_its_turn_starts_nothing(brief: Brief) -> None:
    """A spawn that waits for a thread is taken back."""
    launcher = Launcher(SystemClock(), threads=1)
    fifo = output_file(brief.files, "out")
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    first = asyncio.create_task(start(launcher, brief, ["true"]))
    queued = asyncio.create_task(start(launcher, replace(brief, files=brief.files.with_name("2")), ["sleep", "300"]))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert await (await first).wait(20) == 0
    os.close(reader)
    launcher.close()
    assert not output_file(brief.files.with_name("2"), "out").exists()


async def test_normal_exit_kills_what_is_left_in_the_group(launcher: Launcher, brief: Brief) -> None:
    """A background job of the program's own group does not outlive it, and does not delay its end."""
    process = await shell(launcher, brief, "sleep 300 & echo $!")
    assert await process.wait(5) == 0
    orphan = int(out(brief))
    await until(lambda: start_ticks(orphan) is None or not _alive(orphan))


def _alive(pid: int) -> bool:
    return any(c.row.pid == pid for c in carriers([], ["host.0.test"]))


async def test_stop_asks_then_kills_a_tree_that_ignores_it(launcher: Launcher, brief: Brief) -> None:
    """TERM is ignored by parent and child; after the grace both are gone."""
    process = await shell(launcher, brief, STUBBORN)
    await until(lambda: out(brief))
    began = time.monotonic()
    assert await process.stop(0.3) == []
    assert time.monotonic() - began >= 0.3
    assert process.exit_code == -signal.SIGKILL
    assert carriers([brief.mark]) == []


async def test_stop_gives_the_rest_of_the_group_its_grace(launcher: Launcher, brief: Brief) -> None:
    """The leader ends at once; a child of its group that tidies up is not killed meanwhile."""
    child = "trap 'sleep 0.3; echo tidy; exit' TERM; echo ready; while :; do sleep 0.05; done"
    process = await shell(launcher, brief, f"({child}) & wait")
    await until(lambda: out(brief))
    await process.stop(10.0)
    assert out(brief).endswith(b"tidy\n")


async def test_stop_finds_daemons_by_their_mark(launcher: Launcher, brief: Brief) -> None:
    """A process in a session of its own, whose parents are gone, is stopped with the run."""
    process = await shell(launcher, brief, "setsid sh -c 'setsid sleep 300 & echo $!'; while :; do sleep 1; done")
    await until(lambda: out(brief))
    daemon = int(out(brief))
    assert os.getsid(daemon) != process.record.pid
    await process.stop(5.0)
    assert not _alive(daemon)


async def test_cancelled_stop_kills_at_once_and_still_ends(launcher: Launcher, brief: Brief) -> None:
    """A second cancellation cuts the grace short, also that of daemons, not the stopping."""
    process = await shell(launcher, brief, f'setsid sh -c "{STUBBORN}" & {STUBBORN}')
    await until(lambda: out(brief) == b"ready\nready\n")
    stopping = asyncio.create_task(process.stop(300.0))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert process.exit_code == -signal.SIGKILL
    assert carriers([brief.mark]) == []


async def test_cancelling_the_supervision_stops_everything_first(launcher: Launcher, brief: Brief) -> None:
    """When the cancellation goes on, group and daemons are gone."""
    process = await shell(launcher, brief, "setsid sleep 300 & echo $!; while :; do sleep 1; done")
    watching = asyncio.create_task(watch(process, brief))
    await asyncio.sleep(0)
    await until(lambda: out(brief))
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert process.exit_code == -signal.SIGTERM
    assert carriers([brief.mark]) == []


async def test_a_failing_consumer_stops_the_process(launcher: Launcher, brief: Brief) -> None:
    """What the consumer raises goes on after the process was stopped."""

    def consume(data: bytes) -> None:
        raise ZeroDivisionError

    process = await shell(launcher, brief, "echo x; sleep 300")
    with pytest.raises(ZeroDivisionError):
        await supervise(process, brief, SystemClock(), consume)
    assert process.exit_code == -signal.SIGTERM


async def test_total_timeout(launcher: Launcher, brief: Brief) -> None:
    """A run that goes on and on is stopped and says how long it took."""
    process = await shell(launcher, brief, "while :; do echo busy; sleep 0.02; done")
    ending = await watch(process, replace(brief, timeout_s=0.3, idle_timeout_s=30.0))
    assert isinstance(ending.stopped, TimedOut)
    assert ending.stopped.which == "total"
    assert 0.3 <= ending.stopped.after_s < 5
    assert ending.stopped.usage.duration_s >= 0.3
    assert ending.stopped.exit_code == -signal.SIGTERM


async def test_idle_timeout_counts_from_the_last_output_of_either_file(launcher: Launcher, brief: Brief) -> None:
    """Growth of stderr is a sign of life; silence afterwards is not."""
    process = await shell(launcher, brief, "for i in 1 2 3 4 5 6; do echo x >&2; sleep 0.1; done; sleep 300")
    ending = await watch(process, replace(brief, idle_timeout_s=0.4))
    assert isinstance(ending.stopped, TimedOut)
    assert ending.stopped.which == "idle"
    assert ending.duration_s >= 0.9


@pytest.mark.parametrize("flood", ["head -c 2000000 /dev/zero", "head -c 200000000 /dev/zero; sleep 300"])
async def test_flood_ends_at_the_output_limit(launcher: Launcher, brief: Brief, flood: str) -> None:
    """More than the limit is an error, whether the program ended before anybody looked or goes on and on."""
    process = await shell(launcher, brief, flood)
    ending = await watch(process, replace(brief, output_limit_bytes=1_000_000))
    assert isinstance(ending.stopped, Errored)
    assert ending.stopped.code == "output_limit"


async def test_the_consumer_of_a_flood_gets_no_more_than_the_limit(launcher: Launcher, brief: Brief) -> None:
    """Bytes beyond the limit stay in the file."""
    got = 0

    def consume(data: bytes) -> None:
        nonlocal got
        got += len(data)

    process = await shell(launcher, brief, "head -c 20000000 /dev/zero")
    await supervise(process, replace(brief, output_limit_bytes=9_000_001), SystemClock(), consume)
    assert got == 9_000_001


async def test_the_consumer_gets_all_bytes_as_they_come(launcher: Launcher, brief: Brief) -> None:
    """A 5 MB line arrives whole, the first bytes long before the end."""
    chunks: list[bytes] = []
    script = "echo first; read go < fifo; head -c 5000000 /dev/zero; echo; echo last"
    os.mkfifo(brief.directory / "fifo")
    process = await shell(launcher, brief, script)
    watching = asyncio.create_task(supervise(process, brief, SystemClock(), chunks.append))
    await until(lambda: chunks)
    assert b"".join(chunks) == b"first\n"
    assert process.exit_code is None
    (brief.directory / "fifo").write_text("go\n")
    assert (await watching).exit_code == 0
    assert b"".join(chunks) == b"first\n" + b"\0" * 5_000_000 + b"\nlast\n"


async def test_a_program_that_reopens_stdout_is_captured(launcher: Launcher, brief: Brief) -> None:
    """`> /dev/stdout` truncates the file; what is written before and after it neither fails nor leaves holes."""
    process = await shell(launcher, brief, "echo gone; echo one > /dev/stdout; echo two")
    chunks: list[bytes] = []
    await supervise(process, brief, SystemClock(), chunks.append)
    assert out(brief) == b"one\ntwo\n"
    assert b"".join(chunks).endswith(b"one\ntwo\n")


async def test_a_grandchild_that_holds_stdout_delays_nothing(launcher: Launcher, brief: Brief) -> None:
    """The end of the leader is the end, although the output is still open elsewhere."""
    process = await shell(launcher, brief, f"{DAEMON} & until [ -s up ]; do sleep 0.01; done")
    ending = await watch(process, brief, Sweep.LATER)
    assert ending.exit_code == 0
    assert ending.duration_s < 10
    assert len(carriers([brief.mark])) == 1
    assert await launcher.sweeper.sweep() == []
    assert carriers([brief.mark]) == []


async def test_stop_when_ends_a_process_without_blame(launcher: Launcher, brief: Brief) -> None:
    """A caller that has seen enough stops the process, which is no error."""
    seen: list[bytes] = []
    process = await shell(launcher, brief, "echo result; sleep 300")
    ending = await supervise(process, brief, SystemClock(), seen.append, stop_when=lambda: bool(seen))
    assert ending.stopped is None
    assert ending.exit_code == -signal.SIGTERM


async def test_many_at_once_leave_no_descriptor_and_no_zombie(launcher: Launcher, brief: Brief) -> None:
    """300 concurrent programs all end with their own code, and the process is as it was."""

    async def one(number: int) -> int | None:
        this = replace(brief, files=brief.files.with_name(str(number)))
        return (await watch(await shell(launcher, this, f"exit {number % 3}"), this, Sweep.LATER)).exit_code

    await one(0)
    before = _descriptors()
    codes = await asyncio.gather(*(one(number) for number in range(300)))
    assert codes == [number % 3 for number in range(300)]
    assert _descriptors() == before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_stopping_many_at_once_is_one_sweep(launcher: Launcher, brief: Brief) -> None:
    """50 stubborn trees are stopped together, in about one grace."""
    briefs = [replace(brief, files=brief.files.with_name(str(number))) for number in range(50)]
    processes = await asyncio.gather(*(shell(launcher, this, STUBBORN) for this in briefs))
    await until(lambda: all(out(this) for this in briefs))
    began = time.monotonic()
    await asyncio.gather(*(process.stop(0.5) for process in processes))
    assert time.monotonic() - began < 15
    assert {process.exit_code for process in processes} == {-signal.SIGKILL}
    assert carriers([brief.mark]) == []


async def test_children_start_with_default_signals(brief: Brief) -> None:
    """What Hive ignores or blocks (nohup, a shell's `&`) is neither ignored nor blocked in a child."""
    program = """
import asyncio, os, signal, sys
from pathlib import Path
from hive.agent.process import Launcher
from hive.clock import SystemClock
for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(name, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
async def main():
    launcher = Launcher(SystemClock())
    process = await launcher.start(["cat", "/proc/self/status"], Path("."), dict(PATH=os.defpath), Path(sys.argv[1]))
    assert await process.wait(20) == 0
    launcher.close()
asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(brief.files)], check=True, cwd=root, timeout=30
    )
    status = dict(line.split(":\t", 1) for line in out(brief).decode().splitlines())
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0


async def test_descriptors_of_hive_do_not_reach_children(launcher: Launcher, brief: Brief) -> None:
    """A child has its three files and nothing else, even of what may be inherited."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    process = await shell(launcher, brief, "ls /proc/self/fd | wc -l")
    assert await process.wait(20) == 0
    os.close(read)
    os.close(write)
    assert int(out(brief)) == 4  # the fourth is the listing itself
