from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hive.api import open_sync
from hive.model import NewTask, Phase, Task, WorkspaceKind
from tests.cli.conftest import CLEAN, Cli, Seed, hive

FILE = """batch: pathlib
defaults: {test: "true"}
tasks:
  - {key: a, prompt: Do a, agent: scripted, script: "say hi"}
  - {key: b, prompt: Do b, after: [a], agent: scripted, script: "say hi"}
"""


@pytest.fixture
def claude(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has a claude."""
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 2.1.330\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{program.parent}:{CLEAN['PATH']}"}


def stored(directory: Path) -> list[Task]:
    with open_sync(f"sqlite:///{directory}/.hive/hive.db") as queue:
        return queue.tasks()


def test_a_prompt_is_a_task_and_git_ignores_the_queue(cli: Cli, repo: Path, claude: dict[str, str]) -> None:
    """The queue is made beside the repository's files without showing up in git, and the next command is said."""
    answer = cli("add", "Add type hints\nto api/", environ=claude)
    assert (answer.code, answer.out) == (0, "added 1 task (1)\n")
    assert answer.err.splitlines()[-1] == "next: hive run"
    (task,) = stored(repo)
    assert (task.spec.title, task.spec.prompt, task.spec.key) == ("Add type hints", "Add type hints\nto api/", None)
    assert (task.spec.batch, task.spec.phases) == ("default", (Phase.APPLY,))
    assert "/.hive/" in (repo / ".git" / "info" / "exclude").read_text()


def test_the_same_prompt_twice_is_two_tasks_and_with_a_key_one(cli: Cli, repo: Path, claude: dict[str, str]) -> None:
    """Only a key makes adding idempotent."""
    cli("add", "again", environ=claude)
    cli("add", "again", environ=claude)
    assert cli("add", "again", "--key", "k", "--print-ids", environ=claude).out == "3\n"
    answer = cli("add", "again", "--key", "k", "--json", environ=claude).data
    assert answer["schema"] == "hive.added/1"
    assert [(row["id"], row["created"], row["key"]) for row in answer["data"]] == [(3, False, "k")]
    assert len(stored(repo)) == 3


def test_options_reach_the_task(cli: Cli, repo: Path, claude: dict[str, str]) -> None:
    """Every option sets its field, parsed as in a task file."""
    words = ["--batch", "b", "--key", "k", "--tag", "x", "--tag", "y", "--role", "backend", "--priority", "7"]
    words += ["--base", "main", "--model", "opus", "--test", "make check", "--task-budget", "2.5", "--hold"]
    assert cli("add", "first", "--batch", "b", "--key", "need", environ=claude).code == 0
    assert cli("add", "do it", *words, "--after", "need", environ=claude).code == 0
    spec = stored(repo)[1].spec
    assert (spec.batch, spec.key, spec.tags, spec.role, spec.priority) == ("b", "k", ("x", "y"), "backend", 7)
    assert (spec.base, spec.model, spec.test, spec.budget_usd) == ("main", "opus", ("make", "check"), 2.5)
    assert (spec.hold, spec.after, spec.phases) == (True, ("need",), (Phase.APPLY, Phase.TEST))
    assert cli("add", "third", "--batch", "b", "--after", "2", environ=claude).code == 0
    assert stored(repo)[2].spec.after == ("k",)


def test_a_prompt_may_be_a_command_or_a_script(cli: Cli, repo: Path) -> None:
    """--agent says how the prompt is read; a workspace that is no repository has no use for its test command."""
    (repo / "hive.toml").write_text('test = "pytest -q"\n')
    assert cli("add", "make -k all", "--agent", "command", "--workspace", "fresh").code == 0
    assert cli("add", "say hello", "--agent", "scripted").code == 0
    command, script = (task.spec for task in stored(repo))
    assert (command.command, command.workspace, command.phases) == (
        ("make", "-k", "all"),
        WorkspaceKind.FRESH,
        (Phase.APPLY,),
    )
    assert (script.script, script.prompt, script.phases) == ("say hello", "", (Phase.APPLY, Phase.TEST))
    assert "without a shell" in cli("add", "a && b", "--agent", "command").err


def test_a_file_is_added_once(cli: Cli, repo: Path) -> None:
    """Its tasks keep keys, needs and batch; adding it again adds nothing; options are stronger than the file."""
    (repo / "tasks.yaml").write_text(FILE)
    assert cli("add", "tasks.yaml").out == "added 2 tasks (1, 2)\n"
    again = cli("add", "tasks.yaml")
    assert again.out == "2 tasks were there already (1, 2)\n"
    assert cli("add", "tasks.yaml", "--batch", "other", "--tag", "t", "--test", "false").code == 0
    first, second, third, _ = (task.spec for task in stored(repo))
    assert (first.batch, second.after, first.test) == ("pathlib", ("a",), ("true",))
    assert (third.batch, third.tags, third.test) == ("other", ("t",), ("false",))


def test_a_file_may_need_tasks_of_the_queue_and_of_the_file_before(cli: Cli, repo: Path) -> None:
    """`after` names keys that are queued already or come earlier on the same command line."""
    (repo / "one.yaml").write_text(FILE)
    line = "- {key: %s, after: [%s], agent: scripted, script: say hi}\n"
    (repo / "two.yaml").write_text("batch: pathlib\ntasks:\n" + line % ("c", "b"))
    (repo / "three.yaml").write_text("batch: pathlib\ntasks:\n" + line % ("d", "c"))
    assert cli("add", "two.yaml").code == 2
    assert cli("add", "one.yaml", "two.yaml").code == 0
    assert cli("add", "three.yaml").code == 0
    assert len(stored(repo)) == 4


def test_lines_and_standard_input(repo: Path, claude: dict[str, str]) -> None:
    """--each makes a task of every line; `-` reads standard input, which is one prompt without --each."""
    answer = hive("add", "--each", "--print-ids", "-", cwd=repo, stdin="one\n\ntwo\n", environ=claude)
    assert (answer.code, answer.out.split()) == (0, ["1", "2"])
    assert hive("add", "-", cwd=repo, stdin="a longer\nprompt\n", environ=claude).code == 0
    assert [task.spec.title for task in stored(repo)] == ["one", "two", "a longer"]


def test_nothing_is_queued_when_anything_is_wrong(cli: Cli, repo: Path) -> None:
    """A wrong file beside a right one leaves no queue behind, and its errors have places."""
    (repo / "right.yaml").write_text(FILE)
    (repo / "wrong.yaml").write_text("tasks:\n  - {key: a, promt: x}\n")
    answer = cli("add", "right.yaml", "wrong.yaml")
    assert answer.code == 2
    assert "wrong.yaml:2:" in answer.err
    assert "did you mean `prompt`?" in answer.err
    assert not (repo / ".hive").exists()


def test_what_must_be_there_is_looked_for_first(cli: Cli, repo: Path, tmp_path: Path) -> None:
    """No claude, no such base, no repository: exit 5 or 2 with a fix, and nothing is queued."""
    empty = {"PATH": str(Path("/usr/bin"))}
    answer = cli("add", "x", environ=empty)
    assert (answer.code, "error[H201]: `claude` is not installed" in answer.err) == (5, True)
    answer = cli("add", "say x", "--agent", "scripted", "--base", "nowhere")
    assert (answer.code, "error[H212]" in answer.err) == (2, True)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    answer = cli("add", "say x", "--agent", "scripted", directory=outside)
    assert (answer.code, "error[H210]" in answer.err) == (5, True)
    assert not (repo / ".hive").exists()
    assert not (outside / ".hive").exists()


def test_a_dry_run_queues_nothing(cli: Cli, repo: Path) -> None:
    """--dry-run judges everything and shows what would be added."""
    (repo / "tasks.yaml").write_text(FILE)
    answer = cli("add", "tasks.yaml", "--dry-run")
    assert answer.lines[0] == "would add 2 tasks"
    assert not (repo / ".hive").exists()
    assert cli("add", "tasks.yaml", "--dry-run", "--json").data["dry_run"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--priority", "high"], "--priority must be a whole number"),
        (["--task-budget", "0"], "--task-budget must be a number above 0"),
        (["--phases", "apply,tset"], "--phases names no phase"),
        (["--tag", "a b"], "--tag must be a tag without blanks"),
        (["--model", "-x"], "--model must not begin with a dash"),
        (["--after", "nothing"], "`nothing`"),
        (["--after", "77"], "cannot wait for task 77"),
        (["--key", ""], "--key must be a key"),
    ],
)
def test_wrong_options_are_refused(cli: Cli, repo: Path, seed: Seed, words: list[str], said: str) -> None:
    """An option is judged as the key of a task file is, and named as it was typed."""
    with open_sync(seed.url):
        pass
    answer = cli("add", "say x", "--agent", "scripted", *words)
    assert answer.code == 2
    assert said in answer.err
    assert stored(repo) == []


