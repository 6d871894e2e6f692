from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.api import SyncHive, open_sync
from hive.cli.selector import parse, select
from hive.clock import ManualClock
from hive.errors import UsageError
from hive.model import FINAL, NewTask, State, Task
from hive.store import Cancel
from tests.cli.conftest import Seed, Zoo, done, failed

NOW_MS = 1_800_000_000_000 + 3_600_000


def ids(queue: SyncHive, *names: str, filters: tuple[str, ...] = (), limit: int | None = None) -> list[int]:
    return [task.id for task in select(queue, parse(names, filters, NOW_MS), limit=limit)]


def refused(*names: str, filters: tuple[str, ...] = ()) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(names, filters, NOW_MS)
    return caught.value


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("3", lambda zoo: [zoo.needs_you]),
        ("2..4", lambda _: [2, 3, 4]),
        ("7..", lambda _: [7, 8]),
        ("40..50", lambda _: []),
        ("@failed", lambda zoo: [zoo.failed]),
        ("@needs_you", lambda zoo: [zoo.needs_you]),
        ("@in_progress", lambda zoo: [zoo.in_progress]),
        ("@blocked", lambda zoo: [zoo.blocked]),
        ("@held", lambda zoo: [zoo.held]),
        ("@all", lambda zoo: list(zoo.all)),
        ("@unfinished", lambda zoo: [zoo.needs_you, zoo.in_progress, zoo.blocked, zoo.queued, zoo.held]),
        ("batch:pathlib", lambda zoo: [zoo.completed, zoo.failed]),
        ("batch:none", lambda _: []),
        ("tag:api", lambda zoo: [zoo.completed]),
        ("ftp", lambda zoo: [zoo.failed]),
        ("pathlib/ftp", lambda zoo: [zoo.failed]),
        ("key:work", lambda zoo: [zoo.in_progress]),
        ("reason:same_failure", lambda zoo: [zoo.needs_you]),
    ],
)
def test_a_selector_means_its_tasks(zoo: Zoo, queue: SyncHive, name: str, wanted: Callable[[Zoo], list[int]]) -> None:
    """Each form of selector selects exactly the tasks it names."""
    assert ids(queue, name) == wanted(zoo)


def test_a_failure_group_is_a_selector(zoo: Zoo, queue: SyncHive) -> None:
    """`group:G` selects the failures that are alike."""
    task = queue.task(zoo.failed)
    assert task is not None
    assert task.failure is not None
    assert ids(queue, f"group:{task.failure.group}") == [zoo.failed]


def test_several_selectors_are_a_union_and_a_filter_narrows_it(zoo: Zoo, queue: SyncHive) -> None:
    """Names add up, each task once and by id; a filter holds for all of them."""
    assert ids(queue, "@failed", "2", "1", "batch:pathlib") == [1, 2]
    assert ids(queue, "@failed", "1", filters=("state:completed",)) == [1]
    assert ids(queue, filters=("state:completed,failed batch:pathlib",)) == [1, 2]
    assert ids(queue, filters=("state:completed", "state:failed")) == []
    assert ids(queue, filters=("cost>0.6",)) == [zoo.needs_you]
    assert ids(queue, filters=("cost>=$0.5 cost<1",)) == [zoo.failed]
    assert ids(queue, filters=("priority=3",)) == [zoo.held]


def test_text_is_looked_for_in_title_key_and_prompt(zoo: Zoo, queue: SyncHive) -> None:
    """Words of a filter that are no field are text, in quotes also with blanks, upper and lower case alike."""
    assert ids(queue, filters=('"CONVERT F"',)) == [zoo.failed]
    assert ids(queue, filters=("os.path convert",)) == [zoo.completed, zoo.failed]
    assert ids(queue, filters=('"convert" "upload"',)) == [zoo.needs_you]
    assert ids(queue, filters=('key:"upload"',)) == [zoo.needs_you]


def test_age_counts_from_when_a_task_was_added(tmp_path: Path) -> None:
    """`age<1h` compares with the moment the command line was read."""
    clock = ManualClock(now_ms=NOW_MS - 7_200_000)
    seed = Seed(tmp_path, clock)
    seed.add(NewTask("old"))
    clock.advance(7_000)
    seed.add(NewTask("young"))
    with open_sync(seed.url) as queue:
        assert ids(queue, filters=("age<1h",)) == [2]
        assert ids(queue, filters=("age>1h",)) == [1]


def test_what_was_typed_by_name_must_exist(zoo: Zoo, queue: SyncHive) -> None:
    """An id or key that nobody has is an error; a state, batch or range without tasks is just empty."""
    for name, meant in (("99", "hive ls"), ("0", "hive ls"), ("9" * 30, "hive ls"), ("failed", "`@failed`")):
        with pytest.raises(UsageError) as caught:
            ids(queue, name)
        assert caught.value.code == "H130"
        assert meant in caught.value.fix
    assert ids(queue, "@waiting", "batch:x", "50..60") == []


