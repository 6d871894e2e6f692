from __future__ import annotations

import stat
from pathlib import Path

from hive.agent.claude_slot import open_slot_blocking, set_aside_blocking

SESSION = "729538bc-40db-4198-a6b1-86bd6e402fe0"


def home_with_login(tmp_path: Path, login: str = "{}") -> dict[str, str]:
    (tmp_path / "home" / ".claude").mkdir(parents=True, exist_ok=True)
    (tmp_path / "home" / ".claude" / ".credentials.json").write_text(login)
    return {"HOME": str(tmp_path / "home")}


def test_slots_share_nothing_but_sessions(tmp_path: Path) -> None:
    """Each slot has a private directory; what one writes into `projects`, all find there."""
    one, two = (open_slot_blocking(tmp_path, slot, {}) for slot in (0, 1))
    assert one != two
    (one / "projects" / "a.jsonl").write_text("x")
    assert (two / "projects" / "a.jsonl").read_text() == "x"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (one, two, one.parent, one / "projects")} == {0o700}


def test_opening_a_slot_again_changes_nothing(tmp_path: Path) -> None:
    """A second run in a slot finds what the first one left."""
    directory = open_slot_blocking(tmp_path, 0, {})
    (directory / ".claude.json").write_text('{"numStartups": 1}')
    assert open_slot_blocking(tmp_path, 0, {}) == directory
    assert (directory / ".claude.json").read_text() == '{"numStartups": 1}'


def test_a_torn_configuration_does_not_stop_a_slot_for_ever(tmp_path: Path) -> None:
    """A `.claude.json` that is no JSON would fail every start: it is moved aside; an empty one does no harm."""
    directory = open_slot_blocking(tmp_path, 0, {})
    (directory / ".claude.json").write_bytes(b'{"numSta\xff')
    open_slot_blocking(tmp_path, 0, {})
    assert not (directory / ".claude.json").exists()
    assert (directory / ".claude.json.broken").exists()
    (directory / ".claude.json").write_bytes(b"")
    open_slot_blocking(tmp_path, 0, {})
    assert (directory / ".claude.json").exists()


def test_an_agent_cannot_keep_a_slot_from_its_sessions(tmp_path: Path) -> None:
    """Whatever stands where the link to the sessions should be is moved or replaced."""
    directory = open_slot_blocking(tmp_path, 0, {})
    (directory / "projects").unlink()
    (directory / "projects").mkdir()
    (directory / "projects" / "kept").touch()
    open_slot_blocking(tmp_path, 0, {})
    assert (directory / "projects").is_symlink()
    assert len(list(directory.glob("projects.*/kept"))) == 1


def test_a_login_by_file_is_shared(tmp_path: Path) -> None:
    """The login of the person who runs Hive is linked, so that a renewed one is everybody's; without one, no link."""
    env = home_with_login(tmp_path, "old")
    link = open_slot_blocking(tmp_path, 0, env) / ".credentials.json"
    assert link.is_symlink()
    home_with_login(tmp_path, "new")
    assert link.read_text() == "new"
    (tmp_path / "home" / ".claude" / ".credentials.json").unlink()
    open_slot_blocking(tmp_path, 0, env)
    assert not link.is_symlink()


def test_a_login_saved_in_the_slot_stays_until_a_newer_one_exists(tmp_path: Path) -> None:
    """When the CLI replaced the link by a renewed login, that one is good; a login made later by hand is better."""
    import os

    env = home_with_login(tmp_path, "first")
    link = open_slot_blocking(tmp_path, 0, env) / ".credentials.json"
    link.unlink()
    link.write_text("renewed")
    os.utime(tmp_path / "home" / ".claude" / ".credentials.json", (1, 1))
    open_slot_blocking(tmp_path, 0, env)
    assert link.read_text() == "renewed"
    home_with_login(tmp_path, "by hand")
    os.utime(link, (1, 1))
    open_slot_blocking(tmp_path, 0, env)
    assert link.read_text() == "by hand"


def test_a_session_can_be_set_aside(tmp_path: Path) -> None:
    """A transcript that cannot be resumed makes room for a new one and is kept under another name."""
    projects = open_slot_blocking(tmp_path, 0, {}) / "projects"
    (projects / "-project").mkdir()
    (projects / "-project" / f"{SESSION}.jsonl").write_text("torn")
    set_aside_blocking(tmp_path, SESSION)
    assert [path.name for path in (projects / "-project").iterdir()] == [f"{SESSION}.unusable"]
