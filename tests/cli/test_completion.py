from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Zoo, hive


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(cli: Cli, shell: str) -> None:
    """The script defines a completion for `hive`."""
    answer = cli("completion", shell)
    assert answer.code == 0
    assert "_HIVE_COMPLETE" in answer.out
    assert "hive" in answer.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=answer.out, text=True, check=True)


def complete(directory: Path, line: str) -> list[str]:
    """Return what bash would offer for the last word of a line, in the form fish gets it: with descriptions."""
    words = line.split(" ")
    environ = {"_HIVE_COMPLETE": "fish_complete", "COMP_WORDS": line, "COMP_CWORD": words[-1]}
    return hive(cwd=directory, environ=environ).out.split("\n")


def test_ids_are_completed_with_titles(zoo: Zoo, tmp_path: Path) -> None:
    """A task is offered by its id, with its title and state, harmless."""
    offered = "\n".join(complete(tmp_path, "hive show "))
    assert "plain\n2\nconvert ftp (failed)" in offered.replace(",", "\n").replace("\t", "\n")
    assert "\x1b" not in offered


def test_states_and_verbs_are_completed(zoo: Zoo, tmp_path: Path) -> None:
    """After @ come states; the first word is a verb."""
    assert "@failed" in "\n".join(complete(tmp_path, "hive retry @fa"))
    assert "status" in "\n".join(complete(tmp_path, "hive stat"))
    assert "--limit" in "\n".join(complete(tmp_path, "hive ls --li"))


def test_completing_without_a_queue_is_silent(tmp_path: Path) -> None:
    """Where there is no queue, or settings are wrong, nothing is offered and nothing is said."""
    environ = {"_HIVE_COMPLETE": "fish_complete", "COMP_WORDS": "hive show ", "COMP_CWORD": ""}
    (tmp_path / "hive.toml").write_text("agents = nonsense")
    answer = hive(cwd=tmp_path, environ=environ)
    assert (answer.out.strip(), answer.err) == ("", "")


def test_a_script_has_no_json(cli: Cli) -> None:
    """--json is refused rather than ignored."""
    assert cli("completion", "bash", "--json").code == 2
