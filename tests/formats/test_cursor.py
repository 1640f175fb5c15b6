"""Reading front to back: what is there, and the error for each way in which it is not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from whisq.errors import FormatError
from whisq.formats.cursor import Cursor, first_bytes
from whisq.source_file import SourceFile

_WORDS = [b"a", b"", b"longer than that"]


def cursor_over(path: Path, content: bytes) -> Cursor:
    path.write_bytes(content)
    return Cursor(SourceFile(path))


def strings(code: str) -> bytes:
    return b"".join(struct.pack(f"<{code}", len(word)) + word for word in _WORDS)


def test_reads_in_order(tmp_path: Path) -> None:
    cursor = cursor_over(tmp_path / "a", struct.pack("<HiB", 7, -3, 1) + b"rest")
    assert cursor.integer("H", "x") == 7
    assert cursor.unpack("iB", "x") == (-3, 1)
    assert cursor.left == 4
    assert bytes(cursor.take(4, "x")) == b"rest"
    assert cursor.left == 0


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    cursor = cursor_over(tmp_path / "a", b"abc")
    cursor.take(1, "x")
    with pytest.raises(FormatError, match="a: truncated in the header: 4 bytes expected at offset 1, 2 left"):
        cursor.integer("I", "the header")


@pytest.mark.parametrize("code", ["H", "I", "Q"])
def test_strings_are_cut_off_nowhere_unnoticed(tmp_path: Path, code: str) -> None:
    content = strings(code)
    read = cursor_over(tmp_path / "a", content + b"!")
    assert read.strings(3, code, lambda number: f"word {number}") == _WORDS
    assert read.left == 1
    for size in range(1, len(content)):
        with pytest.raises(FormatError, match=r"truncated in word [012]"):
            cursor_over(tmp_path / "b", content[:size]).strings(3, code, lambda number: f"word {number}")


def test_a_string_may_be_as_long_as_the_longest(tmp_path: Path) -> None:
    longest = max(map(len, _WORDS))
    assert cursor_over(tmp_path / "a", strings("I")).strings(3, "I", str, longest) == _WORDS


def test_a_string_that_is_too_long_is_refused_whether_or_not_it_is_there(tmp_path: Path) -> None:
    for content in (strings("I"), struct.pack("<I", 1 << 31)):
        with pytest.raises(FormatError, match=r"word [02] claims a length of \d+ bytes, at most 8 expected"):
            cursor_over(tmp_path / "a", content).strings(3, "I", lambda number: f"word {number}", 8)


def test_the_first_bytes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"GGUF and more")
    (tmp_path / "b").write_bytes(b"GG")
    assert first_bytes(tmp_path / "a", 4) == b"GGUF"
    assert first_bytes(tmp_path / "b", 4) == b"GG"
    assert first_bytes(tmp_path / "absent", 4) is None
    assert first_bytes(tmp_path, 4) is None