def test_a_key_is_for_one_task(cli: Cli, repo: Path) -> None:
    """--key with several tasks is refused."""
    answer = cli("add", "say a", "say b", "--agent", "scripted", "--key", "k")
    assert (answer.code, "--key names one task, not 2" in answer.err) == (2, True)


def test_a_need_must_have_a_key_in_the_same_batch(cli: Cli, repo: Path, seed: Seed) -> None:
    """--after ID works only where the need can be named."""
    seed.add(NewTask("no key"), NewTask("elsewhere", key="k", batch="other"))
    for name in ("1", "2"):
        assert "cannot wait for task" in cli("add", "say x", "--agent", "scripted", "--after", name).err


def test_words_that_end_like_a_file_are_files(cli: Cli, repo: Path) -> None:
    """A misspelt file name is not queued as a prompt."""
    answer = cli("add", "taks.yaml")
    assert (answer.code, "error[H110]" in answer.err) == (2, True)
    assert not (repo / ".hive").exists()


def test_people_are_told_what_agents_will_not_see(cli: Cli, repo: Path) -> None:
    """Changes that are not committed are pointed out."""
    import subprocess

    (repo / "f").write_text("1")
    subprocess.run(["git", "add", "f"], cwd=repo, check=True, env=CLEAN)
    assert "not committed" in cli("add", "say x", "--agent", "scripted").err
