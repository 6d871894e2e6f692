from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.config import DEFAULT, Settings, environment, find_repo, load
from hive.config_schema import SETTINGS
from hive.config_template import detect_test, render_template
from hive.errors import ConfigError
from hive.model import Phase


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / ".git").mkdir(parents=True)
    return root


def refused(
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    profile: str | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(cwd, environ or {}, flags or {}, profile)
    return caught.value


def test_without_anything_set_the_defaults_hold(repo: Path) -> None:
    """A repository without any settings gets the defaults, its state in .hive, and says so."""
    found = load(repo, {}, {})
    assert found == Settings(repo=repo, directory=repo, db=f"sqlite:///{repo}/.hive/hive.db")
    assert (found.root, found.state_dir) == (repo, repo / ".hive")
    assert {found.origin(one.key) for one in SETTINGS} == {DEFAULT}


def test_every_setting_has_a_row_and_every_row_a_field() -> None:
    """The table and the dataclass name the same settings."""
    fields = set(Settings.__dataclass_fields__) - {"directory", "environ", "origins"}
    assert {one.field for one in SETTINGS} == fields
    assert len({one.key for one in SETTINGS}) == len(SETTINGS)


def test_outside_of_a_repository_state_is_kept_where_one_stands(tmp_path: Path) -> None:
    """Without a repository the state directory is in the current directory, whose hive.toml is read."""
    (tmp_path / "hive.toml").write_text("agents = 3\n")
    found = load(tmp_path, {}, {})
    assert (found.repo, found.state_dir, found.agents) == (None, tmp_path / ".hive", 3)
    assert found.root == tmp_path


def test_layers_in_order_of_strength(repo: Path, tmp_path: Path) -> None:
    """User file, pyproject, hive.toml, profile, environment, flags: each beats those before it, and is named."""
    user = tmp_path / "xdg" / "hive" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("agents = 11\nretries = 11\nrounds = 11\ndrain = 11\nmax_turns = 11\nlimit_wait = 11\n")
    (repo / "pyproject.toml").write_text(
        "[tool.hive]\nretries = 12\nrounds = 12\ndrain = 12\nmax_turns = 12\nlimit_wait = 12\n"
    )
    (repo / "hive.toml").write_text(
        "rounds = 13\ndrain = 13\nmax_turns = 13\nlimit_wait = 13\n"
        "[profile.p]\ndrain = 14\nmax_turns = 14\nlimit_wait = 14"
    )
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HIVE_MAX_TURNS": "15", "HIVE_LIMIT_WAIT": "15s"}
    found = load(repo, environ, {"limit_wait": 16.0}, "p")
    assert (found.agents, found.retries, found.rounds) == (11, 12, 13)
    assert (found.drain_s, found.max_turns, found.limit_wait_s) == (14, 15, 16)
    origins = [
        found.origin(one) for one in ("agents", "retries", "rounds", "drain", "max_turns", "limit_wait_s", "beat")
    ]
    assert origins == [
        f"{user}:1",
        "pyproject.toml:2",
        "hive.toml:1",
        "hive.toml:6",
        "HIVE_MAX_TURNS",
        "--limit-wait",
        DEFAULT,
    ]


def test_a_layer_holds_only_what_was_set(repo: Path) -> None:
    """An environment that sets one value does not bring its defaults over the file's values."""
    (repo / "hive.toml").write_text('agents = 3\ntest = "pytest -q"\n')
    found = load(repo, {"HIVE_RETRIES": "7", "HIVE_MODEL": ""}, {"cores": None, "pass_env": ()})
    assert (found.agents, found.retries, found.test, found.model) == (3, 7, ("pytest", "-q"), None)


def test_hive_toml_is_searched_upward_to_the_repository_and_no_further(repo: Path) -> None:
    """A file in a parent directory counts inside the repository, one above the repository does not."""
    deep = repo / "src" / "core"
    deep.mkdir(parents=True)
    (repo.parent / "hive.toml").write_text("agents = 99\n")
    assert load(deep, {}, {}).agents == 8
    (repo / "hive.toml").write_text("agents = 5\n")
    found = load(deep, {}, {})
    assert (found.agents, found.origin("agents"), found.repo) == (5, f"{repo}/hive.toml:1", repo)
    (repo / "src" / "hive.toml").write_text("retries = 1\n")
    assert load(deep, {}, {}).agents == 8


def test_a_worktree_is_a_repository(tmp_path: Path) -> None:
    """A `.git` that is a file, as in git's own worktrees, marks the root too."""
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert find_repo(tmp_path / "a" / "b") == tmp_path


def test_the_user_file_is_found_through_home(tmp_path: Path) -> None:
    """Without XDG_CONFIG_HOME, or with a relative one, the user file is in ~/.config."""
    user = tmp_path / "home" / ".config" / "hive" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("agents = 2\n")
    home = {"HOME": str(tmp_path / "home")}
    assert load(tmp_path, home, {}).agents == 2
    assert load(tmp_path, {**home, "XDG_CONFIG_HOME": "relative"}, {}).agents == 2


@pytest.mark.parametrize(
    ("written", "line", "excerpt"),
    [
        (
            "agents = 4\nagnets = 5\n",
            "error[H101]: there is no setting `agnets`\n  --> hive.toml:2:1",
            "2 | agnets = 5\n  | ^^^^^^ did you mean `agents`?",
        ),
        (
            'agents = "many"\n',
            "error[H102]: `agents` must be a whole number from 1 to 10000, not `many`\n  --> hive.toml:1:10",
            '1 | agents = "many"\n  |          ^^^^^^',
        ),
        (
            'phases = ["apply", "review"]\n',
            (
                "error[H120]: `phases` names `review`, which is not in this version; it has apply and test"
                "\n  --> hive.toml:1:20"
            ),
            '1 | phases = ["apply", "review"]\n  |                    ^^^^^^^^',
        ),
        (
            "[limits.role]\nbackend = 0\n",
            (
                "error[H102]: `limits.role` `backend` must be a whole number from 1 to 10000, not `0`"
                "\n  --> hive.toml:2:11"
            ),
            "2 | backend = 0\n  |           ^",
        ),
        (
            "[limits]\nroles = 1\n",
            "error[H101]: there is no setting `limits.roles`\n  --> hive.toml:2:1",
            "2 | roles = 1\n  | ^^^^^ did you mean `role`?",
        ),
        (
            '[profile.ci]\ntimeout = "1 week"\n',
            (
                "error[H102]: `timeout` must be a duration from 0.001s to 30d such as 90s, 10m or 2h, not `1 week`"
                "\n  --> hive.toml:2:11"
            ),
            '2 | timeout = "1 week"\n  |           ^^^^^^^^',
        ),
        (
            "agents = \n",
            "error[H103]: is no valid TOML: invalid value\n  --> hive.toml:1:10",
            "1 | agents = \n  |          ^",
        ),
        (
            'permission_mode = "bypassPermissions"\n',
            (
                "error[H102]: `permission_mode` cannot be bypassPermissions in a file: give the flag --permission-mode "
                "bypassPermissions\n  --> hive.toml:1:19"
            ),
            '1 | permission_mode = "bypassPermissions"\n  |                   ^^^^^^^^^^^^^^^^^^^',
        ),
        (
            'test = "cd x && pytest"\n',
            "error[H102]: `test` is run without a shell, so `&&` would be a plain argument\n  --> hive.toml:1:8",
            '1 | test = "cd x && pytest"\n  |        ^^^^^^^^^^^^^^^^ write ["sh", "-c", "cd x && pytest"]',
        ),
        (
            'lease = "30s"\n',
            "error[H102]: `renew` (15s) must be less than half of `lease` (30s)\n  --> hive.toml:1:9",
            '1 | lease = "30s"\n  |         ^^^^^',
        ),
    ],
)
def test_errors_point_into_the_file(repo: Path, written: str, line: str, excerpt: str) -> None:
    """A wrong name or value is refused with its line and column, a caret and what was probably meant."""
    (repo / "hive.toml").write_text(written)
    error = refused(repo)
    assert "\n".join(error.lines()[:2]) == line
    assert error.excerpt == excerpt
    assert error.exit_code == 2


def test_errors_in_pyproject_point_into_it(repo: Path) -> None:
    """Settings under [tool.hive] are checked like those of hive.toml; other tools' tables are not ours."""
    (repo / "pyproject.toml").write_text(
        '[project]\nname = "hive"\n[tool.other]\nagnets = 1\n[tool.hive]\nagnets = 1\n'
    )
    assert refused(repo).where == "pyproject.toml:6:1"
    (repo / "pyproject.toml").write_text("this is no toml but does not name us\n")
    assert load(repo, {}, {}).agents == 8


@pytest.mark.parametrize(
    ("environ", "where", "message"),
    [
        ({"HIVE_AGENTS": "x"}, "HIVE_AGENTS", "`agents` must be a whole number from 1 to 10000, not `x`"),
        ({"HIVE_AGENST": "4"}, "HIVE_AGENST", "there is no setting `HIVE_AGENST`"),
        ({"HIVE_SYNC": "maybe"}, "HIVE_SYNC", "`sync` must be true or false, not `maybe`"),
        ({"HIVE_RENEW": "40s"}, "HIVE_RENEW", "`renew` (40s) must be less than half of `lease` (60s)"),
        (
            {"HIVE_PASS_ENV": "HIVE_RUN_ID"},
            "HIVE_PASS_ENV",
            "`pass_env` must not set `HIVE_RUN_ID`: names beginning with HIVE_ are Hive's own",
        ),
    ],
)
def test_errors_name_the_variable(repo: Path, environ: dict[str, str], where: str, message: str) -> None:
    """A wrong variable is refused by name."""
    error = refused(repo, environ)
    assert (error.where, error.message) == (where, message)


def test_variables_of_others_are_left_alone(repo: Path) -> None:
    """Hive's own markers and other programs that use the prefix do not stop it."""
    environ = {
        "HIVE_RUN_ID": "x.1",
        "HIVE_SHARD": "s",
        "HIVE_CRASH_AT": "a:1",
        "HIVE_HOME": "/opt",
        "HIVE_CONF_DIR": "/etc",
    }
    assert load(repo, environ, {}).environ == environ


def test_flags_may_be_typed_or_text(repo: Path) -> None:
    """A flag's value is taken as it is, or parsed like a variable when it is text."""
    found = load(repo, {}, {"agents": 3, "timeout": "2h", "phases": "apply,test", "max-turns": None, "sync": True})
    assert (found.agents, found.timeout_s, found.sync) == (3, 7200, True)
    assert found.phases == (Phase.APPLY, Phase.TEST)
    assert refused(repo, {}, {"agents": 0}).where == "--agents"
    assert refused(repo, {}, {"agnets": 1}).fix == "did you mean `agents`?"
    assert load(repo, {}, {"permission_mode": "bypassPermissions"}).permission_mode == "bypassPermissions"


def test_text_is_split_for_lists_and_tables(repo: Path) -> None:
    """Lists split at commas outside of parentheses, tables at commas and equals signs."""
    environ = {"HIVE_ALLOWED_TOOLS": "Read, Bash(a, b),Edit", "HIVE_LIMITS_ROLE": "backend=2, frontend=1"}
    found = load(repo, environ, {})
    assert found.allowed_tools == ("Read", "Bash(a, b)", "Edit")
    assert found.role_limits == {"backend": 2, "frontend": 1}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90.0), ('"90s"', 90.0), ('"10m"', 600.0), ('"2h"', 7200.0), ("0.5", 0.5), ('"none"', None)],
)
def test_durations(repo: Path, written: str, seconds: float | None) -> None:
    """A duration is a number of seconds or text with a unit; `none` means no limit."""
    (repo / "hive.toml").write_text(f"timeout = {written}\n")
    assert load(repo, {}, {}).timeout_s == seconds


