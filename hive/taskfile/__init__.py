"""Task files: YAML, TOML, JSON lines, Markdown and plain lines, read and judged whole before anything is queued.

Every error is found in one go and shown with its place; nothing here touches the store or starts anything.
Codes: H110 not in its format, H111 unknown key, H112 need that names no task, H113 circle of needs, H114 wrong value,
H115 something twice, H116 nothing to do, H117 too much, H118 path outside, H119 matrix, H120 phase of another version,
H122 script, H123 prompt file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hive.errors import TaskFileError
from hive.model import NewTask, Phase
from hive.source import Place, Source, Span, quoted
from hive.taskfile.build import Builder, Surroundings
from hive.taskfile.document import Document, MalformedError
from hive.taskfile.formats import Format, format_of, parse
from hive.taskfile.graph import Keys, check_needs
from hive.taskfile.keys import KEYS, schema
from hive.taskfile.matrix import Expander
from hive.taskfile.problems import InvalidTaskFileError, Problems
from hive.values import BadValueError

MAX_FILE_BYTES = 512 << 20
STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class Context:
    """What a file is read against. Layers above fill it from settings and store.

    Attributes:
        root: Repository the globs of a matrix are relative to; None: the file's own directory.
        batch: Name for all tasks, whatever the file says; None: the file's, else its stem, else ``default``.
        phases: Pipeline somebody chose in the settings; None: apply, and test where there is a test command.
        has_test: The settings know a test command for tasks that name none.
        stored: Keys already in the store by batch; `after` may name them.
        check_script: Raises `HiveError` or ValueError for a script that cannot be played.
    """

    root: Path | None = None
    batch: str | None = None
    phases: tuple[Phase, ...] | None = None
    has_test: bool = False
    stored: Mapping[str, Collection[str]] = field(default_factory=dict)
    check_script: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A file that is right: all its tasks, each with key, title and phases.

    Attributes:
        batch: The file's batch; lines of JSON may have named others.
        notes: What people should know about how it was read.
    """

    batch: str
    tasks: tuple[NewTask, ...]
    notes: tuple[str, ...] = ()


def read(
    path: Path | None,
    text: bytes | None = None,
    context: Context | None = None,
    *,
    each: bool = False,
    chosen: Format | None = None,
) -> TaskFile:
    """Read a task file.

    Args:
        path: The file; its suffix tells the format. None: `text` came from standard input.
        text: Its content, if it was read already.
        context: What to judge against.
        each: Every line that is not blank is the prompt of a task.
        chosen: Format, if neither suffix nor content should decide.

    Raises:
        TaskFileError: Something is wrong; an `InvalidTaskFileError` with all errors when it was readable.
    """
    context = context or Context()
    source = Source(str(path) if path else STDIN, _content(path, text))
    document = _document(source, path, Format.LINES if each else chosen)
    problems = Problems(source, document.locate)
    for fault in document.faults:
        problems.add_at(fault.code, fault.message, fault.find, note=fault.note)
    batch = _batch(document, context, path, problems)
    tasks = _tasks(document, context, batch, path.parent if path else Path(), problems)
    if not tasks and not problems.count:
        problems.add_at("H116", "there are no tasks in it", lambda: Span(0, 0))
    problems.check()
    return TaskFile(batch, tuple(tasks), document.notes)


def _tasks(document: Document, context: Context, batch: str, directory: Path, problems: Problems) -> list[NewTask]:
    keys = Keys(problems, context.stored)
    around = Surroundings(
        directory=directory,
        batch=batch,
        batch_wins=context.batch is not None,
        own_batches=document.own_batches,
        phases=context.phases,
        has_test=context.has_test,
        check_script=context.check_script,
    )
    builder = Builder(around, keys, problems)
    if document.defaults is not None:
        builder.defaults(document.defaults)
    expander = Expander(context.root or directory, problems)
    tasks = builder.tasks(made for entry in document.entries for made in expander.entries(entry))
    check_needs(builder.needs, keys)
    return tasks


def _document(source: Source, path: Path | None, chosen: Format | None) -> Document:
    chosen = chosen or format_of(path.suffix if path else "", source.text)
    try:
        return parse(source.text, chosen)
    except MalformedError as error:
        problems = Problems(source, lambda _: Place(Span(0, 0)))
        fault = error.fault
        problems.add_at(fault.code, fault.message, fault.find, note=fault.note)
        problems.check()
        raise  # not reached: there is a problem


def _batch(document: Document, context: Context, path: Path | None, problems: Problems) -> str:
    if context.batch is not None:
        return context.batch
    if document.batch is None:
        return (path.stem if path else "") or "default"
    try:
        return str(KEYS["batch"].kind.parse(document.batch))
    except BadValueError as error:
        problems.add("H114", f"`batch` {error.message}", ("batch",), note=error.note)
        return "default"


def _content(path: Path | None, text: bytes | None) -> str:
    """Return the text of a file, or say why it is none."""
    name = str(path) if path else STDIN
    if text is None:
        text = _read(path, name)
    if len(text) > MAX_FILE_BYTES:
        raise TaskFileError(f"is larger than {MAX_FILE_BYTES >> 20} MiB", code="H117", where=name)
    try:
        content = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8", "replace")
        where = Source(name, before + "?").where(len(before))
        message = f"byte {text[error.start]:#04x} is not UTF-8"
        raise TaskFileError(message, code="H110", where=where, fix="save the file as UTF-8") from None
    nul = content.find("\0")
    if nul >= 0:
        where = Source(name, content).where(nul)
        raise TaskFileError("holds a NUL character: this is no text", code="H110", where=where)
    return content


def _read(path: Path | None, name: str) -> bytes:
    if path is None:
        raise TaskFileError("there is nothing to read", code="H110", where=name)
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise TaskFileError(f"{quoted(path)} cannot be read: {reason}", code="H110", where=name) from None


__all__ = ["KEYS", "Context", "Format", "InvalidTaskFileError", "TaskFile", "read", "schema"]
