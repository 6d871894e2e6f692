from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe

import pytest

from hive.channel import Channel, Frame
from hive.model import RunId
from tests.conftest import ROOT

READER = """
import sys
from multiprocessing.connection import Connection
from hive.channel import Channel
channel = Channel(Connection(int(sys.argv[1])))
print("ready", flush=True)
while True:
    for frame in channel.receive():
        assert len(frame.run_ids) == 500
"""


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    """Return both ends of a pipe."""
    one, other = Pipe()
    ends = Channel(one), Channel(other)
    yield ends
    for end in (one, other):
        end.close()


def test_frames_arrive_whole_and_in_order(pair: tuple[Channel, Channel]) -> None:
    """What was sent is what is received, hints without ids included, in both directions."""
    ours, theirs = pair
    assert ours.send("run", _ids(3))
    assert ours.send("renew")
    assert theirs.send("ended", _ids(1))
    assert list(theirs.receive()) == [Frame("run", tuple(_ids(3))), Frame("renew")]
    assert list(ours.receive()) == [Frame("ended", tuple(_ids(1)))]


def test_ten_thousand_ids_go_through(pair: tuple[Channel, Channel]) -> None:
    """A long list is cut into frames that come out complete, and nothing is left after them."""
    ours, theirs = pair
    ids = [RunId(2**62 + number) for number in range(10_000)]
    received: list[RunId] = []
    for start in range(0, len(ids), 2_500):
        assert ours.send("run", ids[start : start + 2_500])
        received += [run_id for frame in theirs.receive() for run_id in frame.run_ids]
    assert received == ids
    assert list(theirs.receive()) == []


def test_nothing_there_is_no_frame(pair: tuple[Channel, Channel]) -> None:
    """Receiving never waits."""
    assert list(pair[1].receive()) == []


def test_a_reader_that_does_not_keep_up_is_told_of_and_never_waited_for(pair: tuple[Channel, Channel]) -> None:
    """A full pipe refuses, at once, and every frame it took before is whole."""
    ours, theirs = pair
    began_s = time.monotonic()
    sent = 0
    while ours.send("run", _ids(500)):
        sent += 1
    assert not ours.send("run", _ids(500))
    assert time.monotonic() - began_s < 5.0
    assert [len(frame.run_ids) for frame in theirs.receive()] == [500] * sent
    assert ours.send("run", _ids(500))
    assert list(theirs.receive()) == [Frame("run", tuple(_ids(500)))]


def test_a_reader_that_is_gone_is_told_of(pair: tuple[Channel, Channel]) -> None:
    """Sending to a closed end answers False and raises nothing."""
    ours, theirs = pair
    theirs.close()
    assert not ours.send("run", _ids(1))


def test_a_writer_that_is_gone_is_the_end(pair: tuple[Channel, Channel]) -> None:
    """After the last frame of a closed end comes the end of file."""
    ours, theirs = pair
    ours.send("run", _ids(1))
    ours.close()
    frames = theirs.receive()
    assert next(frames) == Frame("run", tuple(_ids(1)))
    with pytest.raises(EOFError):
        next(frames)


def test_an_end_closed_with_something_unread_is_the_end(pair: tuple[Channel, Channel]) -> None:
    """A reset connection reads as the end of file, too."""
    ours, theirs = pair
    theirs.send("ended", _ids(1))
    ours.close()
    with pytest.raises(EOFError):
        list(theirs.receive())


def test_the_successor_of_a_killed_reader_finds_whole_frames(pair: tuple[Channel, Channel]) -> None:
    """A reader killed at any moment leaves the pipe at the start of a frame for whoever reads there next."""
    ours, theirs = pair
    for _ in range(6):
        with _reader(theirs) as reader:
            for _ in range(300):
                ours.send("run", _ids(500))
            reader.kill()
        assert all(frame.run_ids == tuple(_ids(500)) for frame in theirs.receive())


@contextmanager
def _reader(end: Channel) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", READER, str(end.fileno())]
    with subprocess.Popen(argv, pass_fds=[end.fileno()], stdout=subprocess.PIPE, cwd=ROOT) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
        yield reader


def _ids(count: int) -> list[RunId]:
    return [RunId(10**12 + number) for number in range(count)]