def test_a_test_command_brings_the_test_phase(repo: Path) -> None:
    """With a test command tasks go through test, unless phases were set."""
    assert load(repo, {"HIVE_TEST": "make test"}, {}).phases == (Phase.APPLY, Phase.TEST)
    assert load(repo, {"HIVE_TEST": "make test", "HIVE_PHASES": "apply"}, {}).phases == (Phase.APPLY,)


def test_profiles_inherit(repo: Path, tmp_path: Path) -> None:
    """A profile's own values beat inherited ones, and both beat plain ones of any file."""
    (repo / "hive.toml").write_text(
        "agents = 1\nretries = 1\nrounds = 1\n"
        '[profile.base]\nagents = 2\nretries = 2\n[profile.ci]\ninherits = "base"\nagents = 3\n'
        "[profile.ci.limits.role]\nx = 1\n"
    )
    found = load(repo, {}, {}, "ci")
    assert (found.agents, found.retries, found.rounds, found.role_limits) == (3, 2, 1, {"x": 1})
    assert load(repo, {"HIVE_PROFILE": "base"}, {}).agents == 2
    assert load(repo, {}, {}).agents == 1


def test_a_profile_that_does_not_exist_is_refused(repo: Path) -> None:
    """An unknown profile is refused with what was meant, also when it is inherited, and so is a circle."""
    (repo / "hive.toml").write_text(
        '[profile.ci]\ninherits = "bas"\n[profile.a]\ninherits = "b"\n[profile.b]\ninherits = "a"\n'
    )
    error = refused(repo, profile="cii")
    assert (error.code, error.where, error.fix) == ("H104", "--profile", "did you mean `ci`?")
    assert refused(repo, profile="ci").where == "hive.toml:2:12"
    circle = refused(repo, profile="a")
    assert (circle.message, circle.where) == ("profiles inherit each other: a -> b -> a", "hive.toml:6:12")


