"""Makes .venv, or brings it up to date: one process at a time, and safe to kill at any moment.

Run by scripts/venv.sh with any Python from 3.11 on; standard library only. Writes nothing to stdout.

The lock file doubles as the record of an interrupted installation: it holds a word while one is going on, so
whoever gets the lock and finds the word there starts from an empty .venv.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOT_READY = 5


def main() -> int:
    """Bring .venv up to date; arguments: the checkout and ``run`` or ``dev``."""
    root, kind = Path(sys.argv[1]), sys.argv[2]
    (root / ".cache").mkdir(exist_ok=True)
    with (root / ".cache" / "venv.lock").open("a+") as lock, only_one(lock.fileno()):
        if is_current(root, kind):  # whoever had the lock before did our work
            return 0
        lock.seek(0)
        interrupted = bool(lock.read())
        lock.truncate(0)
        lock.write("installing\n")
        lock.flush()
        code = install(root, kind, lock.fileno(), afresh=interrupted or not works(root))
        if code == 0:
            lock.truncate(0)
        return code


@contextmanager
def only_one(fd: int) -> Iterator[None]:
    """Hold the lock; the system drops it when this process and the installer it started are gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another installation into .venv")
        fcntl.flock(fd, fcntl.LOCK_EX)
    yield


def is_current(root: Path, kind: str) -> bool:
    """Return whether .venv was installed from what pyproject.toml and constraints.txt say now."""
    stamp = root / ".venv" / f"hive-{kind}.installed"
    return works(root) and stamp.is_file() and stamp.read_bytes() == wanted(root)


def works(root: Path) -> bool:
    """Return whether .venv has its Python, something to install with, and was made at this very place."""
    venv = root / ".venv"
    made_at = {stamp.read_bytes().split(b"\n", 1)[0] for stamp in venv.glob("hive-*.installed")}
    has_installer = bool(shutil.which("uv") or list(venv.glob("lib/python*/site-packages/pip")))
    return has_installer and os.access(venv / "bin/python", os.X_OK) and made_at <= {str(root).encode()}


def wanted(root: Path) -> bytes:
    """Return what a finished installation is stamped with; scripts/venv.sh compares the same bytes."""
    return f"{root}\n".encode() + (root / "pyproject.toml").read_bytes() + (root / "constraints.txt").read_bytes()


def install(root: Path, kind: str, lock_fd: int, *, afresh: bool) -> int:
    """Install Hive in place, with the tools of development if asked for now or before; return an exit code."""
    venv = root / ".venv"
    kinds = ["run", "dev"] if kind == "dev" or (venv / "hive-dev.installed").exists() else ["run"]
    stamp = wanted(root)
    say(f"installing into {venv} (" + ("a minute or two)" if afresh else "pyproject.toml or constraints.txt changed)"))
    for name in ("run", "dev"):
        (venv / f"hive-{name}.installed").unlink(missing_ok=True)
    for command in commands(root, kinds[-1], afresh=afresh):
        # The installer keeps the lock, so that nobody starts beside one whose parent was killed.
        done = subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=[lock_fd], check=False
        )
        if done.returncode != 0:
            say(f"error[H503]: could not install into {venv}: {command[0]} ended with {done.returncode}")
            say("fix: see the lines above (no network?), then run the same command again")
            return NOT_READY
    for name in kinds:
        (venv / f"hive-{name}.installed").write_bytes(stamp)
    return 0


def commands(root: Path, kind: str, *, afresh: bool) -> list[list[str]]:
    """Return the command lines, with uv where there is one: it is several times faster."""
    venv, source = str(root / ".venv"), f"{root}[dev]" if kind == "dev" else str(root)
    what = ["-c", str(root / "constraints.txt"), "-e", source]
    base = str(Path(sys.executable).resolve())
    uv = shutil.which("uv")
    python = f"{venv}/bin/python"
    if uv:
        make = [uv, "venv", "--quiet", "--clear", "--python", base, venv]
        put = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *what]
    else:
        make = [base, "-m", "venv", "--clear", venv]
        put = [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *what]
    return [make, put] if afresh else [put]


def say(line: str) -> None:
    """Tell the person; stdout belongs to the program that runs afterwards."""
    print(f"hive: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
