from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

from tests.cli.conftest import CLEAN, Cli


def status(repo: Path) -> str:
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=repo, check=True, capture_output=True, text=True, env=CLEAN).stdout


def test_init_writes_settings_and_touches_nothing_tracked(cli: Cli, repo: Path) -> None:
    """hive.toml is new, the queue exists, and git sees nothing else."""
    (repo / "Cargo.toml").write_text("[package]\n")
    answer = cli("init")
    assert answer.code == 0
    assert "test: cargo test" in answer.lines
    assert "base: main" in answer.lines
    assert tomllib.loads((repo / "hive.toml").read_text())["test"] == ["cargo", "test"]
    assert (repo / ".hive" / "hive.db").is_file()
    assert status(repo) == "?? Cargo.toml\n?? hive.toml\n"
    assert cli("status").code == 0


def test_init_again_leaves_everything_as_it_is(cli: Cli, repo: Path) -> None:
    """A second init changes no byte of hive.toml and keeps the queue."""
    (repo / "hive.toml").write_text("agents = 3\n")
    first = cli("init", "--json").data
    assert (first["schema"], first["written"], first["created"], first["excluded"]) == (
        "hive.init/1",
        False,
        True,
        True,
    )
    second = cli("init", "--json").data
    assert (second["written"], second["created"], second["excluded"]) == (False, False, False)
    assert (repo / "hive.toml").read_text() == "agents = 3\n"


def test_init_needs_a_repository(cli: Cli, tmp_path: Path) -> None:
    """Outside of a repository, and in one without a commit, init exits with 5 and makes nothing."""
    answer = cli("init")
    assert (answer.code, "error[H210]" in answer.err) == (5, True)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True, env=CLEAN)
    assert "error[H211]" in cli("init").err
    assert not (tmp_path / ".hive").exists()
