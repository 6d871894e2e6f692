from __future__ import annotations

from pathlib import Path

from hive.config_schema import SETTINGS
from tests.cli.conftest import Cli


def test_every_setting_is_shown_with_its_origin(cli: Cli, repo: Path) -> None:
    """`config show --origin` names for each setting its value and the line it came from."""
    (repo / "hive.toml").write_text("agents = 3\nlimits.role = {backend = 2}\n")
    lines = cli("config", "show", "--origin").lines
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert set(rows) == {one.key for one in SETTINGS}
    assert rows["agents"] == ["agents", "3", "hive.toml:1"]
    assert rows["limits.role"][1] == "backend=2"
    assert rows["retries"] == ["retries", "2", "default"]
    assert "ORIGIN" not in cli("config").lines[0]


def test_settings_as_json(cli: Cli, repo: Path) -> None:
    """Values keep their types."""
    data = cli("config", "show", "--json", environ={"HIVE_TEST": "make check"}).data["data"]
    assert data["test"] == {"value": ["make", "check"], "origin": "HIVE_TEST"}
    assert data["phases"]["value"] == ["apply", "test"]
    assert data["sync"]["value"] is False
    assert data["model"]["value"] is None


def test_no_secret_of_the_environment_is_shown(cli: Cli, repo: Path) -> None:
    """The environment is not a setting."""
    answer = cli("config", "show", "--json", environ={"ANTHROPIC_API_KEY": "sk-secret"})
    assert "sk-secret" not in answer.out


def test_the_schema_of_task_files_is_printed(cli: Cli, tmp_path: Path) -> None:
    """`config schema` is the JSON Schema that editors take."""
    schema = cli("config", "schema").data
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "prompt" in schema["$defs"]["task"]["properties"]


def test_paths_say_which_files_are_there(cli: Cli, repo: Path) -> None:
    """`config path` lists the files in the order of their strength."""
    (repo / "hive.toml").write_text("")
    (repo / "sub").mkdir()
    lines = cli("config", "path", environ={"HOME": "/nonexistent"}, directory=repo / "sub").lines
    assert lines == [
        "/nonexistent/.config/hive/config.toml  (not there)",
        f"{repo}/pyproject.toml  (not there)",
        f"{repo}/hive.toml",
    ]
    assert cli("config", "path", "--json").data["data"][-1]["exists"] is True
