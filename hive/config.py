"""What Hive was told: settings from files, environment and flags, and where each value came from.

Layers, weakest first: defaults, user file, ``[tool.hive]`` of pyproject.toml, hive.toml, the chosen profile of these
files, ``HIVE_*`` variables, flags. Each holds only what was set. The one module that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hive.config_file import Given, Layer, Profile, SettingsFile, read_settings
from hive.config_schema import SETTINGS, Setting, setting
from hive.errors import ConfigError
from hive.model import Phase
from hive.source import did_you_mean, nearest, quoted
from hive.values import BadValueError

if TYPE_CHECKING:
    from hive.lifecycle import Rules

DEFAULT = "default"
STATE_DIRECTORY = ".hive"
DATABASE = "hive.db"

ALLOWED_TOOLS = (
    "Read",
    "Edit",
    "Write",
    "Glob",
    "Grep",
    "TodoWrite",
    "Bash(git status *)",
    "Bash(git diff *)",
    "Bash(git log *)",
    "Bash(git show *)",
    "Bash(ls *)",
)
"""What a coding agent cannot do without; none of it leaves the directory or the machine."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, resolved. Their meaning stands in `hive.config_schema.SETTINGS`.

    Attributes:
        repo: Root of the git repository; None outside of one.
        directory: Where Hive was started, or where ``-C`` points; absolute.
        db: ``sqlite:///`` and an absolute path without symbolic links.
        environ: The environment these settings were resolved in; may hold secrets, so it is never shown.
        origins: Where each value that is no default came from, by field.
    """

    repo: Path | None
    directory: Path
    db: str
    cores: int | None = None
    agents: int = 8
    sync: bool = False
    agent: str = "claude"
    claude: str = "claude"
    phases: tuple[Phase, ...] = (Phase.APPLY,)
    base: str | None = None
    branch_prefix: str = "hive/"
    test: tuple[str, ...] = ()
    model: str | None = None
    permission_mode: str = "acceptEdits"
    allowed_tools: tuple[str, ...] = ALLOWED_TOOLS
    max_turns: int | None = None
    task_budget_usd: float | None = None
    timeout_s: float | None = 3600.0
    idle_timeout_s: float | None = 900.0
    test_timeout_s: float = 1800.0
    grace_s: float = 5.0
    drain_s: float = 30.0
    retries: int = 2
    rounds: int = 3
    backoff_base_s: float = 2.0
    backoff_cap_s: float = 300.0
    limit_wait_s: float = 60.0
    same_failure_stop: int = 2
    role_limits: Mapping[str, int] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    lease_s: float = 60.0
    renew_s: float = 15.0
    beat_s: float = 1.0
    output_limit_bytes: int = 1 << 30
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def root(self) -> Path:
        """Return the directory Hive works for: the repository, or outside of one where Hive was started."""
        return self.repo or self.directory

    @property
    def state_dir(self) -> Path:
        """Return where everything is that belongs to the queue but is not in its database; not made here.

        Follows from the queue's path alone: no two queues share it, and one queue has it wherever Hive is started.
        """
        database = Path(self.db.removeprefix("sqlite:///"))
        own = database.parent.name == STATE_DIRECTORY and database.name == DATABASE
        return database.parent if own else database.with_name(database.name + ".d")

    def origin(self, name: str) -> str:
        """Return where a value came from: ``hive.toml:3``, ``HIVE_AGENTS``, ``--agents`` or ``default``.

        Args:
            name: The setting's key in TOML or its field here.

        Raises:
            ConfigError: There is no such setting.
        """
        known = setting(name)
        if known is None:
            raise _unknown(name, name)
        return self.origins.get(known.field, DEFAULT)

    def rules(self, now_ms: int, jitter: float) -> Rules:
        """Return what `lifecycle.advance` needs; `jitter` is in [0, 1)."""
        from hive.lifecycle import Rules  # 8 ms that commands which start nothing need not wait for

        return Rules(
            now_ms=now_ms,
            jitter=jitter,
            retries=self.retries,
            rounds=self.rounds,
            backoff_base_s=self.backoff_base_s,
            backoff_cap_s=self.backoff_cap_s,
            limit_wait_s=self.limit_wait_s,
            same_failure_stop=self.same_failure_stop,
        )


def environment() -> Mapping[str, str]:
    """Return a copy of this process's environment, secrets and all."""
    return dict(os.environ)


