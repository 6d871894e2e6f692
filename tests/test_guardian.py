from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hive.agent.proctable import boot_id
from hive.guardian import GuardClient
from hive.model import ProcessRecord
from tests.conftest import ROOT
from tests.rig import agent_process, alive, until_blocking

GUARDIAN = """
import socket, sys
from pathlib import Path
from hive import guardian
listener, lifeline, directory, grace_s = sys.argv[1:]
guardian.main(socket.socket(fileno=int(listener)), int(lifeline), Path(directory), grace_s=float(grace_s))
"""
SHARD_PROCESS = """
import sys
from pathlib import Path
from hive.guardian import GuardClient
from hive.model import ProcessRecord
client = GuardClient(Path(sys.argv[1]), sys.argv[2])
client.register(ProcessRecord(int(sys.argv[3]), int(sys.argv[4]), ""), "a.1")
print("registered", flush=True)
sys.stdin.read()
"""
STUBBORN = "trap '' TERM; while :; do sleep 1; done"


class Watch:
    """A guardian in a process of its own, with the supervisor's end of its lifeline."""

    def __init__(self, directory: Path, grace_s: float) -> None:
        self.path = directory / "run" / "guardian"
        self.path.parent.mkdir()
        self._grace_s = grace_s
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        self.lifeline_read, self.lifeline_write = os.pipe()
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        descriptors = (self.listener.fileno(), self.lifeline_read)
        argv = [sys.executable, "-c", GUARDIAN, *map(str, (*descriptors, self.path.parent, self._grace_s))]
        self.process = subprocess.Popen(argv, pass_fds=descriptors, cwd=ROOT)
        try:
            until_blocking(lambda: _ignores(self.process.pid, signal.SIGQUIT), "the guardian did not start")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self.process

    def replace(self) -> None:
        """Kill the guardian and start another, as the supervisor would."""
        self.process.kill()
        self.process.wait()
        self.start()

    def let_go(self) -> None:
        """Be a supervisor that dies."""
        os.close(self.lifeline_write)
        self.lifeline_write = -1

    def close(self) -> None:
        if self.lifeline_write >= 0:
            self.let_go()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.listener.close()
            os.close(self.lifeline_read)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Return a guardian with a short grace; it must have ended by itself when the test is over."""
    found = Watch(tmp_path, 0.3)
    yield found
    found.close()
    assert found.process.returncode == 0


def test_a_shard_that_is_killed_takes_its_agents_along(watch: Watch, tmp_path: Path) -> None:
    """After a kill -9 of a shard its agent is stopped though it ignores TERM, and so is a daemon of its own session."""
    daemon_file = tmp_path / "daemon"
    daemon = f"setsid sh -c 'echo $$ > {daemon_file}; trap \"\" TERM; while :; do sleep 1; done' & {STUBBORN}"
    with agent_process("a.1", daemon, "here.0.one") as agent:
        until_blocking(daemon_file.exists)
        with _shard_process(watch, "here.0.one", agent) as shard:
            shard.kill()
            shard.wait()
            until_blocking(lambda: not alive(agent.pid), "the agent was not stopped")
            until_blocking(lambda: not alive(int(daemon_file.read_text())), "the daemon was not stopped")


def test_an_agent_that_nobody_had_time_to_register_is_found_by_its_shard(watch: Watch) -> None:
    """A process started in the very moment of the shard's death carries the shard's name, and that is enough."""
    with agent_process("a.1", STUBBORN, "here.0.one") as agent:
        _die(GuardClient(watch.path, "here.0.one"))
        until_blocking(lambda: not alive(agent.pid))


def test_an_agent_gets_its_grace(watch: Watch, tmp_path: Path) -> None:
    """TERM comes first, and an agent that heeds it ends in its own way."""
    note = tmp_path / "note"
    script = f"trap 'echo last words > {note}; exit 0' TERM; while :; do sleep 0.01; done"
    with agent_process("a.1", script, "here.0.one") as agent:
        client = GuardClient(watch.path, "here.0.one")
        client.register(agent, "a.1")
        _die(client)
        until_blocking(lambda: not alive(agent.pid))
    assert note.read_text() == "last words\n"


def test_after_a_goodbye_nothing_is_touched(watch: Watch) -> None:
    """A shard that ends in good order leaves nobody to be stopped, whatever it registered."""
    with agent_process("a.1", "sleep 300", "here.0.one") as agent:
        client = GuardClient(watch.path, "here.0.one")
        client.register(agent, "a.1")
        client.close()
        watch.let_go()
        watch.process.wait(20)
        assert alive(agent.pid)


def test_the_agents_of_other_shards_are_left_alone(watch: Watch) -> None:
    """One shard's death is not another's."""
    with (
        agent_process("a.1", "sleep 300", "here.0.one") as mine,
        agent_process("a.2", "sleep 300", "here.1.two") as other,
    ):
        dying, living = GuardClient(watch.path, "here.0.one"), GuardClient(watch.path, "here.1.two")
        dying.register(mine, "a.1")
        living.register(other, "a.2")
        _die(dying)
        until_blocking(lambda: not alive(mine.pid))
        assert alive(other.pid)
        living.close()


def test_a_forgotten_process_is_not_touched(watch: Watch) -> None:
    """A number that was taken back may belong to anybody by now."""
    with agent_process("", "sleep 300", "") as stranger, agent_process("a.1", "sleep 300", "here.0.one") as agent:
        client = GuardClient(watch.path, "here.0.one")
        client.register(stranger, "b.1")
        client.register(agent, "a.1")
        client.forget(stranger.pid)
        client.forget(4711)
        _die(client)
        until_blocking(lambda: not alive(agent.pid))
        assert alive(stranger.pid)


def test_a_number_that_was_given_to_somebody_else_is_not_touched(watch: Watch) -> None:
    """A process with another start time than registered is a stranger."""
    with agent_process("", "sleep 300", "") as stranger, agent_process("a.1", "sleep 300", "here.0.one") as agent:
        client = GuardClient(watch.path, "here.0.one")
        client.register(replace(stranger, started=stranger.started - 1), "b.1")
        client.register(agent, "a.1")
        _die(client)
        until_blocking(lambda: not alive(agent.pid))
        assert alive(stranger.pid)


def test_a_new_guardian_hears_of_everything_again(watch: Watch) -> None:
    """After the guardian was replaced, the next look of a shard tells the new one all that is registered."""
    with agent_process("", "sleep 300", "") as early, agent_process("", "sleep 300", "") as late:
        client = GuardClient(watch.path, "here.0.one")
        client.register(early, "a.1")
        watch.replace()
        client.check()
        client.check()
        client.register(late, "a.2")
        _die(client)
        until_blocking(lambda: not alive(early.pid) and not alive(late.pid))


def test_a_shard_works_without_a_guardian_and_tells_it_later(tmp_path: Path) -> None:
    """Nothing fails while there is no guardian; the first look that finds one tells it all."""
    client = GuardClient(tmp_path / "run" / "guardian", "here.0.one")
    with agent_process("", "sleep 300", "") as agent:
        client.register(agent, "a.1")
        client.check()
        with _watch(tmp_path):
            client.check()
            _die(client)
            until_blocking(lambda: not alive(agent.pid))


def test_a_slow_guardian_neither_stops_a_shard_nor_takes_it_for_dead(watch: Watch) -> None:
    """While the guardian does not read, shards go on at once; when it does again, it has missed nothing."""
    with agent_process("", "sleep 300", "") as early, agent_process("", "sleep 300", "") as late:
        client = GuardClient(watch.path, "here.0.one")
        client.register(early, "a.1")
        watch.process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        for number in range(20_000):
            client.register(ProcessRecord(2**22 + number, 1, boot_id()), f"a.{number}")
        client.register(late, "a.2")
        assert time.monotonic() - began_s < 5.0
        watch.process.send_signal(signal.SIGCONT)
        until_blocking(lambda: _has_told_all(client), "the guardian never caught up")
        assert alive(early.pid)
        assert alive(late.pid)
        for number in range(20_000):
            client.forget(2**22 + number)
        until_blocking(lambda: _has_told_all(client))
        _die(client)
        until_blocking(lambda: not alive(early.pid) and not alive(late.pid))


def test_it_stays_as_long_as_somebody_needs_it(watch: Watch) -> None:
    """It outlives the supervisor as long as a shard lives, ends with the last of them and removes its directory."""
    client = GuardClient(watch.path, "here.0.one")
    watch.let_go()
    with pytest.raises(subprocess.TimeoutExpired):
        watch.process.wait(0.3)
    client.close()
    assert watch.process.wait(20) == 0
    assert not watch.path.parent.exists()


def test_it_ends_only_after_the_agents_are_stopped(watch: Watch) -> None:
    """Everybody dead at once: it first stops the agents, then ends."""
    with agent_process("a.1", STUBBORN, "here.0.one") as agent:
        client = GuardClient(watch.path, "here.0.one")
        client.register(agent, "a.1")
        watch.let_go()
        _die(client)
        assert watch.process.wait(20) == 0
        assert not alive(agent.pid)


def test_it_ignores_what_a_person_sends_to_the_engine(watch: Watch) -> None:
    """INT, TERM, HUP and QUIT do not end it: stopping agents is its duty then more than ever."""
    client = GuardClient(watch.path, "here.0.one")
    with agent_process("a.1", "sleep 300", "here.0.one") as agent:
        client.register(agent, "a.1")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            watch.process.send_signal(number)
        _die(client)
        until_blocking(lambda: not alive(agent.pid))
    assert watch.process.poll() is None


def _has_told_all(client: GuardClient) -> bool:
    client.check()
    return not client._unsent


def _ignores(pid: int, number: int) -> bool:
    """Return whether a process ignores a signal. Source: proc_pid_status(5)."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def _die(client: GuardClient) -> None:
    """End the connection as the kernel does when a shard is killed."""
    assert client._socket is not None
    client._socket.close()


@contextmanager
def _watch(directory: Path) -> Iterator[Watch]:
    found = Watch(directory, 0.3)
    yield found
    found.close()


@contextmanager
def _shard_process(watch: Watch, name: str, agent: ProcessRecord) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", SHARD_PROCESS, str(watch.path), name, str(agent.pid), str(agent.started)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"registered\n"
        yield process
