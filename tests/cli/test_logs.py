from __future__ import annotations

import json
import threading
from pathlib import Path

from hive.lock import EngineLock
from hive.model import NewTask, Phase, TaskId
from hive.worker import run_files
from tests.cli.conftest import Cli, Seed, done, failed, hive_process

TRANSCRIPT = [
    {"type": "system", "subtype": "init", "model": "m", "claude_code_version": "2.1", "session_id": "s"},
    {
        "type": "assistant",
        "message": {"id": "1", "content": [{"type": "text", "text": "I read \x1b[31mthe\x1b[0m file"}]},
    },
]


def write(directory: Path, run_id: int, out: bytes, err: bytes = b"") -> None:
    """Write the output files of a run."""
    stem = run_files(directory / ".hive", run_id)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.out").write_bytes(out)
    stem.with_name(f"{stem.name}.err").write_bytes(err)


def one_run(seed: Seed, agent: str = "command") -> TaskId:
    (task,) = seed.add(NewTask("t", prompt="p", agent=agent))
    seed.work(task, done())
    return task


def test_raw_output_is_copied_byte_by_byte(seed: Seed, tmp_path: Path) -> None:
    """--raw prints exactly what the agent wrote, whatever bytes it holds."""
    task = one_run(seed)
    content = bytes(range(256)) * 3000
    write(tmp_path, 1, content)
    process = hive_process("logs", task, "--raw", cwd=tmp_path, text=False)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, content, b"")


def test_text_is_shown_without_control_characters(cli: Cli, seed: Seed, tmp_path: Path) -> None:
    """Escape sequences of a program never reach the terminal; its standard error goes to ours."""
    task = one_run(seed)
    write(tmp_path, 1, b"\x1b[2Jone\r\ntwo\x07\xff", b"\x1b[31mwarned\n")
    answer = cli("logs", task)
    assert answer.out == "one\ntwo\N{REPLACEMENT CHARACTER}\n"
    assert answer.err == "warned\n"
    assert cli("logs", task, "--json").data["text"] == "one\ntwo\N{REPLACEMENT CHARACTER}"


def test_a_transcript_of_claude_is_readable(cli: Cli, seed: Seed, tmp_path: Path) -> None:
    """Messages are rendered as text, free of escape sequences."""
    task = one_run(seed, agent="claude")
    write(tmp_path, 1, b"".join(json.dumps(message).encode() + b"\n" for message in TRANSCRIPT))
    answer = cli("logs", task)
    assert answer.lines[0].startswith("* claude 2.1, m")
    assert "I read the file" in answer.out
    assert "\x1b" not in answer.out
    assert "assistant" not in answer.out


def test_the_last_apply_is_shown_unless_another_run_is_named(cli: Cli, seed: Seed, tmp_path: Path) -> None:
    """A test run after the agent's does not hide what the agent said; --run picks any run of the task."""
    (task,) = seed.add(NewTask("t", agent="command", phases=(Phase.APPLY, Phase.TEST)))
    seed.work(task, failed(retryable=True), done(), failed(retryable=True))
    for run_id in (1, 2, 3):
        write(tmp_path, run_id, f"run {run_id}\n".encode())
    assert cli("logs", task).out == "run 2\n"
    assert cli("logs", task, "--run", 3).out == "run 3\n"
    answer = cli("logs", task, "--run", 9)
    assert (answer.code, "error[H143]: task 1 has no run 9" in answer.err) == (2, True)


def test_a_run_without_output_is_told(cli: Cli, seed: Seed) -> None:
    """A file that is not there is an error with its path; a task that never ran another."""
    task = one_run(seed)
    answer = cli("logs", task)
    assert (answer.code, answer.err.splitlines()[0]) == (5, "error[H232]: run 1 left no output on this machine")
    (new,) = seed.add(NewTask("new"))
    assert "has not run yet" in cli("logs", new).err


def test_following_ends_with_the_run(seed: Seed, tmp_path: Path) -> None:
    """-f prints what is written later and ends after the run's end is recorded, with nothing lost."""
    seed.add(NewTask("t", agent="command"))
    (claimed,) = seed.claim()
    write(tmp_path, claimed.run_id, b"first\n")
    lock = EngineLock(tmp_path / ".hive" / "hive.db.engine")
    process = hive_process("logs", 1, "-f", cwd=tmp_path)
    giving_up = threading.Timer(20, process.kill)
    giving_up.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    path = run_files(tmp_path / ".hive", claimed.run_id)
    with path.with_name(f"{path.name}.out").open("ab") as file:
        file.write(b"last, without newline")
    seed.end(claimed.run_id, done())
    out, _ = process.communicate(timeout=20)
    giving_up.cancel()
    lock.close()
    assert (process.returncode, out) == (0, "last, without newline\n")


def test_following_ends_when_no_engine_is_left(seed: Seed, tmp_path: Path) -> None:
    """-f of a run whose engine died prints what there is and ends with a note instead of waiting for ever."""
    seed.add(NewTask("t", agent="command"))
    (claimed,) = seed.claim()
    write(tmp_path, claimed.run_id, b"all there is\n")
    lock = EngineLock(tmp_path / ".hive" / "hive.db.engine")
    process = hive_process("logs", 1, "-f", cwd=tmp_path)
    giving_up = threading.Timer(20, process.kill)
    giving_up.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "all there is\n"
    lock.close()
    out, err = process.communicate(timeout=20)
    giving_up.cancel()
    note = f"no engine runs, and run {claimed.run_id} has no end: `hive run` takes its task up again\n"
    assert (process.returncode, out, err) == (0, "", note)
