"""GGUF metadata that are wrong: values of impossible types and lengths, text that is none, another tokenizer."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gguf_parts import ARRAY, I32, STRING, U32, Parts, refused, string
from whisq.errors import FormatError
from whisq.formats import open_model


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<2IQ", ARRAY, kind, count) + data


@pytest.mark.parametrize("kind", [13, 99, 0xFFFFFFFF])
def test_value_type_that_is_none(parts: Parts, tmp_path: Path, kind: int) -> None:
    parts.keys["extra"] = struct.pack("<I", kind)
    assert f"key extra has value type {kind}, expected 0 to 12" in refused(tmp_path, parts.content())


def test_arrays_in_arrays(parts: Parts, tmp_path: Path) -> None:
    """A reader that descends would take a level of the stack for each 12 bytes."""
    parts.keys["extra"] = struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 50_000
    assert "extra is an array of arrays" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("count", [(1 << 20) + 1, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [0, U32, 12, STRING])
def test_array_length_that_cannot_be(parts: Parts, tmp_path: Path, kind: int, count: int) -> None:
    parts.keys["extra"] = array(kind, count)
    assert f"the length of key extra claims {count}, at most" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("kind", [0, U32, 12, STRING])
def test_array_longer_than_the_file(parts: Parts, tmp_path: Path, kind: int) -> None:
    parts.keys["extra"] = array(kind, 1 << 20)
    parts.data = b""
    tracemalloc.start()
    try:
        assert "truncated in key extra" in refused(tmp_path, parts.content())
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [1 << 20, 1 << 62, (1 << 64) - 1])
def test_string_longer_than_the_file(parts: Parts, tmp_path: Path, length: int) -> None:
    parts.keys["extra"] = struct.pack("<IQ", STRING, length)
    assert f"truncated in key extra: {length} bytes expected" in refused(tmp_path, parts.content())
    parts.keys["extra"] = array(STRING, 2, string("a") + struct.pack("<Q", length))
    assert f"truncated in element 1 of key extra: {length} bytes expected" in refused(tmp_path, parts.content())


def test_metadata_of_gigabytes(tmp_path: Path) -> None:
    """A key of 4 GB, which is there, of nothing: it is refused before it is read."""
    path = tmp_path / "model.gguf"
    with path.open("wb") as stream:
        stream.write(b"GGUF" + struct.pack("<I2Q", 3, 0, 1) + string("a") + struct.pack("<IQ", STRING, 1 << 32))
        stream.truncate(5 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="metadata of more than"):
            open_model(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_key_that_is_not_utf8(parts: Parts, tmp_path: Path) -> None:
    content = parts.content().replace(b"stt.frontend.dither", b"stt.frontend.d\xff\xfe\xfd\xfcr")
    assert "the name of key" in refused(tmp_path, content)


def test_text_that_is_not_utf8(parts: Parts, tmp_path: Path) -> None:
    parts.keys["general.name"] = struct.pack("<I", STRING) + string(b"caf\xe9 noir")
    assert "key general.name is not UTF-8: invalid continuation byte at byte 3" in refused(tmp_path, parts.content())


def changed_tokens(parts: Parts, change: Callable[[list[bytes]], None], key: str = "tokenizer.ggml.tokens") -> None:
    raw = parts.keys[key]
    count = struct.unpack_from("<Q", raw, 8)[0]
    texts, at = [], 16
    for _ in range(count):
        size = struct.unpack_from("<Q", raw, at)[0]
        texts.append(raw[at + 8 : at + 8 + size])
        at += 8 + size
    change(texts)
    parts.keys[key] = array(STRING, len(texts), b"".join(map(string, texts)))


@pytest.mark.parametrize("key", ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"])
@pytest.mark.parametrize("token", [b"\xff", b"\xc3", b"ab\xe2\x82", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"])
def test_tokens_that_are_not_utf8(parts: Parts, tmp_path: Path, key: str, token: bytes) -> None:
    changed_tokens(parts, lambda texts: texts.__setitem__(5, token), key)
    assert f"element 5 of {key} is not UTF-8" in refused(tmp_path, parts.content())


def test_more_tokens_than_rows(parts: Parts, tmp_path: Path) -> None:
    changed_tokens(parts, lambda texts: texts.append(b"x"))
    assert "tokenizer.ggml.tokens has 301 tokens, expected 1 to 300" in refused(tmp_path, parts.content())


def test_no_tokens(parts: Parts, tmp_path: Path) -> None:
    del parts.keys["tokenizer.ggml.tokens"]
    assert "tokenizer.ggml.tokens has 0 tokens" in refused(tmp_path, parts.content())


def test_fewer_token_types_than_tokens(parts: Parts, tmp_path: Path) -> None:
    parts.keys["tokenizer.ggml.token_type"] = array(I32, 2, bytes(8))
    assert "token_type has 2 entries for 300 tokens" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("key", ["tokens", "token_type", "merges"])
def test_tokenizer_keys_that_are_no_arrays(parts: Parts, tmp_path: Path, key: str) -> None:
    parts.keys[f"tokenizer.ggml.{key}"] = struct.pack("<2I", U32, 7)
    assert f"tokenizer.ggml.{key} is not an array" in refused(tmp_path, parts.content())


def test_tokens_that_are_numbers(parts: Parts, tmp_path: Path) -> None:
    parts.keys["tokenizer.ggml.tokens"] = array(U32, 3, bytes(12))
    assert "tokenizer.ggml.tokens is not an array of strings" in refused(tmp_path, parts.content())


def test_truncated_at_every_byte_of_the_head(parts: Parts, tmp_path: Path) -> None:
    content = parts.content()
    head = len(content) - len(parts.data)
    for size in [*range(1, 400), *range(400, head, 23), *range(head - 300, head), *range(head, len(content), 4999)]:
        refused(tmp_path, content[:size])
