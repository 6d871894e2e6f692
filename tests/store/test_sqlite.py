from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hive.clock import ManualClock, SystemClock
from hive.errors import HiveError, StoreError, StoreUnavailable, StoreUnsupported, UsageError
from hive.model import NewTask, State
from hive.store import TaskQuery, open_store
from hive.store.sqlite import SqliteStore
from hive.store.sqlite_database import APPLICATION_ID, Database, Row, Statements, Tx, connect, refuse_network
from hive.store.sqlite_library import has_wal_reset_bug, sqlite3
from tests.conftest import ROOT, missing_part

WRITER = """
import asyncio, sys, time
from pathlib import Path
from hive.clock import SystemClock
from hive.model import NewTask
from hive.store.sqlite import SqliteStore

async def main():
    path, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    store = await SqliteStore.open(path, clock=SystemClock(), boot_id="boot")
    print("open", flush=True)
    ends = time.monotonic() + seconds
    async def write(lane):
        number = 0
        while time.monotonic() < ends:
            number += 1
            await store.add([NewTask(title="t", key=f"{name}-{lane}-{number}")])
            print(f"{name}-{lane}-{number}", flush=True)
    await asyncio.gather(*[write(lane) for lane in range(4)])
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a queue may be made."""
    return tmp_path / "queue" / "hive.db"


# --- opening


def test_a_queue_is_made_with_its_directory_and_settings(path: Path) -> None:
    """Write-ahead log, full sync, foreign keys and the mark of a Hive file hold from the first moment."""
    with _database(path) as database:
        settings = {name: _pragma(database, name) for name in ("journal_mode", "synchronous", "foreign_keys")}
        assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert _pragma(database, "application_id") == APPLICATION_ID
        assert _pragma(database, "user_version") == 1
        assert _pragma(database, "busy_timeout") == 5000
        assert _pragma(database, "trusted_schema") == 0
        assert _pragma(database, "journal_size_limit") == 64 << 20


def test_the_settings_hold_on_every_later_connection(path: Path) -> None:
    """Settings that a file does not remember are made anew by each connection; readers cannot write."""
    _make(path)
    reader = connect(path, read_only=True)
    assert reader.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert reader.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO batch (name, created_at_ms) VALUES ('a', 1)")
    reader.close()
    with _database(path) as database:
        assert _pragma(database, "synchronous") == 2


def test_the_store_keeps_its_name(path: Path) -> None:
    """The name made with the store is twelve hex digits, and another store has another."""
    first = asyncio.run(_store_id(path))
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert asyncio.run(_store_id(path)) == first
    assert asyncio.run(_store_id(path.with_name("other.db"))) != first