def load(cwd: Path, environ: Mapping[str, str], flags: Mapping[str, object], profile: str | None = None) -> Settings:
    """Combine all layers.

    Args:
        cwd: Directory to start from.
        environ: As from `environment`; empty variables count as not set.
        flags: Values by key or field; None and an empty tuple mean not given. Text is parsed as from the environment.
        profile: Name of a ``[profile.NAME]``; None: what ``HIVE_PROFILE`` says, or none.

    Raises:
        ConfigError: A name or value is wrong, in whatever layer.
    """
    cwd = cwd.absolute()
    repo = find_repo(cwd)
    files = list(_files(cwd, repo, environ))
    merged: Layer = {}
    for file in files:
        merged |= file.layer
    for one in _chain(files, profile, environ):
        merged |= one
    merged |= _from_environment(environ, cwd)
    merged |= _from_flags(flags, cwd)
    return _resolved(cwd, repo, environ, merged)


def find_repo(directory: Path) -> Path | None:
    """Return the root of the git repository that holds a directory, without asking git."""
    return next((one for one in (directory, *directory.parents) if os.path.lexists(one / ".git")), None)


def config_paths(cwd: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return the files settings are read from, weakest first; one that does not exist stands where it would count."""
    cwd = cwd.absolute()
    repo = find_repo(cwd)
    upward = [one for one in (cwd, *cwd.parents) if one == cwd or (repo and one.is_relative_to(repo))]
    user = _user_file(environ)
    nearest_files = [
        next((one / name for one in upward if (one / name).is_file()), (repo or cwd) / name)
        for name in ("pyproject.toml", "hive.toml")
    ]
    return [*([user] if user else []), *nearest_files]


def _files(cwd: Path, repo: Path | None, environ: Mapping[str, str]) -> Iterator[SettingsFile]:
    """Read the files there are, weakest first."""
    upward = [one for one in (cwd, *cwd.parents) if one == cwd or (repo and one.is_relative_to(repo))]
    user = _user_file(environ)
    if user and (found := read_settings(user, str(user), trusted=True)):
        yield found
    for name, root in (("pyproject.toml", ("tool", "hive")), ("hive.toml", ())):
        for directory in upward:
            if found := read_settings(directory / name, _label(directory / name, cwd), root):
                yield found
                break


def _user_file(environ: Mapping[str, str]) -> Path | None:
    config = environ.get("XDG_CONFIG_HOME", "")
    if config.startswith("/"):  # the XDG rules tell to ignore relative ones
        return Path(config, "hive", "config.toml")
    home = environ.get("HOME")
    return Path(home, ".config", "hive", "config.toml") if home else None


def _label(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _chain(files: list[SettingsFile], profile: str | None, environ: Mapping[str, str]) -> Iterator[Layer]:
    """Yield the layers of a profile and of all it inherits, weakest first."""
    place = "--profile" if profile else "HIVE_PROFILE"
    name = profile or environ.get("HIVE_PROFILE") or None
    chain: list[list[Profile]] = []
    seen: list[str] = []
    while name:
        found = [file.profiles[name] for file in files if name in file.profiles]
        if not found:
            raise _no_profile(name, files, place, chain)
        if name in seen:
            raise chain[-1][-1].refuse(f"profiles inherit each other: {' -> '.join([*seen, name])}", "H104")
        seen.append(name)
        chain.append(found)
        name = next((one.inherits for one in reversed(found) if one.inherits), None)
    for found in reversed(chain):
        yield from (one.layer for one in found)


def _no_profile(name: str, files: list[SettingsFile], place: str, chain: list[list[Profile]]) -> ConfigError:
    known = sorted({one for file in files for one in file.profiles})
    message = f"there is no profile {quoted(name)}"
    if chain:
        return chain[-1][-1].refuse(message, "H104")
    fix = did_you_mean(name, known) or f"add [profile.{name}] to hive.toml, or choose one of: {', '.join(known)}"
    return ConfigError(message, code="H104", where=place, fix=fix if known else f"add [profile.{name}] to hive.toml")


def _from_environment(environ: Mapping[str, str], cwd: Path) -> Layer:
    layer: Layer = {}
    known = {one.variable: one for one in SETTINGS}
    for variable, value in environ.items():
        if variable in known and value:
            layer[known[variable].field] = _outside(known[variable], value, variable, cwd)
        elif variable.startswith("HIVE_") and variable not in known:
            _check_variable(variable, known)
    return layer


def _check_variable(variable: str, known: Mapping[str, Setting]) -> None:
    """Refuse a misspelt variable. Others are left alone: Hive's children and other programs use the prefix too."""
    names = ["PROFILE", *(one.removeprefix("HIVE_") for one in known)]
    own = variable.removeprefix("HIVE_")
    meant = nearest(own, names, cutoff=0.8)
    if meant and own not in names:
        raise ConfigError(
            f"there is no setting {quoted(variable)}", code="H101", where=variable, fix=f"did you mean `HIVE_{meant}`?"
        )


def _from_flags(flags: Mapping[str, object], cwd: Path) -> Layer:
    layer: Layer = {}
    for name, value in flags.items():
        if value is None or value == ():
            continue
        known = setting(name)
        if known is None:
            raise _unknown(name, "--" + name.replace("_", "-"))
        layer[known.field] = _outside(known, value, known.flag, cwd)
    return layer


def _outside(known: Setting, raw: object, place: str, cwd: Path) -> Given:
    """Parse what came from outside of files."""

    def refuse(message: str, code: str) -> ConfigError:
        return ConfigError(message, code=code, where=place)

    try:
        value = known.kind.parse(known.kind.from_text(raw.strip()) if isinstance(raw, str) else raw)
    except BadValueError as error:
        message = f"`{known.key}` {error.message}"
        raise ConfigError(message, code=error.code or "H102", where=place, fix=error.note) from None
    return Given(value, place, cwd, refuse)


def _unknown(name: str, place: str) -> ConfigError:
    fix = did_you_mean(name, [one.key for one in SETTINGS])
    return ConfigError(f"there is no setting {quoted(name)}", code="H101", where=place, fix=fix)


def _resolved(cwd: Path, repo: Path | None, environ: Mapping[str, str], merged: Layer) -> Settings:
    values: dict[str, Any] = {name: given.value for name, given in merged.items()}
    origins = {name: given.origin for name, given in merged.items()}
    home = environ.get("HOME", "")
    repo = values["repo"] = _repository(merged["repo"], home) if "repo" in merged else repo
    values["directory"] = cwd
    database = _database(merged["db"], home) if "db" in merged else (repo or cwd) / STATE_DIRECTORY / DATABASE
    values["db"] = f"sqlite:///{os.path.realpath(database)}"  # one queue has one name, whatever link leads to it
    if "claude" in merged and "/" in str(merged["claude"].value):
        values["claude"] = str(_anchored(merged["claude"], home))
    if values.get("test") and "phases" not in values:
        values["phases"] = (Phase.APPLY, Phase.TEST)
    settings = Settings(**values, environ=environ, origins=origins)
    _check_together(settings, merged)
    return settings


def _repository(given: Given, home: str) -> Path:
    path = _anchored(given, home)
    if not os.path.lexists(path / ".git"):
        raise given.refuse(f"`repo` must be the root of a git repository, not {quoted(path)}", "H102")
    return path


def _anchored(given: Given, home: str) -> Path:
    """Return the absolute path that a value means where it was written."""
    written = str(given.value)
    if home and (written == "~" or written.startswith("~/")):
        written = home + written[1:]
    return Path(os.path.normpath(given.base / written))


def _database(given: Given, home: str) -> Path:
    url = str(given.value)
    scheme, separator, _ = url.partition("://")
    if separator and scheme.split("+")[0] in {"postgres", "postgresql"}:
        raise given.refuse("PostgreSQL is not supported by this version; use sqlite:///PATH", "H303")
    path = url.removeprefix("sqlite:///")
    if not path or path.endswith("/") or "://" in path or ":memory:" in path:
        raise given.refuse(f"`db` must be sqlite:///PATH or a path, not {quoted(url)}", "H102")
    found = _anchored(Given(path, given.origin, given.base, given.refuse), home)
    if path != url and not found.parent.exists() and Path("/" + path).parent.is_dir():
        raise given.refuse(f"`db` would be {found}: an absolute path takes four slashes, sqlite:////{path}", "H102")
    return found


def _check_together(settings: Settings, merged: Layer) -> None:
    """Refuse values that are fine alone but not together, at whichever was set."""
    if settings.renew_s * 2 >= settings.lease_s:
        message = f"`renew` ({settings.renew_s:g}s) must be less than half of `lease` ({settings.lease_s:g}s)"
        raise _pair_error(merged, "renew_s", "lease_s", message)
    if settings.backoff_base_s > settings.backoff_cap_s:
        message = f"`backoff_base` ({settings.backoff_base_s:g}s) is above `backoff_cap` ({settings.backoff_cap_s:g}s)"
        raise _pair_error(merged, "backoff_base_s", "backoff_cap_s", message)


def _pair_error(merged: Layer, first: str, second: str, message: str) -> ConfigError:
    given = merged.get(first) or merged[second]
    return given.refuse(message, "H102")
