from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.clock import SystemClock
from hive.model import NewTask
from tests.cli.conftest import CLEAN, ROOT, Cli, Seed

READERS = [
    ["status"], ["ls"], ["show", "1"], ["logs", "1"], ["events"], ["wait"], ["diff", "1"], ["cancel", "1"],
    ["retry", "1"], ["hold", "1"], ["release", "1"], ["prio", "1", "1"], ["pause"], ["resume"], ["stop"],
    ["set", "agents=1"],
]  # fmt: skip


@pytest.mark.parametrize("words", READERS, ids=[words[0] for words in READERS])
def test_without_a_queue_nothing_is_made(cli: Cli, tmp_path: Path, words: list[str]) -> None:
    """A verb that works on a queue exits with 5 and a command to type where there is none, and makes no file."""
    for answer in (cli(*words), cli(*words, "--json")):
        assert (answer.code, answer.out) == (5, "")
        assert answer.err.splitlines()[0] == "error[H230]: there is no queue here"
        assert answer.err.splitlines()[-1] == 'fix: hive init && hive add "what to do"'
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["status"], ["cancel", "1"], ["wait"]])
def test_a_newer_queue_is_left_alone(cli: Cli, seed: Seed, words: list[str]) -> None:
    """The schema of a later Hive is refused with H302."""
    seed.add(NewTask("t"))
    with sqlite3.connect(seed.path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    answer = cli(*words)
    assert (answer.code, answer.err.splitlines()[0]) == (5, "error[H302]: the queue was written by a newer Hive")
    assert "schema 99" in answer.err


def test_a_damaged_queue_is_told_as_one(cli: Cli, seed: Seed) -> None:
    """A file that is no database exits with 5 and says what to do with it."""
    seed.path.parent.mkdir()
    seed.path.write_bytes(b"this is not a database, but it is long enough to be looked at as one\n" * 50)
    answer = cli("status")
    assert (answer.code, answer.err.splitlines()[0]) == (5, "error[H306]: the queue's file is damaged")
    assert "fix: " in answer.err


def test_somebody_elses_database_is_not_taken(cli: Cli, seed: Seed) -> None:
    """An SQLite file without Hive's mark is refused and not changed."""
    seed.path.parent.mkdir()
    with sqlite3.connect(seed.path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = seed.path.read_bytes()
    assert "error[H307]" in cli("ls").err
    assert seed.path.read_bytes() == before


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory another user may enter, unlike those pytest makes."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


AS_NOBODY = """
import os, sys
from hive.cli.app import run
environ = {"PATH": os.defpath}
assert run(["-C", sys.argv[1], "status"], environ) == 0  # loads all that is needed, which may be root's alone
for name in os.listdir(sys.argv[1] + "/.hive"):
    os.chmod(f"{sys.argv[1]}/.hive/{name}", 0o444)
os.chmod(sys.argv[1] + "/.hive", 0o555)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run(["-C", sys.argv[1], "status"], environ))
"""


def test_a_queue_in_a_read_only_directory_is_told(open_directory: Path) -> None:
    """Where nothing can be written, the error names the queue and the exit code is 5."""
    Seed(open_directory, SystemClock()).add(NewTask("t"))
    command = [sys.executable, "-c", AS_NOBODY, str(open_directory)]
    ended = subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, check=False)
    (open_directory / ".hive").chmod(0o755)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (5, "error[H305]: the queue cannot be written")
    assert f"--> {open_directory}/.hive/hive.db" in ended.stderr


def test_wrong_settings_stop_every_verb(cli: Cli, tmp_path: Path) -> None:
    """A mistake in hive.toml exits with 2 and its place."""
    (tmp_path / "hive.toml").write_text("agent = 'claud'\n")
    answer = cli("status")
    assert (answer.code, "hive.toml:1" in answer.err) == (2, True)
    assert "--profile" in cli("status", "--profile", "no").err or "H102" in answer.err


def test_columns_are_those_of_the_environment(cli: Cli, seed: Seed) -> None:
    """COLUMNS decides the width where no terminal does."""
    seed.add(NewTask("t" * 300))
    assert max(map(len, cli("ls", environ={"COLUMNS": "70"}).lines)) == 70
    assert max(map(len, cli("ls").lines)) > 300
