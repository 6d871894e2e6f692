"""`hive logs`: what a run of a task printed, readable or as the bytes it wrote."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hive.cli import exits
from hive.cli.context import Context
from hive.cli.engine_state import engine_pid
from hive.cli.options import JSON, task_argument, verb
from hive.cli.output import data, lines_of, raw, say
from hive.cli.show import the_task
from hive.errors import NotReady, UsageError
from hive.export import envelope, run_row
from hive.model import Phase, Run, Task

if TYPE_CHECKING:
    from hive.api import SyncHive
    from hive.config import Settings

_LOOK_S = 0.2
_CHUNK_BYTES = 1 << 18
_MORE = """TASK is an id or a key. Shows its last run of phase apply. Text is shown without control characters; --raw
copies the file the agent wrote."""


@verb("logs", shown=JSON, more=_MORE)
@task_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--raw", "as_bytes", is_flag=True, help="Copy standard output byte by byte.")
@click.option("--run", "run_id", type=int, metavar="RUN", help="Another run of the task; see hive show TASK")
def logs_command(ctx: Context, *, name: str, follow: bool, as_bytes: bool, run_id: int | None) -> int:
    """Print the output of a run."""
    from hive.worker import run_files

    settings = ctx.settings()
    with ctx.queue(settings) as hive:
        task = the_task(ctx, hive, name)
        run = _run(task, hive.runs(task.id), run_id)
        files = run_files(settings.state_dir, run.id)
        end = _End(hive, run, settings)
        chunks = _chunks(files.with_name(files.name + ".out"), run, end.come if follow else lambda: True)
        if as_bytes:
            for chunk in chunks:
                raw(chunk)
            end.explain(ctx)
            return exits.COMPLETED
        lines = _readable(task, run, settings, chunks)
        if ctx.for_people:
            for line in lines:
                print(line, flush=follow)
        else:
            text = "\n".join(lines)
            data(envelope("hive.logs/1", ctx.clock.now_ms(), run=run_row(run), text=text))
            end.explain(ctx)
            return exits.COMPLETED
    _print_errors(files.with_name(files.name + ".err"))
    end.explain(ctx)
    return exits.COMPLETED


def _run(task: Task, runs: Sequence[Run], run_id: int | None) -> Run:
    """Return the run that was asked for: the named one, the last apply, or the last one.

    Raises:
        UsageError: The task has no such run, or none at all.
    """
    if run_id is not None:
        runs = [run for run in runs if run.id == run_id]
    if not runs:
        what = f"task {task.id} has no run {run_id}" if run_id is not None else f"task {task.id} has not run yet"
        raise UsageError(what, code="H143", fix=f"hive show {task.id}")
    return next((run for run in reversed(runs) if run.phase is Phase.APPLY), runs[-1])


class _End:
    """Whether a run is over: its end is recorded, or no engine is left that could go on with it."""

    def __init__(self, hive: SyncHive, run: Run, settings: Settings) -> None:
        self._hive = hive
        self._run = run
        self._settings = settings
        self._abandoned = False

    def come(self) -> bool:
        if self._recorded():
            return True
        if engine_pid(self._settings) is not None:
            return False
        self._abandoned = not self._recorded()  # the engine may have ended just after it recorded this very end
        return True

    def explain(self, ctx: Context) -> None:
        """Say that the end was never recorded, if that is why nothing more comes."""
        if self._abandoned:
            say(ctx, f"no engine runs, and run {self._run.id} has no end: `hive run` takes its task up again")

    def _recorded(self) -> bool:
        runs = self._hive.runs(self._run.task_id)
        return any(one.id == self._run.id and one.ended_at_ms is not None for one in runs)


def _chunks(path: Path, run: Run, over: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the content of a file that may still grow, until `over` and its end.

    Raises:
        NotReady: There is no such file, and there will be none.
    """
    import threading

    nap = threading.Event()
    while not path.exists():
        if over():
            raise NotReady(
                f"run {run.id} left no output on this machine",
                code="H232",
                where=str(path),
                why=f"it ran on {run.host}, and did not start a process or was cleaned up",
                fix=f"hive events --task {run.task_id}",
            )
        nap.wait(_LOOK_S)
    with path.open("rb") as file:
        while True:
            ended = over()  # asked before reading: what was written until then is read
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            if ended:
                return
            nap.wait(_LOOK_S)


def _readable(task: Task, run: Run, settings: Settings, chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield lines that are safe for a terminal; those of claude as a transcript."""
    lines = _lines(chunks)
    if run.phase is Phase.APPLY and (task.spec.agent or settings.agent) == "claude":
        from hive.agent.claude_stream import readable

        return readable(lines)
    return (lines_of(line.decode("utf-8", "replace").rstrip("\r")) for line in lines)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    from hive.agent.output import LineFramer

    framer = LineFramer()
    for chunk in chunks:
        yield from framer.feed(chunk)
    yield from framer.flush()


def _print_errors(path: Path) -> None:
    """Print what the run wrote to its standard error, to ours."""
    if path.exists():
        sys.stdout.flush()
        print(lines_of(path.read_bytes().decode("utf-8", "replace")), end="", file=sys.stderr)
