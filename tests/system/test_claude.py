"""A file of coding tasks becomes commits on branches, with the real claude CLI."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hive.model import State
from tests.agent.conftest import ApiStarter
from tests.doubles.scenario import JsonObject
from tests.system.harness import Project

TASKS = 12


@pytest.mark.timeout(300)
async def test_twelve_tasks_become_twelve_branches(project: Project, claude_cli: str, messages_api: ApiStarter) -> None:
    """Each of 12 tasks ends as a branch that holds exactly the edits its model asked for, tested, with its cost."""
    repository(project.directory)
    project.write("tasks.yaml", TASK_FILE)
    api = await messages_api(scenario())
    project.environ = {
        **project.environ,
        "ANTHROPIC_API_KEY": "sk-ant-test-not-real",
        "ANTHROPIC_BASE_URL": api.url,
        "HIVE_CLAUDE": claude_cli,
    }

    run = ("run", "tasks.yaml", "--cores", "2", "--agents", "6", "--json", "--progress", "none")
    done = await asyncio.to_thread(project.hive, *run, timeout_s=280)

    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads(done.stdout)
    assert summary["counts"]["completed"] == TASKS
    assert summary["exit"] == {"code": 0, "reason": "completed"}
    rows = {row["key"]: row for row in json.loads(project.hive("ls", "--json").stdout)["data"]}
    for number in range(TASKS):
        check_task(project, f"{number:02d}", rows[f"m{number:02d}"])
    git(project.directory, "diff", "--quiet", "HEAD")
    assert git(project.directory, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def check_task(project: Project, name: str, row: dict[str, Any]) -> None:
    """Check everything that one task left behind."""
    assert row["state"] == State.COMPLETED
    assert row["branch"].startswith(f"hive/{row['id']}-")
    assert row["cost_usd"] > 0
    assert row["tokens"]["input"] >= 2700
    assert row["tokens"]["output"] >= 300
    assert row["session_id"]
    changed = git(project.directory, "diff", "--name-status", f"main...{row['branch']}").splitlines()
    assert changed == [f"A\tnotes/{name}.md", f"M\tsrc/m{name}.py"]
    assert git(project.directory, "show", f"{row['branch']}:src/m{name}.py") == f"value_{name} = 2"
    assert git(project.directory, "show", f"{row['branch']}:notes/{name}.md") == f"module {name} now says 2"
    assert git(project.directory, "rev-parse", row["branch"]) == row["commit"]
    assert f"Hive-Task: {row['id']}" in git(project.directory, "log", "-1", "--format=%B", row["branch"])
    runs = json.loads(project.hive("show", str(row["id"]), "--json").stdout)["runs"]
    assert [(run["phase"], run["outcome"]) for run in runs] == [("apply", "succeeded"), ("test", "succeeded")]
    transcript = project.hive("logs", str(row["id"])).stdout
    assert "Edit" in transcript
    assert f"module {name} is done" in transcript
    assert "{" not in transcript.splitlines()[0]


TASK_FILE = """\
batch: values
defaults: {phases: [apply, test], model: sonnet}
tasks:
""" + "".join(
    f"""\
  - key: m{number:02d}
    title: Raise the value of module {number:02d}
    prompt: Set the value of module {number:02d} to 2 and note it.
    test: grep -q "value_{number:02d} = 2" src/m{number:02d}.py
"""
    for number in range(TASKS)
)


def repository(directory: Path) -> None:
    """Make a git repository with a module for each task."""
    (directory / "src").mkdir()
    for number in range(TASKS):
        (directory / "src" / f"m{number:02d}.py").write_text(f"value_{number:02d} = 1\n")
    git(directory, "init", "-q", "-b", "main")
    git(directory, "config", "user.name", "Tester")
    git(directory, "config", "user.email", "tester@example.invalid")
    git(directory, "add", "src")
    git(directory, "commit", "-q", "-m", "start")


def git(directory: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def scenario() -> JsonObject:
    """Script the model: read the module, edit it and write a note, say so."""
    usage = {"input_tokens": 900, "output_tokens": 120}
    rules: list[Any] = []
    for number in range(TASKS):
        name = f"{number:02d}"
        read = {"name": "Read", "input": {"file_path": f"${{cwd}}/src/m{name}.py"}}
        edit = {
            "name": "Edit",
            "input": {
                "file_path": f"${{cwd}}/src/m{name}.py",
                "old_string": f"value_{name} = 1",
                "new_string": f"value_{name} = 2",
            },
        }
        note = {
            "name": "Write",
            "input": {"file_path": f"${{cwd}}/notes/{name}.md", "content": f"module {name} now says 2\n"},
        }
        rules += [
            {"match": {"contains": f"module {name} to 2", "turns": 0}, "reply": {"tool_use": read, "usage": usage}},
            {
                "match": {"contains": f"value_{name} = 1", "turns": 1},
                "reply": {"text": "I change it.", "tool_use": [edit, note], "usage": usage},
            },
            {"match": {"contains": f"notes/{name}.md"}, "reply": {"text": f"module {name} is done", "usage": usage}},
        ]
    return {"rules": rules, "default": {"text": "I did not understand.", "usage": usage}}