def test_relative_paths_mean_the_place_they_were_written_in(repo: Path, tmp_path: Path) -> None:
    """A path in a file is relative to that file, in a flag to the current directory; ~ is home."""
    deep = repo / "deep"
    deep.mkdir()
    environ = {"HOME": "/home/me", "XDG_CONFIG_HOME": str(tmp_path)}
    user_file(tmp_path, 'claude = "./bin/claude"\n')
    (repo / "hive.toml").write_text('db = "state/q.db"\n')
    found = load(deep, environ, {})
    assert (found.claude, found.db) == (f"{tmp_path}/hive/bin/claude", f"sqlite:///{repo}/state/q.db")
    assert load(deep, environ, {"db": "q.db"}).db == f"sqlite:///{deep}/q.db"
    assert load(deep, environ, {"db": "~/q.db"}).db == "sqlite:////home/me/q.db"
    assert load(deep, environ | {"HIVE_CLAUDE": "cl"}, {}).claude == "cl"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("hive.toml", "claude = {}\n", 1),
        ("hive.toml", "[profile.p]\nclaude = {}\n", 2),
        ("pyproject.toml", "[tool.hive]\nclaude = {}\n", 2),
    ],
)
def test_a_repository_cannot_choose_the_program_that_gets_the_key(repo: Path, name: str, text: str, line: int) -> None:
    """A path for claude is refused in files that come with a repository, and works where only the user writes."""
    for path in ("./evil.sh", "bin/claude", "/tmp/evil", "~/evil"):
        (repo / name).write_text(text.format(f'"{path}"'))
        error = refused(repo)
        assert (error.code, error.where.split(":")[:2]) == ("H102", [name, str(line)])
        assert error.message.startswith("`claude` cannot be a path in a file of the repository")
        assert error.fix == "set HIVE_CLAUDE=PATH, or `claude` in ~/.config/hive/config.toml"
    (repo / name).write_text(text.format('"claude-2"'))
    assert load(repo, {"HOME": "/home/me"}, {}, "p" if "profile" in text else None).claude == "claude-2"
    assert load(repo, {"HOME": "/home/me", "HIVE_CLAUDE": "/opt/claude"}, {}).claude == "/opt/claude"