def test_many_processes_may_make_the_queue_at_once(path: Path) -> None:
    """Whoever comes second finds the queue made: nobody fails, and all see the same store."""
    script = (
        "import asyncio, sys; from pathlib import Path; from hive.clock import SystemClock;"
        "from hive.store.sqlite import SqliteStore;"
        "s = asyncio.run(SqliteStore.open_inline(Path(sys.argv[1]), clock=SystemClock(), boot_id='b'));"
        "sys.stdin.read(); print(s.store_id)"
    )
    argv = [sys.executable, "-c", script, str(path)]
    processes = [
        subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    answers = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    assert len(answers) == 1


@pytest.mark.parametrize("url", ["postgresql://x", "hive.db", "sqlite://relative"])
async def test_a_url_of_something_else_is_refused(url: str) -> None:
    """Only sqlite:///PATH names a store."""
    with pytest.raises(UsageError) as caught:
        await open_store(url, clock=SystemClock(), boot_id="b")
    assert caught.value.code == "H303"


# --- refusing


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    """A queue that a newer Hive has migrated is not touched, not even by a byte."""
    _make(path)
    _tamper(path, "PRAGMA user_version=99")
    before = path.read_bytes()
    error = _refusal(path)
    assert (error.code, type(error)) == ("H302", StoreUnsupported)
    assert "99" in error.why
    assert path.read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(path: Path) -> None:
    """A SQLite file of another program is not taken for a queue, nor turned into write-ahead mode."""
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    before = path.read_bytes()
    error = _refusal(path)
    assert (error.code, type(error)) == ("H307", StoreUnsupported)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    """Garbage is not a queue; the fix says how to start anew without deleting it."""
    path.parent.mkdir()
    path.write_bytes(b"This is no database, it is a letter. " * 100)
    error = _refusal(path)
    assert (error.code, type(error)) == ("H306", StoreUnsupported)
    assert f"mv {path}" in error.fix
    assert path.read_bytes().startswith(b"This is no database")


def test_a_damaged_queue_says_so(path: Path) -> None:
    """A queue whose pages are damaged says so by name instead of answering nonsense."""
    _make(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(StoreUnsupported) as caught:
        asyncio.run(_store_id(path))
    assert caught.value.code == "H306"


def test_an_empty_file_becomes_a_queue(path: Path) -> None:
    """A file somebody made for it is used."""
    path.parent.mkdir()
    path.touch()
    _make(path)


def test_a_place_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    """A path that runs through a file names what is in the way."""
    (tmp_path / "file").write_text("")
    error = _refusal(tmp_path / "file" / "hive.db")
    assert (error.code, type(error)) == ("H305", StoreUnavailable)
    assert str(tmp_path / "file") in error.where


def test_a_read_only_file_system_cannot_be_written(path: Path) -> None:
    """A queue on a file system mounted read-only cannot be opened for work, and the error says why."""
    _make(path)
    with _read_only(path.parent):
        error = _refusal(path)
    assert (error.code, type(error)) == ("H305", StoreUnavailable)
    assert error.fix


def test_a_directory_is_no_queue(path: Path) -> None:
    """The name of a directory is refused like any path that cannot be written."""
    path.mkdir(parents=True)
    assert _refusal(path).code == "H305"


MOUNTS = """22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /home rw - {kind} server:/home rw
31 30 0:31 / /home/local\\040disk rw master:2 shared:4 - xfs /dev/sdb rw
32 22 0:32 / /homestead rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    """Where locks cannot be trusted there is no queue; the innermost mount counts."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(kind=kind))
    with pytest.raises(StoreUnsupported, match=kind) as caught:
        refuse_network(Path("/home/ada/.hive/hive.db"), mounts)
    assert caught.value.code == "H304"
    for fine in ("/home/local disk/hive.db", "/homestead/hive.db", "/var/hive.db"):
        refuse_network(Path(fine), mounts)


@pytest.mark.parametrize("kind", ["ext4", "overlay", "tmpfs", "btrfs"])
def test_a_local_file_system_is_fine(tmp_path: Path, kind: str) -> None:
    """Local disks, containers' layers and memory are accepted, and so is a system without a list of mounts."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(kind=kind))
    refuse_network(Path("/home/ada/.hive/hive.db"), mounts)
    refuse_network(Path("/home/ada/.hive/hive.db"), tmp_path / "nothing")


# --- what the schema refuses

WRONG = {
    "a state there is not": "UPDATE task SET state = 'sleeping'",
    "a phase there is not": "UPDATE task SET phase = 'dance'",
    "an end without a final state": "UPDATE task SET finished_at_ms = 1",
    "a final state without an end": "UPDATE task SET state = 'completed'",
    "a negative attempt": "UPDATE task SET attempt = -1",
    "parked without a moment": "UPDATE task SET parked = 1",
    "text for a number": "UPDATE task SET priority = 'high'",
    "a batch there is not": "UPDATE task SET batch_id = 4711",
    "no specification": "UPDATE task SET spec = NULL",
    "a second task with the key": "INSERT INTO task (batch_id, key, role, priority, spec, state, phase, created_at_ms) "
    "SELECT batch_id, key, role, priority, spec, state, phase, created_at_ms FROM task",
    "two open runs of a task": "INSERT INTO run (task_id, phase, attempt, round, shard, host, opened_at_ms) "
    "VALUES (1, 'apply', 1, 0, 's', 'h', 0), (1, 'apply', 1, 0, 's', 'h', 0)",
    "an end without an outcome": "INSERT INTO run (task_id, phase, attempt, round, shard, host, opened_at_ms, "
    "ended_at_ms) VALUES (1, 'apply', 1, 0, 's', 'h', 0, 1)",
    "a run of no task": "INSERT INTO run (task_id, phase, attempt, round, shard, host, opened_at_ms) "
    "VALUES (4711, 'apply', 1, 0, 's', 'h', 0)",
    "a second row of steering": "INSERT INTO steering (id) VALUES (2)",
    "an order there is not": "UPDATE steering SET stop = 'perhaps'",
    "no agents at all": "UPDATE steering SET agents = 0",
    "a negative count": "UPDATE counter SET n = -1",
    "a need of nothing": "INSERT INTO need (task_id, needs_id) VALUES (1, 4711)",
}


@pytest.mark.parametrize("statement", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_row_cannot_be_written(path: Path, statement: str) -> None:
    """Types, states and references are checked by the database itself, whatever the code says."""
    store = await SqliteStore.open_inline(path, clock=SystemClock(), boot_id="b")
    await store.add([NewTask(title="a", key="a")])
    await store.close()
    with _database(path) as database, pytest.raises(sqlite3.IntegrityError):
        database.connection.execute(statement)


async def test_a_write_the_schema_refuses_is_the_callers_fault(path: Path) -> None:
    """A wrong value is refused for good: to try again, as with a store that is busy, would never help."""
    for opening in (SqliteStore.open, SqliteStore.open_inline):
        store = await opening(path, clock=SystemClock(), boot_id="b")
        with pytest.raises(StoreError) as caught:
            await store.add([NewTask(title="a", priority="high")])  # type: ignore[arg-type]
        assert (caught.value.code, isinstance(caught.value, StoreUnavailable)) == ("H309", False)
        assert await store.tasks(TaskQuery()) == []
        await store.close()


# --- transactions


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    """An error in the middle leaves nothing behind, and the next transaction works."""
    with _database(path) as database:

        def half(tx: object) -> None:
            database.connection.execute("INSERT INTO batch (name, created_at_ms) VALUES ('half', 1)")
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="in the middle"):
            database.write(half)
        assert database.read(lambda tx: tx.one("batch_id", {"name": "half"})) is None
        assert database.write(lambda tx: tx.run("batch_add", {"name": "whole", "now_ms": 1})) == 1


def test_a_read_sees_one_moment(path: Path) -> None:
    """What is committed while a read is under way is not seen by it."""
    with _database(path) as one, _database(path) as other:

        def look(tx: Tx) -> tuple[list[Row], list[Row]]:
            before = tx.all("batch_id", {"name": "new"})
            other.write(lambda tx: tx.run("batch_add", {"name": "new", "now_ms": 1}))
            return before, tx.all("batch_id", {"name": "new"})

        assert one.read(look) == ([], [])
        assert one.read(lambda tx: tx.one("batch_id", {"name": "new"})) is not None


def test_a_transaction_reads_the_clock_once(path: Path) -> None:
    """All that one transaction writes carries the same moment."""
    clock = ManualClock(now_ms=5_000)
    with _database(path, clock) as database:

        def twice(tx: Tx) -> tuple[int, int]:
            first = tx.now_ms
            clock.advance(1.0)
            return first, tx.now_ms

        assert database.write(twice) == (5_000, 5_000)


def test_closing_twice_is_harmless(path: Path) -> None:
    """A closed connection can be closed again."""
    database = Database(path, clock=SystemClock(), boot_id="b")
    database.close()
    database.close()


def test_every_statement_stands_in_a_file_of_its_own_and_is_used() -> None:
    """No statement is unused, and none is missing."""
    code = "".join(file.read_text() for file in (ROOT / "hive" / "store").glob("sqlite_*.py"))
    for file in (ROOT / "hive" / "store" / "sqlite").glob("*.sql"):
        assert f'"{file.stem}"' in code, f"{file.name} is used by nobody"
        assert ";" in Statements()[file.stem] or file.stem.endswith("_columns")


# --- several processes


def test_two_processes_write_side_by_side(path: Path) -> None:
    """Two hammering writers never see the database busy, and both get their share."""
    writers = [_writer(path, name, 1.5) for name in ("a", "b")]
    acknowledged = [writer.communicate()[0].split()[1:] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(_keys(path)) == {key for keys in acknowledged for key in keys}
    fewer, more = sorted(len(keys) for keys in acknowledged)
    assert fewer * 5 > more, f"one writer starved: {fewer} against {more}"


def test_a_killed_writer_loses_nothing_it_acknowledged(path: Path) -> None:
    """After a kill -9 under load every acknowledged write is there, and the queue is sound."""
    for name in ("a", "b", "c"):
        writer = _writer(path, name, 60.0)
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(30)][1:]
        writer.kill()
        rest = writer.communicate()[0]
        acknowledged += rest.split("\n")[:-1]
        assert set(filter(None, acknowledged)) <= set(_keys(path))
    with _database(path) as database:
        assert _pragma(database, "integrity_check") == "ok"
        assert not database.connection.execute("PRAGMA foreign_key_check").fetchall()
    assert asyncio.run(_count(path)) == len(_keys(path))


# --- the rule of one library and no open()


def test_nobody_opens_the_database_file() -> None:
    """No code of the package opens a file by a name that could be the database's: POSIX would drop SQLite's locks."""
    assert [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for file in (ROOT / "hive").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and _opens(node) and _names_a_database(node)
    ] == []


def test_the_rule_finds_what_it_is_for() -> None:
    """The search above sees each way of opening the database file, and leaves connections alone."""
    wrong = ["open(self.db_path)", "database.read_bytes()", "os.open(settings.db, 0)", "shutil.copy(db, other)"]
    fine = ["sqlite3.connect(path)", "open_store(settings.db)", "path.open('rb')", "aiosqlite.connect(db)"]
    for text, expected in [*((one, True) for one in wrong), *((one, False) for one in fine)]:
        [call] = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        assert (_opens(call) and _names_a_database(call)) is expected, text


def test_sqlite_is_chosen_in_one_place() -> None:
    """Only one module imports a SQLite library; two of them in one process would not see each other's locks."""
    for file in (ROOT / "hive").rglob("*.py"):
        if file.name == "sqlite_library.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            source = node.module if isinstance(node, ast.ImportFrom) else ""
            assert not {"sqlite3", "pysqlite3"} & {*names, source}, file


def test_aiosqlite_uses_the_chosen_library() -> None:
    """Readers and the writer of a process run on the same library."""
    import aiosqlite.core

    assert vars(aiosqlite.core)["sqlite3"].connect is sqlite3.connect


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_versions_with_the_bug_are_known(*, version: tuple[int, int, int], affected: bool) -> None:
    """The write-ahead-log reset bug is known by version, with the releases it was mended in."""
    assert has_wal_reset_bug(version) is affected


# --- helpers


@contextmanager
def _database(path: Path, clock: ManualClock | None = None) -> Iterator[Database]:
    database = Database(path, clock=clock or SystemClock(), boot_id="b")
    yield database
    database.close()


def _make(path: Path) -> None:
    with _database(path):
        pass


def _pragma(database: Database, name: str) -> object:
    return database.connection.execute(f"PRAGMA {name}").fetchone()[0]


def _tamper(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.close()


def _refusal(path: Path) -> HiveError:
    with pytest.raises(StoreError) as caught:
        Database(path, clock=SystemClock(), boot_id="b")
    return caught.value


async def _store_id(path: Path) -> str:
    store = await SqliteStore.open_inline(path, clock=SystemClock(), boot_id="b")
    await store.close()
    return store.store_id


async def _count(path: Path) -> int:
    store = await SqliteStore.open_inline(path, clock=SystemClock(), boot_id="b")
    counts = await store.counts()
    await store.close()
    return counts.by_state[State.QUEUED]


def _keys(path: Path) -> list[str]:
    connection = connect(path, read_only=True)
    keys = [row[0] for row in connection.execute("SELECT key FROM task")]
    connection.close()
    return keys


def _writer(path: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(path), name, str(seconds)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@contextmanager
def _read_only(directory: Path) -> Iterator[None]:
    """Mount a directory onto itself read-only, which stops even root."""
    if os.geteuid() != 0:
        missing_part("only root can mount a directory read-only")
    if subprocess.run(["mount", "--bind", directory, directory], check=False, capture_output=True).returncode:
        missing_part("this container may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


_OPENERS = {"open", "read_bytes", "write_bytes", "read_text", "write_text", "copy", "copyfile", "copy2", "fdopen"}


def _opens(call: ast.Call) -> bool:
    function = call.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return name in _OPENERS


def _names_a_database(call: ast.Call) -> bool:
    """Return whether the file that a call opens is named like a database: by the object or by an argument."""
    parts: list[ast.AST] = list(call.args[:1])
    if isinstance(call.func, ast.Attribute):
        parts.append(call.func.value)
    names = {
        node.id if isinstance(node, ast.Name) else node.attr
        for part in parts
        for node in ast.walk(part)
        if isinstance(node, (ast.Name, ast.Attribute))
    }
    words = {word for name in names for word in name.lower().split("_")}
    return bool(words & {"db", "database"})
