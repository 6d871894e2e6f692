from __future__ import annotations

from hive.cli import VERBS
from hive.cli.options import global_options
from hive.cli.reference import reference
from tests.cli.conftest import ROOT


def test_the_page_is_what_the_commands_say() -> None:
    """docs/cli.md is the output of `python -m hive.cli.reference`."""
    assert (ROOT / "docs" / "cli.md").read_text() == reference()


def test_the_page_has_every_verb_and_global_option() -> None:
    """No verb and no global option is left out."""
    page = reference()
    assert all(f"\n### {row.name}\n\n{row.help}.\n" in page for row in VERBS)
    assert all(f"`{option.opts[-1]}`" in page for option in global_options())
