"""One TOML file of settings: what it sets and where, its profiles, and errors that point into it.

Does not know about other layers; `hive.config` combines them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hive.config_schema import SETTINGS, Setting
from hive.errors import ConfigError
from hive.source import KeyPath, Place, Source, Span, did_you_mean, quoted
from hive.toml_places import toml_error_span, toml_places
from hive.values import BadValueError

_LARGEST_BYTES = 1 << 20
_BYPASS = "bypassPermissions"


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody set.

    Attributes:
        value: Already of the setting's own type.
        origin: Where: ``hive.toml:3``, ``HIVE_AGENTS``, ``--agents``.
        base: Directory that relative paths are relative to.
        refuse: Makes the error that points at it, from a message and a code.
    """

    value: object
    origin: str
    base: Path
    refuse: Callable[[str, str], ConfigError]


Layer = dict[str, Given]


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of values: what it inherits (a name, or nothing) and what it sets."""

    inherits: str | None
    layer: Layer
    refuse: Callable[[str, str], ConfigError]


@dataclass(slots=True)
class SettingsFile:
    """A parsed file: `layer` by field name, `profiles` by their own."""

    layer: Layer = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)


def read_settings(path: Path, label: str, root: KeyPath = (), *, trusted: bool = False) -> SettingsFile | None:
    """Read and check a whole file, profiles nobody asked for included.

    Args:
        path: The file; it may be missing.
        label: What people call it.
        root: Table the settings live in: ``("tool", "hive")`` of a pyproject.toml.
        trusted: It is the user's own file; any other may have come with a repository somebody else wrote.

    Returns:
        None when there is no such file or table.

    Raises:
        ConfigError: It cannot be read, or something in it is wrong.
    """
    content = _content(path, label)
    if content is None or (root and str(root[-1]) not in content):  # most pyproject files are not ours to parse
        return None
    return _Reader(path, Source(label, content), root, trusted=trusted).read()


class _Reader:
    def __init__(self, path: Path, source: Source, root: KeyPath, *, trusted: bool) -> None:
        self._base = path.parent
        self._source = source
        self._root = root
        self._trusted = trusted
        self._places: dict[KeyPath, Place] = {}

    def read(self) -> SettingsFile | None:
        table: object = self._parsed()
        for part in self._root:
            table = table.get(str(part)) if isinstance(table, dict) else None
        if table is None:
            return None
        self._places, _ = toml_places(self._source.text)
        found = SettingsFile()
        rest = {key: value for key, value in self._table(table, self._root).items() if key != "profile"}
        self._collect(rest, self._root, "", found.layer)
        if isinstance(table, dict) and "profile" in table:
            found.profiles = self._profiles(self._table(table["profile"], (*self._root, "profile")))
        return found

    def _parsed(self) -> object:
        import tomllib  # 10 ms, and most commands of most people meet no file

        try:
            return tomllib.loads(self._source.text)
        except RecursionError:
            raise ConfigError("is nested too deeply", code="H103", where=self._source.name) from None
        except ValueError as error:
            raise _syntax_error(str(error), self._source) from None

    def _table(self, value: object, path: KeyPath) -> Mapping[str, object]:
        if not isinstance(value, dict):
            raise self._error(f"`{'.'.join(map(str, path))}` must be a table, not {quoted(value)}", "H102", path)
        return value

    def _collect(self, table: Mapping[str, object], path: KeyPath, prefix: str, layer: Layer) -> None:
        for name, value in table.items():
            key, here = prefix + name, (*path, name)
            setting = next((one for one in SETTINGS if one.key == key), None)
            if setting is not None:
                layer[setting.field] = self._given(setting, value, here)
            elif any(one.key.startswith(key + ".") for one in SETTINGS):
                self._collect(self._table(value, here), here, key + ".", layer)
            else:
                raise self._unknown(name, prefix, here)

    def _given(self, setting: Setting, raw: object, path: KeyPath) -> Given:
        try:
            value = setting.kind.parse(raw)
        except BadValueError as error:
            message = f"`{setting.key}` {error.message}"
            raise self._error(message, error.code or "H102", (*path, *error.at), error.note) from None
        self._check_allowed(setting, value, path)
        line, _ = self._source.position(self._span(path, on_key=True).start)
        return Given(
            value,
            f"{self._source.name}:{line}",
            self._base,
            lambda message, code: self._error(message, code, path),
        )

    def _check_allowed(self, setting: Setting, value: object, path: KeyPath) -> None:
        """Refuse what a cloned repository must not do: switch the guards off, or choose who gets the API key."""
        if value == _BYPASS:
            message = f"`{setting.key}` cannot be {_BYPASS} in a file: give the flag {setting.flag} {_BYPASS}"
            raise self._error(message, "H102", path)
        if setting.field == "claude" and "/" in str(value) and not self._trusted:
            message = (
                f"`{setting.key}` cannot be a path in a file of the repository, only the name of a program on PATH"
            )
            fix = f"set {setting.variable}=PATH, or `{setting.key}` in ~/.config/hive/config.toml"
            raise self._error(message, "H102", path, fix=fix)

    def _profiles(self, table: Mapping[str, object]) -> dict[str, Profile]:
        return {name: self._profile(name, value) for name, value in table.items()}

    def _profile(self, name: str, value: object) -> Profile:
        path = (*self._root, "profile", name)
        values = dict(self._table(value, path))
        inherits = values.pop("inherits", None)
        where = (*path, "inherits") if inherits is not None else path
        if inherits is not None and not isinstance(inherits, str):
            raise self._error(f"`inherits` must be the name of a profile, not {quoted(inherits)}", "H102", where)
        layer: Layer = {}
        self._collect(values, path, "", layer)
        return Profile(inherits, layer, lambda message, code: self._error(message, code, where))

    def _unknown(self, name: str, prefix: str, path: KeyPath) -> ConfigError:
        options = {one.key.removeprefix(prefix).split(".")[0] for one in SETTINGS if one.key.startswith(prefix)}
        own = {"inherits"} if "profile" in path[len(self._root) : -1] else {"profile"}
        note = did_you_mean(name, sorted(options | (set() if prefix else own)))
        message = f"there is no setting {quoted(prefix + name)}"
        return self._error(message, "H101", path, note, on_key=True)

    def _error(
        self, message: str, code: str, path: KeyPath, note: str = "", *, on_key: bool = False, fix: str = ""
    ) -> ConfigError:
        span = self._span(path, on_key=on_key)
        where, excerpt = self._source.where(span.start), self._source.excerpt(span, note)
        return ConfigError(message, code=code, where=where, excerpt=excerpt, fix=fix)

    def _span(self, path: KeyPath, *, on_key: bool) -> Span:
        while path not in self._places and path:
            path = path[:-1]
        place = self._places.get(path, Place(Span(0, 1)))
        return place.key if on_key and place.key else place.value


def _content(path: Path, label: str) -> str | None:
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        fix = "make it readable, or move it away"
        raise ConfigError(f"cannot be read: {error.strerror}", code="H103", where=label, fix=fix) from None
    if data is None:
        return None
    if len(data) > _LARGEST_BYTES:
        raise ConfigError(f"is larger than {_LARGEST_BYTES >> 20} MiB", code="H103", where=label)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8", code="H103", where=f"{label}:{line}", fix="save it as UTF-8") from None


def _syntax_error(message: str, source: Source) -> ConfigError:
    """Return tomllib's complaint with its position taken out of the text and put where ours stand."""
    span = toml_error_span(message, source.text)
    what = message.partition(" (at ")[0]
    return ConfigError(
        f"is no valid TOML: {what[:1].lower()}{what[1:]}",
        code="H103",
        where=source.where(span.start),
        excerpt=source.excerpt(span),
    )