def test_outside_of_a_repository_hive_toml_cannot_choose_the_program_either(tmp_path: Path) -> None:
    """A directory unpacked from an archive is no more to be trusted than a clone."""
    (tmp_path / "hive.toml").write_text('claude = "./evil.sh"\n')
    assert refused(tmp_path).where == "hive.toml:1:10"


def user_file(directory: Path, text: str) -> None:
    path = directory / "hive" / "config.toml"
    path.parent.mkdir()
    path.write_text(text)


def test_every_queue_has_a_state_directory_of_its_own(repo: Path, tmp_path: Path) -> None:
    """It follows from the queue's path alone: the same from everywhere, and never that of another queue."""
    queues = [".hive/hive.db", "hive.db", "q.db", ".hive/q.db", "q/hive.db", ".hive/hive.db.d/hive.db", "q.db.d"]
    found = [load(repo, {}, {"db": one}) for one in queues]
    assert [str(one.state_dir.relative_to(repo)) for one in found] == [
        ".hive",
        "hive.db.d",
        "q.db.d",
        ".hive/q.db.d",
        "q/hive.db.d",
        ".hive/hive.db.d/hive.db.d",
        "q.db.d.d",
    ]
    away = [load(tmp_path, {}, {"db": one.db}) for one in found]
    assert [one.state_dir for one in away] == [one.state_dir for one in found]
    assert {one.root for one in away} == {tmp_path}
    assert load(repo, {}, {}).state_dir == found[0].state_dir


