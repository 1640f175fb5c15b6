"""A GGUF taken apart and put together again by hand, so that a test can make any of it wrong."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import copy_model, write_bin
from tests.support.models import tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.formats.gguf_container import read_container
from whisq.source_file import SourceFile

STRING, ARRAY, U32, I32 = 8, 9, 4, 5


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


class Parts:
    """A whole GGUF taken apart: keys as raw bytes of their type and value, tensors as lists that a test changes."""

    def __init__(self, folder: Path) -> None:
        with open_model(write_bin(folder / "source.bin", tiny_weights())) as source:
            path = copy_model(source, folder / "whole.gguf", "gguf")
        content = path.read_bytes()
        file = SourceFile(path)
        described = read_container(file)
        self.keys = _raw_keys(content)
        base = described.data_offset
        self.tensors = [[t.name, list(t.sizes), t.type, t.offset - base] for t in described.tensors]
        self.data = content[base:]
        self.n_tensors: int | None = None
        self.n_keys: int | None = None
        self.version = 3
        file.close()

    def content(self) -> bytes:
        head = b"GGUF" + struct.pack("<I", self.version)
        head += struct.pack("<2Q", _or(self.n_tensors, len(self.tensors)), _or(self.n_keys, len(self.keys)))
        head += b"".join(string(name) + raw for name, raw in self.keys.items())
        for name, sizes, kind, offset in self.tensors:
            head += string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
        return head + bytes(-len(head) % 32) + self.data

    def tensor(self, name: str) -> list[Any]:
        return next(tensor for tensor in self.tensors if tensor[0] == name)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _raw_keys(content: bytes) -> dict[str, bytes]:
    """Cut the keys out of a file as bytes, with a reader of its own."""
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at = 24
    keys = {}

    def skip(kind: int, at: int) -> int:
        if kind == STRING:
            return at + 8 + struct.unpack_from("<Q", content, at)[0]
        if kind == ARRAY:
            inner, count = struct.unpack_from("<IQ", content, at)
            at += 12
            for _ in range(count):
                at = skip(inner, at)
            return at
        return at + widths[kind]

    for _ in range(struct.unpack_from("<Q", content, 16)[0]):
        end = skip(STRING, at)
        name = content[at + 8 : end].decode()
        at = skip(struct.unpack_from("<I", content, end)[0], end + 4)
        keys[name] = content[end:at]
    return keys


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert caught.value.hint
    assert "model.gguf" in str(caught.value)
    return str(caught.value)
