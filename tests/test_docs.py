"""The pages say what the code says."""

from __future__ import annotations

from hive.config_schema import SETTINGS
from hive.config_template import render_template
from hive.taskfile.keys import KEYS
from tests.conftest import ROOT


def test_task_files_page_names_every_key() -> None:
    """The table of keys in docs/task-files.md is the table that task files are read by."""
    rows = [
        f"| `{key.name}` | {key.kind.noun} | {key.doc}{'' if key.shared else ' (a task only)'} |"
        for key in KEYS.values()
    ]
    page = (ROOT / "docs" / "task-files.md").read_text()
    assert page.split("|---|---|---|\n")[1].splitlines() == rows


def test_template_names_every_setting() -> None:
    """The hive.toml that `hive init` writes shows every setting a project may make."""
    template = render_template((), None)
    missing = [setting.key for setting in SETTINGS if setting.key not in template]
    assert missing == []
