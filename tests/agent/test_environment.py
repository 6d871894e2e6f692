from __future__ import annotations

from hive.agent.environment import child_env, secrets_of


def test_only_named_variables_pass() -> None:
    """Secrets and everything else not named stay with Hive."""
    base = {"PATH": "/bin", "HOME": "/h", "API_KEY": "secret", "HIVE_DB": "x", "TERM": "xterm", "HTTP_PROXY": "p"}
    env = child_env(base, mark="s.1", shard="h.0", pass_env=["HTTP_PROXY", "ABSENT"], extra={"CI": "1"})
    assert env == {
        "PATH": "/bin",
        "HOME": "/h",
        "TERM": "dumb",
        "HTTP_PROXY": "p",
        "CI": "1",
        "HIVE_RUN_ID": "s.1",
        "HIVE_SHARD": "h.0",
    }


def test_mark_and_shard_cannot_be_changed() -> None:
    """What a task adds does not hide its processes, and an outer Hive's names do not leak in."""
    env = child_env({"HIVE_SHARD": "outer"}, mark="s.1", extra={"HIVE_RUN_ID": "other", "HIVE_SHARD": "other"})
    assert env == {"TERM": "dumb", "HIVE_RUN_ID": "s.1"}


def test_library_path_is_as_before_the_single_binary() -> None:
    """The boot loader's directory never reaches a child, not even by name; a person's own path does."""
    assert child_env({"LD_LIBRARY_PATH": "/mine"}, mark="m")["LD_LIBRARY_PATH"] == "/mine"
    frozen = {"_PYI_ARCHIVE_FILE": "hive", "LD_LIBRARY_PATH": "/tmp/_MEI1:/mine", "LD_LIBRARY_PATH_ORIG": "/mine"}
    env = child_env(frozen, mark="m", pass_env=["LD_LIBRARY_PATH", "_PYI_ARCHIVE_FILE"])
    assert env == {"TERM": "dumb", "LD_LIBRARY_PATH": "/mine", "HIVE_RUN_ID": "m"}
    del frozen["LD_LIBRARY_PATH_ORIG"]
    assert "LD_LIBRARY_PATH" not in child_env(frozen, mark="m", pass_env=["LD_LIBRARY_PATH"])


def test_secrets_are_the_values_of_what_is_passed() -> None:
    """Absent and empty variables have none."""
    assert secrets_of({"A": "one", "B": "", "C": "three"}, ["A", "B", "D"]) == ("one",)
