"""One SQLite file, opened safely: gate, pragmas, migrations, and transactions as functions.

Knows nothing of tasks. A transaction is a function of a `Tx`, run from `BEGIN IMMEDIATE` to `COMMIT` while the gate
is held, so that nobody else can come between; `write_many` puts many into one commit, each in a savepoint.

Never `open()` the database file: closing any descriptor on it drops all of the process's SQLite locks (POSIX).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from hive.clock import Clock
from hive.errors import StoreError, StoreUnavailable, StoreUnsupported
from hive.store.sqlite_library import sqlite3

try:
    import fcntl
except ImportError:  # without forks there is one process, and SQLite's own locks are enough for it
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
Row: TypeAlias = sqlite3.Row
Params: TypeAlias = Mapping[str, object]

APPLICATION_ID = 0x48697665  # "Hive", so that nobody's other database is taken for a queue
SQL = Path(__file__).parent / "sqlite"
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs"})


class Tx:
    """A transaction under way: named statements and one reading of the clocks."""

    def __init__(self, connection: sqlite3.Connection, statements: Statements, clock: Clock, boot_id: str) -> None:
        self._connection = connection
        self._statements = statements
        self.now_ms = clock.now_ms()
        self.monotonic_s = clock.monotonic_s()
        self.boot_id = boot_id

    def all(self, name: str, params: Params | None = None) -> list[Row]:
        """Run a statement and return every row; a cursor is never left open."""
        return self._connection.execute(self._statements[name], params or {}).fetchall()

    def one(self, name: str, params: Params | None = None) -> Row | None:
        """Run a statement and return its first row."""
        rows = self.all(name, params)
        return rows[0] if rows else None

    def run(self, name: str, params: Params | None = None) -> int:
        """Run a changing statement and return how many rows it touched."""
        return self._connection.execute(self._statements[name], params or {}).rowcount

    def many(self, name: str, params: Sequence[Params]) -> None:
        """Run a changing statement for each set of parameters."""
        if params:
            self._connection.executemany(self._statements[name], params)


Write: TypeAlias = Callable[[Tx], T]


@dataclass(frozen=True, slots=True)
class Ask:
    """One statement of a read."""

    name: str
    params: Params


# A read is a generator that yields statements and receives their rows, so that one description serves a connection
# of the calling thread and one behind aiosqlite.
Reading: TypeAlias = Generator[Ask, list[Row], T]


class Statements:
    """The SQL of `sqlite/*.sql`, read when first used; ``{name}`` stands for the file of that name."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        text = self._texts.get(name)
        if text is None:
            text = (SQL / f"{name}.sql").read_text("utf-8")
            for part in ("task_columns", "run_columns"):
                if "{" + part + "}" in text:
                    text = text.replace("{" + part + "}", self[part].strip())
            self._texts[name] = text
        return text


