from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hive.errors import NotReady
from hive.lock import EngineLock
from tests.conftest import ROOT
from tests.rig import alive, until_blocking

HOLDER = """
import os, sys
from pathlib import Path
from hive.lock import EngineLock
lock = EngineLock(Path(sys.argv[1]))
os.write(1, b"locked\\n")
if len(sys.argv) > 2 and os.fork():
    os._exit(0)
sys.stdin.read()
"""


def test_a_second_engine_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """The error names the process that holds the lock, and comes at once."""
    with _holder(tmp_path / "hive.db.engine") as holder:
        with pytest.raises(NotReady, match="another engine") as caught:
            EngineLock(tmp_path / "hive.db.engine")
        assert caught.value.code == "H220"
        assert str(holder.pid) in caught.value.why


def test_the_lock_of_a_dead_engine_is_free(tmp_path: Path) -> None:
    """A file that a dead engine left does not matter, whatever it says."""
    path = tmp_path / "hive.db.engine"
    with _holder(path) as holder:
        holder.kill()
    lock = EngineLock(path)
    assert path.read_text() == str(os.getpid())
    lock.close()


def test_a_file_with_anything_in_it_is_no_lock(tmp_path: Path) -> None:
    """Only the kernel's lock counts, not the file's content, and that is replaced as a whole."""
    path = tmp_path / "hive.db.engine"
    path.write_text("1 and more than a process id")
    lock = EngineLock(path)
    assert path.read_text() == str(os.getpid())
    lock.close()
    assert path.read_text() == ""


def test_what_is_left_of_a_dead_engine_is_waited_for(tmp_path: Path) -> None:
    """While processes of a killed engine still stop their agents, the next engine waits instead of giving up."""
    path = tmp_path / "hive.db.engine"
    with _holder(path, "and die, with a child that keeps the lock") as dead:
        until_blocking(lambda: not alive(dead.pid))
        with _started(path) as waiter:
            with pytest.raises(subprocess.TimeoutExpired):
                waiter.wait(0.5)
            assert dead.stdin is not None
            dead.stdin.close()
            _await_locked(waiter)


def test_the_directory_is_made(tmp_path: Path) -> None:
    """The first engine of a queue makes the directory it lives in."""
    EngineLock(tmp_path / "a" / "b" / "hive.db.engine").close()
    assert (tmp_path / "a" / "b" / "hive.db.engine").exists()


@contextmanager
def _holder(path: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with _started(path, *arguments) as holder:
        _await_locked(holder)
        yield holder


@contextmanager
def _started(path: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", HOLDER, str(path), *arguments]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        if process.stdin is not None:
            process.stdin.close()


def _await_locked(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
