"""Names from titles: readable, short, valid."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.workspace.names import SLUG_LENGTH, checked_prefix, free_names, slug
from tests.workspace.conftest import a_task


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Fix the parser", "fix-the-parser"),
        ("  Größe: 3 µm?! ", "groe-3-m"),
        ("日本語", "task"),
        ("", "task"),
        ("../../etc/passwd", "etc-passwd"),
        ("--force.lock", "force-lock"),
        ("A title that is a good deal longer than forty characters", "a-title-that-is-a-good-deal-longer-than"),
        ("x" * 99, "x" * 40),
    ],
)
def test_a_slug_resembles_its_title(title: str, expected: str) -> None:
    """Words stay whole where possible; what has no letters of ASCII is called task."""
    assert slug(title) == expected


@given(st.text(max_size=200))
def test_any_title_gives_a_valid_name(title: str) -> None:
    """Neither git nor a file system can object to it."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(title))
    assert len(slug(title)) <= SLUG_LENGTH


def test_taken_names_are_stepped_over(tmp_path: Path) -> None:
    """A directory, or a dangling link, of that name belongs to something else."""
    (tmp_path / "1-fix-the-parser").mkdir()
    (tmp_path / "1-fix-the-parser-3").symlink_to("nowhere")
    names = list(islice(free_names(a_task(), tmp_path), 2))
    assert names == ["1-fix-the-parser-2", "1-fix-the-parser-4"]


def test_a_prefix_may_be_long_without_taking_long() -> None:
    """The check does not try every way to split it."""
    assert checked_prefix("a" * 5000 + "/") == "a" * 5000 + "/"