class Gate:
    """A lock file beside the database that every Hive writer holds from before BEGIN until after COMMIT.

    SQLite's own busy handler sleeps and polls, so that under load one writer starves for seconds; the kernel's
    queue is fair. Must be made after the fork: an inherited descriptor shares its lock.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def held(self) -> Iterator[None]:
        if fcntl is None:
            yield
            return
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1


class Database:
    """A connection of one thread, with its gate. Not for sharing between threads or across a fork.

    Raises:
        StoreUnsupported: Newer schema, not a Hive database, corrupt, or on a network file system.
        StoreUnavailable: The file cannot be written, or stays locked.
    """

    def __init__(self, path: Path, *, clock: Clock, boot_id: str) -> None:
        self.path = path
        self.clock = clock
        self.boot_id = boot_id
        self.statements = Statements()
        refuse_network(path)
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._gate = Gate(path.with_name(path.name + ".lock"))
            try:
                self.connection = connect(path)
                self._prepare()
            except BaseException:
                self._gate.close()
                raise

    def write(self, fn: Write[T]) -> T:
        """Run one transaction; committed when this returns."""
        with translated(self.path), self._gate.held():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                result = fn(self._tx())
                self.connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        return result

    def write_many(self, drain: Callable[[], Sequence[Write[object]]]) -> list[tuple[object, Exception | None]]:
        """Run transactions as savepoints of one commit; one that fails does not touch the others.

        Args:
            drain: Gives the work; called when the gate is held, so that what queued up meanwhile joins in.

        Returns:
            For each, in order, its result and None, or None and its error; after the COMMIT.
        """
        results: list[tuple[object, Exception | None]] = []
        with translated(self.path), self._gate.held():
            work = drain()
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                tx = self._tx()
                results.extend(self._savepoint(fn, tx) for fn in work)
                self.connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        return results

    def read(self, fn: Write[T]) -> T:
        """Run a function that only reads, on one snapshot."""
        with translated(self.path):
            self.connection.execute("BEGIN")
            try:
                return fn(self._tx())
            finally:
                self._rollback()

    def close(self) -> None:
        """Close under the gate, since closing may checkpoint; twice is harmless."""
        if self._gate.is_open:
            with self._gate.held():
                self.connection.close()
            self._gate.close()

    def _tx(self) -> Tx:
        return Tx(self.connection, self.statements, self.clock, self.boot_id)

    def _savepoint(self, fn: Write[object], tx: Tx) -> tuple[object, Exception | None]:
        self.connection.execute("SAVEPOINT op")
        try:
            result = fn(tx)
        except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
            failed: Exception = _meaning(self.path, error)
        except sqlite3.Error:
            raise  # the database itself fails: all of this commit fails together
        except Exception as error:  # noqa: BLE001 - handed to the caller of this one operation
            failed = error
        else:
            self.connection.execute("RELEASE op")
            return result, None
        self.connection.execute("ROLLBACK TO op")
        self.connection.execute("RELEASE op")
        return None, failed

    def _rollback(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _prepare(self) -> None:
        # Looked at before anything is changed: the file may be somebody else's.
        version = self._version()
        with self._gate.held():
            self.connection.execute("PRAGMA journal_mode=WAL")
        migrations = sorted((SQL / "migrations").glob("*.sql"))
        if version > len(migrations):
            raise StoreUnsupported(
                "the queue was written by a newer Hive",
                code="H302",
                where=str(self.path),
                why=f"schema {version} > {len(migrations)}",
                fix="upgrade Hive; nothing was touched",
            )
        if version < len(migrations):
            self.write(lambda _: self._migrate(migrations))

    def _migrate(self, migrations: Sequence[Path]) -> None:
        # Read again inside the transaction: another process may have migrated while this one waited at the gate.
        for number, path in enumerate(migrations, 1):
            if number > self._version():
                for statement in _split(path.read_text("utf-8")):
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version={number}")
        self.connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.connection.execute(
            "INSERT OR IGNORE INTO meta (key, value) VALUES ('store_id', ?)", (uuid.uuid4().hex[:12],)
        )

    def _version(self) -> int:
        version = int(self.connection.execute("PRAGMA user_version").fetchone()[0])
        owner = int(self.connection.execute("PRAGMA application_id").fetchone()[0])
        tables = int(self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
        if tables and owner != APPLICATION_ID:
            raise StoreUnsupported(
                "this SQLite file is not a Hive queue",
                code="H307",
                where=str(self.path),
                fix="name another file with --db, or leave --db out",
            )
        return version


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the store's settings; transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for statement in pragmas(read_only=read_only):
        connection.execute(statement)
    return connection


def pragmas(*, read_only: bool) -> list[str]:
    """Return the settings of a connection, in the order they must be made: waiting first. None touches the file."""
    first = ["PRAGMA busy_timeout=5000", "PRAGMA foreign_keys=ON", "PRAGMA trusted_schema=OFF"]
    if read_only:
        return [*first, "PRAGMA query_only=ON"]
    return [*first, "PRAGMA synchronous=FULL", "PRAGMA journal_size_limit=67108864"]


def refuse_network(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Raise `StoreUnsupported` when the path is on a file system whose locks cannot be trusted.

    Args:
        mounts: Lists what is mounted where. Source: proc_pid_mountinfo(5).
    """
    if not mounts.exists():
        return
    where = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.read_text("utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    if kind in _NETWORK:
        raise StoreUnsupported(
            f"the queue cannot live on {kind}",
            code="H304",
            where=str(path),
            why="locks on network file systems lose data",
            fix="put it on a local disk with --db sqlite:////local/path/hive.db",
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours, with the file's name and a fix."""
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(path, error) from error
    except OSError as error:
        raise _unwritable(path, str(error.strerror or error)) from error


def _meaning(path: Path, error: Exception) -> StoreError:
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError) and type(error) is not sqlite3.DatabaseError:
        # About what was to be written, not about the file: trying again would end the same way.
        return StoreError("the store refused a write", code="H309", where=str(path), why=text)
    if "not a database" in text or "malformed" in text or "corrupt" in text:
        return StoreUnsupported(
            "the queue's file is damaged",
            code="H306",
            where=str(path),
            why=text,
            fix=f"put a backup in its place, or move it away and start anew: mv {path} {path}.damaged",
        )
    if "readonly" in text or "unable to open" in text:
        return _unwritable(path, text)
    if "full" in text:
        return StoreUnavailable(
            "no space left for the queue",
            code="H308",
            where=str(path),
            why=text,
            fix="free some space; nothing is lost",
        )
    return StoreUnavailable(
        "the queue cannot be used now", code="H301", where=str(path), why=text, fix="run the same command again"
    )


def _unwritable(path: Path, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        "the queue cannot be written",
        code="H305",
        where=str(path),
        why=why,
        fix="make the directory writable, or name another with --db sqlite:///PATH",
    )


def _split(script: str) -> Iterator[str]:
    """Yield the statements of a script; triggers contain semicolons, so SQLite itself says where one ends."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