@pytest.mark.parametrize(
    ("term", "fix"),
    [
        ("@faild", "`@failed`"),
        ("@", "states are"),
        ("state:faild", "`failed`"),
        ("9..2", "write 2..9"),
        ("batch:", "write batch:VALUE"),
        ("", "use ID"),
        ("cost>much", "write cost>2"),
        ("age<soon", "write age<1h"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_was_meant(term: str, fix: str) -> None:
    """A selector that makes no sense exits with 2 and says how it is written."""
    error = refused(term)
    assert (error.code, error.exit_code) == ("H131", 2)
    assert fix in error.fix


def test_a_field_that_does_not_exist_is_refused_in_a_filter() -> None:
    """A misspelt field is not silently taken for text."""
    assert refused(filters=("stat:failed",)).fix == "did you mean `state`?"
    assert '"http:x"' in refused(filters=("http:x",)).fix


def test_a_limit_takes_the_first_of_the_order(zoo: Zoo, queue: SyncHive) -> None:
    """`limit` counts after the filter, from the side the order begins with."""
    parts = parse((), ("state:failed,completed,queued",), NOW_MS)
    assert [task.id for task in select(queue, parts, limit=2)] == [1, 2]
    assert [task.id for task in select(queue, parts, limit=2, newest_first=True)] == [8, 7]


def test_more_tasks_than_a_page_are_all_found(tmp_path: Path, seed: Seed) -> None:
    """Selecting goes on until the store has no more, in both directions, with the filter not known to the store."""
    seed.add(*(NewTask(f"t{number}", priority=number % 2) for number in range(1203)))
    with open_sync(seed.url) as queue:
        assert len(ids(queue)) == 1203
        assert ids(queue, "600..1201") == list(range(600, 1202))
        odd = [task.id for task in select(queue, parse((), ("priority=1",), NOW_MS), newest_first=True)]
        assert odd == list(range(1202, 0, -2))
        newest = select(queue, parse(("10..1100",), (), NOW_MS), newest_first=True, limit=3)
        assert [task.id for task in newest] == [1100, 1099, 1098]


@pytest.fixture(scope="module")
def crowd() -> Iterator[SyncHive]:
    """A queue with forty tasks of many kinds."""
    with tempfile.TemporaryDirectory() as directory:
        seed = Seed(Path(directory), ManualClock())
        for number in range(20):
            batch, tags = f"b{number % 3}", (f"t{number % 4}", "x") if number % 2 else ()
            seed.add(NewTask(f"Title {number}", prompt=f"Do {number % 5}", key=f"k/{number}", batch=batch, tags=tags))
        for claimed in seed.claim()[:12]:
            seed.end(claimed.run_id, done() if claimed.task_id % 2 else failed(f"kind {claimed.task_id % 4}"))
        seed.add(*(NewTask(f"later {number}", batch=f"b{number % 3}", hold=number % 3 == 0) for number in range(20)))
        with open_sync(seed.url, clock=ManualClock()) as queue:
            queue.control(Cancel((seed.add(NewTask("gone"))[0],)))
            yield queue


TERMS: dict[str, Callable[[Task], bool]] = {
    "@failed": lambda task: task.state is State.FAILED,
    "state:queued,completed": lambda task: task.state in {State.QUEUED, State.COMPLETED},
    "@unfinished": lambda task: task.state not in FINAL,
    "@held": lambda task: task.held,
    "batch:b1": lambda task: task.spec.batch == "b1",
    "batch:b2": lambda task: task.spec.batch == "b2",
    "tag:t1": lambda task: "t1" in task.spec.tags,
    "tag:x": lambda task: "x" in task.spec.tags,
    "3..25": lambda task: 3 <= task.id <= 25,
    "7": lambda task: task.id == 7,
    "30..": lambda task: task.id >= 30,
    '"TITLE 1"': lambda task: "title 1" in f"{task.spec.title}".lower(),
    '"do 2"': lambda task: "do 2" in task.spec.prompt.lower(),
    "cost>0.3": lambda task: task.usage.cost_usd > 0.3,
    "runs=0": lambda task: task.runs == 0,
    "phase:apply": lambda _: True,
    "role:tester": lambda _: False,
}
NAMES = st.sampled_from([term for term in TERMS if '"' not in term and ">" not in term and "=" not in term])


@given(
    names=st.lists(NAMES, max_size=3), filters=st.lists(st.lists(st.sampled_from(list(TERMS)), max_size=4), max_size=2)
)
def test_selecting_equals_looking_at_every_task(crowd: SyncHive, names: list[str], filters: list[list[str]]) -> None:
    """Whatever the store narrows, the answer is that of checking every task against every term."""
    found = ids(crowd, *names, filters=tuple(" ".join(terms) for terms in filters))
    wanted = [
        task.id
        for task in crowd.tasks()
        if (not names or any(TERMS[name](task) for name in names))
        and all(TERMS[term](task) for terms in filters for term in terms)
    ]
    assert found == wanted
