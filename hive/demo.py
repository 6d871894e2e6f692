"""A rehearsal without an account: a scratch repository, and tasks whose agent plays a script.

Everything else is the real engine: worktrees, branches, evidence, the test command, retries and rework.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hive.model import NewTask, Phase
from hive.workspace.git import Git, Place

_MODULES = (
    "archive", "backup", "cache", "config", "convert", "copy", "digest", "export", "fetch", "filter",
    "import", "index", "journal", "layout", "merge", "notify", "paths", "report", "restore", "upload",
)  # fmt: skip

_OLD = """import os.path


def {name}_file(directory, name):
    return os.path.join(directory, name)
"""
_NEW = """from pathlib import Path


def {name}_file(directory, name):
    return Path(directory) / name
"""
_HALF_DONE = """import os.path
from pathlib import Path


def {name}_file(directory, name):
    return Path(directory) / name
"""
_CHECK = """# Fails while the module still uses os.path.
if grep -n os.path "src/$1.py"; then
    echo "src/$1.py still uses os.path"
    exit 1
fi
grep -q pathlib "src/$1.py"
"""


def prepare(directory: Path, environ: Mapping[str, str], count: int) -> list[NewTask]:
    """Make the scratch repository and return `count` tasks for it.

    The second task fails once and is tried again; every seventh leaves half of the work, is sent back by its red test
    and mends it; the last one waits for the first.

    Args:
        directory: Empty; becomes a git repository with one commit.
        count: At least 3.

    Raises:
        NotReady: git is missing.
    """
    (directory / "src").mkdir(parents=True)
    names = [_name(number) for number in range(count)]
    for name in names:
        (directory / "src" / f"{name}.py").write_text(_OLD.format(name=name))
    (directory / "check.sh").write_text(_CHECK)
    place = Place(Git(environ), directory)
    place.run("init", "-q", "-b", "main")
    place.run("config", "core.autocrlf", "false")  # the user's own setting would give the check script CRLF
    place.run("add", "-A")
    identity = ("-c", "user.name=Hive demo", "-c", "user.email=demo@hive.invalid", "-c", "commit.gpgSign=false")
    place.run(*identity, "commit", "-q", "-m", "Start with os.path everywhere")
    return [_task(name, number, names) for number, name in enumerate(names)]


def _name(number: int) -> str:
    again = number // len(_MODULES)
    return _MODULES[number % len(_MODULES)] + (str(again + 1) if again else "")


def _task(name: str, number: int, names: list[str]) -> NewTask:
    return NewTask(
        title=f"Convert src/{name}.py to pathlib",
        prompt=f"Replace os.path by pathlib in src/{name}.py. Keep what it exports.",
        key=name,
        batch="pathlib",
        agent="scripted",
        script=_script(name, number),
        phases=(Phase.APPLY, Phase.TEST),
        test=("sh", "check.sh", name),
        after=(names[0],) if number == len(names) - 1 else (),
        tags=("demo",),
    )


def _script(name: str, number: int) -> str:
    think_s = 0.3 + (number * 7 % 10) / 10
    steps = [f"say reading src/{name}.py", f"sleep {think_s:.1f}"]
    if number == 1:
        steps.append("[attempt 1] fail connection reset by peer")
    first = _HALF_DONE if number % 7 == 3 else _NEW
    for condition, text in (("[round 0]", first), ("[round >= 1]", _NEW)):
        steps.append(f"{condition} edit src/{name}.py <<END\n{text.format(name=name)}END")
    steps.append(f"say src/{name}.py uses pathlib now")
    return "\n".join(steps)
