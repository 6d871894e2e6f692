from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hive.agent.output import LineFramer, Tail, last_bytes, last_text, output_file, printable, size_bytes

CAP_BYTES = 8


def frame(chunks: list[bytes]) -> tuple[list[bytes], int]:
    framer = LineFramer(CAP_BYTES)
    lines = [line for chunk in chunks for line in framer.feed(chunk)]
    return lines + framer.flush(), framer.skipped


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b"0123456", b"\xff\x00"]), max_size=40), st.data())
def test_any_split_of_the_bytes_gives_the_same_lines(parts: list[bytes], data: st.DataObject) -> None:
    """Lines are those between newlines, without the ones above the cap, however the bytes arrive."""
    text = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    expected = text.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    short = [line for line in expected if len(line) <= CAP_BYTES]
    assert frame(chunks) == (short, len(expected) - len(short))


def test_a_line_above_the_cap_is_counted_and_the_next_one_kept() -> None:
    """What is skipped is exactly the long line."""
    assert frame([b"12345", b"6789", b"0\nok\n"]) == ([b"ok"], 1)


def test_five_megabytes_in_one_line_arrive_whole() -> None:
    """There is no limit of 64 KiB."""
    framer = LineFramer()
    chunk = b"x" * 65536
    assert [line for _ in range(80) for line in framer.feed(chunk)] == []
    assert framer.feed(b"\n") == [chunk * 80]


def test_tail_reads_only_what_is_new_and_starts_again_after_truncation(tmp_path: Path) -> None:
    """A file that became shorter is read from its start."""
    path = tmp_path / "out"
    path.write_bytes(b"one")
    tail = Tail(path)
    assert (tail.read(), tail.read()) == (b"one", b"")
    path.write_bytes(b"one, two")
    assert tail.read() == b", two"
    path.write_bytes(b"new")
    assert tail.read() == b"new"
    tail.close()
    tail.close()


def test_end_and_size_of_a_file(tmp_path: Path) -> None:
    """A deleted file is an empty one."""
    path = output_file(tmp_path / "7.1", "out")
    assert path.name == "7.1.out"
    assert (last_bytes(path), size_bytes(path)) == (b"", 0)
    path.write_bytes(b"0123456789")
    assert (last_bytes(path, 4), last_bytes(path, 40), size_bytes(path)) == (b"6789", b"0123456789", 10)


def test_text_for_people_has_no_escape_sequences(tmp_path: Path) -> None:
    """Colours, titles, bells and carriage returns go; newlines, tabs and letters stay."""
    path = tmp_path / "out"
    assert last_text(path) == ""
    path.write_bytes(b"\x1b[1;31mred\x1b[0m\x1b]0;title\x07\ta\x08\r\n\xc3\xa9\xff")
    assert last_text(path) == "red\ta\n\u00e9\ufffd"


def test_secrets_are_found_whole(tmp_path: Path) -> None:
    """A secret that contains another is no more readable than that one; one over several lines is one secret."""
    assert printable("x longsecret-more y", ["longsecret", "longsecret-more"]) == "x [redacted] y"
    assert printable("key: line one\r\nline two.", ["line one\r\nline two"]) == "key: [redacted]."
    assert printable("a short one", ["short"]) == "a short one"
