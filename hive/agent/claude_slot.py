"""Directories in which the claude CLI keeps its state: one for each slot, and one for the sessions of all slots.

Concurrent CLIs must not find each other's sockets and settings, yet a run must find the session that another slot
began: each slot has a configuration directory of its own, in which ``projects`` leads to the common sessions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

_LINK = Path("../sessions")


def open_slot_blocking(state_dir: Path, slot: int, base_env: Mapping[str, str]) -> Path:
    """Return the configuration directory of a slot, ready for a start.

    Afterwards it holds no broken ``.claude.json`` (it would fail every start), and leads to the sessions and, unless a
    later login was saved in it, to the login of the person who runs Hive.

    Args:
        state_dir: Directory of this store.
        slot: Number of the slot.
        base_env: Tells where that person's own configuration is.

    Raises:
        OSError: The directories cannot be made.
    """
    root = state_dir / "claude"
    directory = root / f"slot-{slot}"
    for path in (root, root / "sessions", directory):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _lead(directory / "projects", _LINK)
    _lead_to_login(directory / ".credentials.json", _login_file(base_env))
    _mend(directory / ".claude.json")
    return directory


def set_aside_blocking(state_dir: Path, session_id: str) -> None:
    """Rename what there is of a session that cannot be resumed, so that its id can begin anew."""
    for transcript in (state_dir / "claude" / "sessions").glob(f"*/{session_id}.jsonl"):
        transcript.replace(transcript.with_suffix(".unusable"))


def _login_file(base_env: Mapping[str, str]) -> Path | None:
    home = base_env.get("HOME")
    directory = base_env.get("CLAUDE_CONFIG_DIR") or (f"{home}/.claude" if home else "")
    path = Path(directory) / ".credentials.json"
    return path if directory and path.is_file() else None


def _lead_to_login(link: Path, login: Path | None) -> None:
    """Link to a person's login. A copy would go stale: renewing a login makes all copies of the old one worthless."""
    if login is None:
        if link.is_symlink():
            link.unlink()
    elif link.is_symlink() or not link.exists() or link.stat().st_mtime < login.stat().st_mtime:
        _lead(link, login.absolute())


def _lead(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`; several processes may do it at once."""
    if link.is_symlink() and link.readlink() == target:
        return
    if link.is_dir() and not link.is_symlink():
        link.rename(link.with_name(f"{link.name}.{link.stat().st_ino}"))
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(target)
    except FileExistsError:
        if link.readlink() != target:
            raise


def _mend(config: Path) -> None:
    try:
        json.loads(config.read_bytes() or b"{}")
    except FileNotFoundError:
        return
    except ValueError:
        config.replace(config.with_suffix(".json.broken"))
