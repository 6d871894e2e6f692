from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from hive.model import NewTask
from tests.cli.conftest import CLEAN, ROOT, Cli, Seed, done, hive_process


def git(repo: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.invalid", *words]
    return subprocess.run(command, cwd=repo, check=True, capture_output=True, text=True, env=CLEAN).stdout.strip()


@pytest.fixture
def changed(repo: Path, seed: Seed) -> Path:
    """A repository where task 1 added a line to a file that is not UTF-8, on its branch."""
    base = git(repo, "rev-parse", "HEAD")
    git(repo, "switch", "-q", "-c", "hive/1-t")
    (repo / "latin.txt").write_bytes(b"caf\xe9 \x1b[31m\n")
    (repo / "image.bin").write_bytes(bytes(range(256)))
    git(repo, "add", "latin.txt", "image.bin")
    git(repo, "commit", "-q", "-m", "change")
    git(repo, "switch", "-q", "main")
    (task,) = seed.add(NewTask("t"))
    seed.work(task, done())
    seed.place(task, "", "hive/1-t", base)
    return repo


def test_a_diff_in_a_pipe_is_a_patch(changed: Path) -> None:
    """`hive diff | git apply` works byte by byte."""
    command = f"{sys.executable} -m hive diff 1 | git apply -"
    subprocess.run(["sh", "-c", command], cwd=changed, check=True, env={**CLEAN, "PYTHONPATH": str(ROOT)})
    assert (changed / "image.bin").read_bytes() == bytes(range(256))
    assert (changed / "latin.txt").read_bytes() == b"caf\xe9 \x1b[31m\n"


def test_a_diff_as_json_and_as_figures(changed: Path, cli: Cli) -> None:
    """--json holds commits and text, --stat only the files."""
    data = cli("diff", 1, "--json").data
    assert (data["schema"], data["task_id"], data["branch"]) == ("hive.diff/1", 1, "hive/1-t")
    assert "+caf" in data["diff"]
    assert "2 files changed, 1 insertion(+)" in cli("diff", 1, "--stat").out


def test_a_task_without_a_branch_has_no_diff(repo: Path, seed: Seed, cli: Cli) -> None:
    """A task that has not started says so."""
    seed.add(NewTask("t"))
    answer = cli("diff", 1)
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error[H144]: task 1 has no branch")


def test_a_branch_that_changes_nothing_says_so(repo: Path, seed: Seed, cli: Cli) -> None:
    """An empty diff is told on stderr."""
    (task,) = seed.add(NewTask("t"))
    seed.place(task, "", "main", git(repo, "rev-parse", "HEAD"))
    answer = cli("diff", 1)
    assert (answer.code, answer.out, answer.err) == (0, "", "main changes nothing\n")


def test_on_a_terminal_a_diff_is_harmless(changed: Path, tmp_path: Path) -> None:
    """What a file holds cannot steer the terminal that shows the diff; only our colours can."""
    ours, theirs = pty.openpty()
    process = hive_process("diff", 1, cwd=changed, stdout=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not piece:
            break
        shown += piece
    process.communicate(timeout=20)
    os.close(ours)
    assert b"\x1b[32m+caf" in shown
    assert b"\x1b[31m\r\n" not in shown
