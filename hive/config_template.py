"""What `hive init` writes: a hive.toml in which everything is explained, and the test command it found."""

from __future__ import annotations

import json
from pathlib import Path

from hive.config import Settings
from hive.config_schema import SETTINGS, Setting

_EXAMPLES = {"repo": '"."', "db": '".hive/hive.db"'}


def detect_test(repo: Path) -> tuple[str, ...]:
    """Return the test command a repository seems to have, judged by its files; empty when there is no telling."""
    if _holds(repo / "package.json", '"test"'):
        return ("npm", "test")
    if (repo / "Cargo.toml").is_file():
        return ("cargo", "test")
    if (repo / "go.mod").is_file():
        return ("go", "test", "./...")
    if _has_pytest(repo):
        return ("python3", "-m", "pytest", "-q")
    if _holds(repo / "Makefile", "\ntest:"):
        return ("make", "test")
    return ()


def render_template(detected_test: tuple[str, ...], base: str | None) -> str:
    """Return a hive.toml that sets only what was detected and shows every other default in a comment."""
    defaults = Settings(repo=None, directory=Path(), db="")
    chosen: dict[str, object] = {"test": detected_test} if detected_test else {}
    if base:
        chosen["base"] = base
    plain = [one for one in SETTINGS if "." not in one.key]
    tables = [one for one in SETTINGS if "." in one.key]
    lines = ["# Settings of Hive for this repository. Stronger: HIVE_* variables, then flags."]
    group = ""
    for one in plain:
        if one.group != group:
            group = one.group
            lines += ["", f"# -- {group}"]
        lines.append(_line(one, getattr(defaults, one.field), chosen))
    for one in tables:
        lines += ["", f"# [{one.key}]  # {one.doc}", "# backend = 2"]
    lines += ["", "# [profile.ci]  # chosen with --profile ci", "# agents = 2", ""]
    return "\n".join(lines)


def _line(one: Setting, default: object, chosen: dict[str, object]) -> str:
    if one.field in chosen:
        return f"{one.key} = {_literal(chosen[one.field])}  # {one.doc}"
    return f"# {one.key} = {_EXAMPLES.get(one.key) or _literal(default)}  # {one.doc}"


def _literal(value: object) -> str:
    """Return a TOML literal; None is written as the word that means it."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(str(value), ensure_ascii=False)


def _has_pytest(repo: Path) -> bool:
    if any((repo / name).is_file() for name in ("pytest.ini", "conftest.py", "tests/conftest.py")):
        return True
    if _holds(repo / "pyproject.toml", "pytest") or _holds(repo / "setup.cfg", "[tool:pytest]"):
        return True
    return any((repo / "tests").glob("test_*.py"))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and text in "\n" + path.read_text(encoding="utf-8", errors="replace")