def test_a_queue_behind_a_link_is_the_same_queue(repo: Path, tmp_path: Path) -> None:
    """Whether one comes through a linked directory or file, there is one database name and one state directory."""
    (tmp_path / "real").mkdir()
    (repo / ".hive").symlink_to(tmp_path / "real")
    (tmp_path / "q.db").symlink_to(tmp_path / "real" / "hive.db")
    found = [load(repo, {}, {}), load(tmp_path, {}, {"db": "q.db"}), load(tmp_path, {}, {"db": "real/hive.db"})]
    assert {(one.db, one.state_dir) for one in found} == {
        (f"sqlite:///{tmp_path}/real/hive.db", tmp_path / "real" / "hive.db.d")
    }


def test_database_urls(repo: Path) -> None:
    """SQLite by URL or path, absolute with four slashes; nothing else in this version."""
    assert load(repo, {}, {"db": "sqlite:////var/x.db"}).db == "sqlite:////var/x.db"
    assert load(repo, {}, {"db": "sqlite:///x.db"}).db == f"sqlite:///{repo}/x.db"
    error = refused(repo, {}, {"db": "postgresql://host/db"})
    assert (error.code, error.where) == ("H303", "--db")
    assert refused(repo, {}, {"db": "mysql://host/db"}).code == "H102"
    assert refused(repo, {}, {"db": "sqlite:///:memory:"}).code == "H102"
    assert "four slashes" in refused(repo, {}, {"db": f"sqlite://{repo.parent}/x.db"}).message


def test_a_repository_can_be_named(repo: Path, tmp_path: Path) -> None:
    """`repo` chooses another repository and brings its state directory; anything else is refused."""
    found = load(tmp_path, {}, {"repo": "repo"})
    assert (found.repo, found.state_dir) == (repo, repo / ".hive")
    assert refused(tmp_path, {}, {"repo": "nowhere"}).where == "--repo"


