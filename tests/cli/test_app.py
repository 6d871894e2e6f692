from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hive import __version__
from hive.cli import GROUPS, VERBS
from hive.cli.app import run
from tests.cli.conftest import CLEAN, ROOT, Cli, Zoo, hive, hive_process

SLOW = ("asyncio", "uvloop", "aiosqlite", "psutil", "anthropic", "multiprocessing", "yaml", "subprocess")


def test_the_version_is_printed_without_loading_anything() -> None:
    """`--version` answers before click is imported."""
    code = (
        "import sys, hive.__main__; sys.argv[1:] = ['--version']; hive.__main__.main(); print('click' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hive", __version__, "False"]


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["status"], ["ls"], ["ls", "--json"], ["status", "--json"]]
)
def test_quick_verbs_load_nothing_slow(zoo: Zoo, tmp_path: Path, words: list[str]) -> None:
    """Looking at the queue loads neither an event loop nor a process library, nor the other verbs."""
    code = (
        "import sys; sys.argv = ['hive', *sys.argv[1:]]\n"
        "from hive.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\nLOADED', *sys.modules)"
    )
    env = {**CLEAN, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "sys" in loaded, done.stderr
    assert not loaded & set(SLOW)
    own = {row.module for row in VERBS if row.name in words}
    assert {"hive.cli.doctor", "hive.cli.run", "hive.cli.add"} & loaded <= own


def test_the_help_names_every_verb_without_importing_it(cli: Cli) -> None:
    """`hive --help` lists all verbs by group, each with its line."""
    shown = cli("--help")
    assert shown.code == 0
    for row in VERBS:
        assert f"  {row.name} " in shown.out
        assert row.group in GROUPS
    assert cli().out == shown.out


@pytest.mark.parametrize("row", VERBS, ids=[row.name for row in VERBS])
def test_every_verb_explains_itself(cli: Cli, row: object) -> None:
    """`hive VERB --help` begins with the line of the table and describes each option."""
    from hive.cli import Verb

    assert isinstance(row, Verb)
    shown = cli(row.name, "--help")
    assert shown.code == 0
    assert row.help in " ".join(shown.out.split())
    assert shown.out == cli("help", row.name).out


def test_a_misspelt_verb_is_answered_with_the_right_one(cli: Cli) -> None:
    """An unknown verb exits with 2 and names the verb that was meant."""
    answer = cli("statsu")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == ["error[H140]: there is no verb `statsu`", "fix: did you mean `status`?"]


def test_a_misspelt_option_is_answered_with_the_right_one(cli: Cli) -> None:
    """An unknown option exits with 2 and names the option that was meant, also behind a verb."""
    answer = cli("ls", "--limti", 3)
    assert answer.code == 2
    assert "there is no option `--limti`" in answer.err
    assert "did you mean `--limit`?" in answer.err
    assert "did you mean `--quiet`?" in cli("--quite", "ls").err


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--limit", "x"],
        ["ls", "--limit", "0"],
        ["show"],
        ["show", "1", "2"],
        ["prio", "9999", "1"],
        ["--color", "pink", "ls"],
    ],
)
def test_wrong_use_exits_with_2_in_our_form(cli: Cli, words: list[str]) -> None:
    """What click refuses is told like every other error: a code, lower case, no full stop, a fix."""
    answer = cli(*words)
    first = answer.err.splitlines()[0]
    assert answer.code == 2
    assert first.startswith("error[H140]: ")
    assert first.removeprefix("error[H140]: ")[0].islower() or first[14] in "-'`"
    assert not first.endswith(".")
    assert "fix: " in answer.err


def test_json_may_stand_before_or_behind_the_verb(cli: Cli, zoo: Zoo) -> None:
    """Global options work on either side of the verb."""
    before, behind = cli("--json", "status").data, cli("status", "--json").data
    assert before["states"] == behind["states"]
    assert cli("--db", zoo.seed.url, "status", directory=Path("/")).code == 0
    assert cli("status", "--db", zoo.seed.url, directory=Path("/")).code == 0


def test_directories_of_c_add_up(cli: Cli, zoo: Zoo, tmp_path: Path) -> None:
    """A -C behind the verb is relative to the one before it, as with git."""
    (tmp_path / "sub").mkdir()
    assert cli("status", "-C", "..", directory=tmp_path / "sub").code == 0


def test_a_bug_is_told_as_one_and_shown_with_v(capfd: pytest.CaptureFixture[str]) -> None:
    """An unexpected exception exits with 70 and H900; only -v shows the traceback."""
    broken: dict[str, str] = None  # type: ignore[assignment]
    assert run(["status"], broken) == 70
    quiet = capfd.readouterr().err
    assert quiet.startswith("error[H900]: a bug in Hive: ")
    assert "-v" in quiet
    assert "Traceback" not in quiet
    assert run(["-v", "status"], broken) == 70
    assert "Traceback" in capfd.readouterr().err


def test_v_shows_where_an_error_came_from(cli: Cli) -> None:
    """With -v an ordinary error has a traceback before its lines."""
    answer = cli("-v", "status")
    assert answer.code == 5
    assert answer.err.startswith("Traceback")
    assert "error[H230]" in answer.err


def test_ctrl_c_exits_with_130(zoo: Zoo, tmp_path: Path) -> None:
    """A follower that is interrupted ends with 130 and no traceback."""
    process = hive_process("events", "-f", "--jsonl", cwd=tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["seq"] == 1
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip() == ""


def test_a_reader_that_leaves_is_no_error(zoo: Zoo, tmp_path: Path) -> None:
    """`hive ... | head` ends without a word on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        process = hive_process("events", cwd=tmp_path, stdout=pipe)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, "")


def test_a_terminal_that_knows_only_ascii_gets_ascii(zoo: Zoo, tmp_path: Path) -> None:
    """A title outside of the terminal's encoding is escaped, never a traceback; JSON stays UTF-8."""
    environ = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    answer = hive("ls", cwd=tmp_path, environ=environ)
    assert answer.code == 0
    assert "\\U0001f600" in answer.out
    titles = [row["title"] for row in hive("ls", "--json", cwd=tmp_path, environ=environ).data["data"]]
    assert any("\U0001f600" in title for title in titles)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    """Whatever standard stream is closed, a verb does its work and ends as it should."""
    script = f'"$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "hive", "version"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0


def test_a_deleted_directory_is_said(tmp_path: Path) -> None:
    """In a directory that was deleted the error says so."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; "$@"', "sh", sys.executable, "-m", "hive", "status"],
        cwd=gone,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "error[H233]" in done.stderr) == (5, True), done.stderr