def test_a_file_that_is_no_text_is_refused(repo: Path) -> None:
    """A hive.toml in another encoding, far too large or nested without end is an error, not a traceback."""
    (repo / "hive.toml").write_bytes(b"agents = 1\nmodel = '\xff'\n")
    assert refused(repo).where == "hive.toml:2"
    (repo / "hive.toml").write_bytes(b"#" * (2 << 20))
    assert refused(repo).message == "is larger than 1 MiB"
    (repo / "hive.toml").write_text("a = " + "[" * 100_000)
    assert refused(repo).code == "H103"


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_file_gives_settings_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever stands in hive.toml, the answer is settings or a ConfigError."""
    directory = tmp_path_factory.mktemp("any")
    (directory / "hive.toml").write_bytes(content)
    found: Settings | ConfigError
    try:
        found = load(directory, {}, {})
    except ConfigError as error:
        found = error
    assert isinstance(found, Settings) or found.where.startswith("hive.toml")


def test_rules_carry_the_settings(repo: Path) -> None:
    """What the life cycle is told comes from the settings."""
    rules = load(repo, {"HIVE_RETRIES": "9", "HIVE_BACKOFF_CAP": "7"}, {}).rules(123, 0.25)
    assert (rules.now_ms, rules.jitter, rules.retries, rules.backoff_cap_s) == (123, 0.25, 9, 7)


def test_unknown_origin_is_refused(repo: Path) -> None:
    """Asking where an unknown setting came from names the one that was meant."""
    with pytest.raises(ConfigError) as caught:
        load(repo, {}, {}).origin("agnets")
    assert caught.value.fix == "did you mean `agents`?"


def test_environment_is_a_copy() -> None:
    """Changing what `environment` gave changes nothing outside."""
    copy = environment()
    assert dict(copy) == dict(os.environ)
    assert copy is not os.environ


def test_settings_do_not_show_the_environment(repo: Path) -> None:
    """Secrets of the environment never reach a log through repr."""
    assert "s3cret" not in repr(load(repo, {"TOKEN": "s3cret"}, {}))


def test_the_template_sets_only_what_was_found(repo: Path) -> None:
    """The written hive.toml is valid and changes nothing but test and base."""
    (repo / "hive.toml").write_text(render_template(("pytest", "-q"), "main"))
    found = load(repo, {}, {})
    assert (found.test, found.base) == (("pytest", "-q"), "main")
    assert set(found.origins) == {"test", "base"}
    (repo / "hive.toml").write_text(render_template((), None))
    assert load(repo, {}, {}).origins == {}


def test_every_line_of_the_template_may_be_uncommented(repo: Path) -> None:
    """Each commented setting is valid as it stands and equals its default."""
    lines = render_template((), None).splitlines()
    text = "\n".join(re.sub(r"^# (?=\[|[a-z_]+ = )", "", line) for line in lines)
    assert {key for key, value in tomllib.loads(text).items() if not isinstance(value, dict)} == {
        one.key for one in SETTINGS if "." not in one.key
    }
    (repo / "hive.toml").write_text(text)
    found, plain = load(repo, {}, {}), load(repo, {}, {"repo": "."})
    values: list[Any] = [
        (getattr(found, one.field), getattr(plain, one.field)) for one in SETTINGS if one.field != "role_limits"
    ]
    assert all(left == right for left, right in values), values
    assert found.role_limits == {"backend": 2}


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("package.json", '{"scripts": {"test": "vitest"}}', ("npm", "test")),
        ("Cargo.toml", "[package]", ("cargo", "test")),
        ("go.mod", "module x", ("go", "test", "./...")),
        ("pyproject.toml", "[tool.pytest.ini_options]", ("python3", "-m", "pytest", "-q")),
        ("Makefile", "all:\n\ttrue\ntest:\n\ttrue\n", ("make", "test")),
        ("package.json", '{"scripts": {}}', ()),
        ("README", "test", ()),
    ],
)
def test_detect_test(tmp_path: Path, name: str, content: str, command: tuple[str, ...]) -> None:
    """The test command is told by the files of the repository."""
    (tmp_path / name).write_text(content)
    assert detect_test(tmp_path) == command


def test_importing_config_loads_nothing_heavy() -> None:
    """Settings are on the way of every command: no asyncio, YAML or TOML parser comes with them."""
    heavy = "{'asyncio', 'yaml', 'tomllib', 'difflib', 'hive.store'}"
    script = f"import sys, hive.config; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
