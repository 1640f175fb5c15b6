"""The GGUF container, whatever is in it: metadata, tensor descriptions, and where the data is.

Layout (little-endian; source: ggml, ``docs/gguf.md``, version 3): magic · u32 version · u64 tensors · u64 keys · keys
(name, u32 type, value) · tensors (name, u32 rank, u64 sizes fastest first, u32 type, u64 offset) · padding · data.
The ``gguf`` package (0.19) reads this too, but makes arrays of every field and believes the counts: sixty bytes that
claim an array of 2^33 elements keep its reader busy without end. Here nothing is believed before it is checked against
the file's size, and a value is made only once its bytes are known to be there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whisq.errors import FormatError
from whisq.formats.cursor import DAMAGED, INCOMPLETE, Cursor
from whisq.source_file import SourceFile

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32

Kind = Literal["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"]
_KINDS: tuple[Kind, ...] = (
    "u8",
    "i8",
    "u16",
    "i16",
    "u32",
    "i32",
    "f32",
    "bool",
    "string",
    "array",
    "u64",
    "i64",
    "f64",
)
_CODES: dict[Kind, str] = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "B", "u64": "Q",
    "i64": "q", "f64": "d",
}  # fmt: skip
_LEAST_BYTES = {kind: struct.calcsize(f"<{code}") for kind, code in _CODES.items()} | {
    "string": 8,
    "array": 12,
}

# Far above any model's, far below what hurts: Whisper's largest has 1300 tensors, 60 keys, 51866 tokens.
_MOST_TENSORS = 1 << 16
_MOST_KEYS = 1 << 14
_MOST_ELEMENTS = 1 << 20
_MOST_METADATA_BYTES = 1 << 27
_LONGEST_NAME = 1 << 10
_MOST_DIMENSIONS = 4
_LARGEST_ALIGNMENT = 1 << 16


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor's description: ggml sizes (fastest first), ggml type number, offset in the file in bytes."""

    name: str
    sizes: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True, slots=True)
class Container:
    """What a GGUF file says of itself. Arrays in ``metadata`` are tuples; strings of arrays stay bytes."""

    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]
    alignment: int
    data_offset: int


class _Cursor(Cursor):
    """Reads metadata and descriptions, and never more of them than ``_MOST_METADATA_BYTES``."""

    def __init__(self, file: SourceFile) -> None:
        super().__init__(file)
        self.end = min(self.end, _MOST_METADATA_BYTES)

    def too_short(self, size: int, what: str) -> FormatError:
        if self.end == self.file.size_bytes:
            return super().too_short(size, what)
        return FormatError(f"{self.path}: metadata of more than {_MOST_METADATA_BYTES} bytes, in {what}", hint=DAMAGED)

    def number(self, kind: Kind, what: str) -> Any:
        return self.unpack(_CODES[kind], what)[0]

    def count(self, most: int, what: str) -> int:
        value = self.integer("Q", what)
        if value > most:
            raise FormatError(f"{self.path}: {what} claims {value}, at most {most} expected", hint=DAMAGED)
        return value

    def text(self, what: str) -> str:
        raw = bytes(self.take(self.integer("Q", what), what))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{self.path}: {what} is not UTF-8: {error.reason} at byte {error.start}", hint=DAMAGED
            ) from None


def read_container(file: SourceFile) -> Container:
    """Return what a GGUF file describes; no tensor data is read.

    Raises ``FormatError`` for another magic or version, counts that cannot be, nested arrays, text that is not UTF-8,
    duplicate names, and offsets that are unaligned, overlap, or reach beyond the file's end.
    """
    cursor = _Cursor(file)
    magic = bytes(cursor.take(4, "the magic number"))
    if magic != MAGIC:
        raise FormatError(f"{file.path}: begins with {magic!r}, expected {MAGIC!r}", hint="name a GGUF file")
    version = cursor.integer("I", "the version")
    if version not in (2, 3):
        big_endian = version in (2 << 24, 3 << 24)
        raise FormatError(
            f"{file.path}: GGUF version {version}, expected 2 or 3",
            hint="the file is big-endian: convert it for this machine" if big_endian else "convert the model again",
        )
    n_tensors = cursor.count(_MOST_TENSORS, "the number of tensors")
    n_keys = cursor.count(_MOST_KEYS, "the number of metadata keys")
    metadata: dict[str, Any] = {}
    for number in range(n_keys):
        name = cursor.text(f"the name of key {number}")
        if name in metadata:
            raise FormatError(f"{file.path}: key {name} occurs twice", hint=DAMAGED)
        metadata[name] = _value(cursor, _kind(cursor, f"key {name}"), f"key {name}")
    alignment = _alignment(file.path, metadata)
    described = [_tensor(cursor, number) for number in range(n_tensors)]
    data_offset = _aligned(cursor.offset, alignment)
    tensors = tuple(
        StoredTensor(t.name, t.sizes, t.type, data_offset + _checked_offset(file.path, t, alignment)) for t in described
    )
    _check_names(file.path, tensors)
    return Container(metadata, tensors, alignment, data_offset)


def check_extents(path: Path, tensors: Sequence[tuple[StoredTensor, int]], size_bytes: int) -> None:
    """Check that tensors, given with their size in bytes, lie apart and within a file of ``size_bytes``.

    Raises ``FormatError``.
    """
    end, previous = 0, ""
    for tensor, size in sorted(tensors, key=lambda pair: pair[0].offset):
        if tensor.offset + size > size_bytes:
            raise FormatError(
                f"{path}: truncated in the data of tensor {tensor.name}: it ends at {tensor.offset + size}, the file"
                f" has {size_bytes} bytes",
                hint=INCOMPLETE,
            )
        if tensor.offset < end:
            raise FormatError(
                f"{path}: the data of tensors {previous} and {tensor.name} overlap at offset {tensor.offset}",
                hint=DAMAGED,
            )
        end, previous = tensor.offset + size, tensor.name


def _kind(cursor: _Cursor, what: str) -> Kind:
    number = cursor.integer("I", what)
    if number >= len(_KINDS):
        raise FormatError(f"{cursor.path}: {what} has value type {number}, expected 0 to 12", hint=DAMAGED)
    return _KINDS[number]


def _value(cursor: _Cursor, kind: Kind, what: str) -> Any:
    if kind == "string":
        return cursor.text(what)
    if kind == "array":
        return _array(cursor, what)
    value = cursor.number(kind, what)
    return bool(value) if kind == "bool" else value


def _array(cursor: _Cursor, what: str) -> tuple[Any, ...]:
    kind = _kind(cursor, f"the array {what}")
    if kind == "array":
        raise FormatError(f"{cursor.path}: {what} is an array of arrays, which no Whisper file has", hint=DAMAGED)
    count = cursor.count(_MOST_ELEMENTS, f"the length of {what}")
    if count * _LEAST_BYTES[kind] > cursor.file.size_bytes - cursor.offset:
        raise FormatError(
            f"{cursor.path}: truncated in {what}: {count} elements do not fit into the bytes that are left",
            hint=INCOMPLETE,
        )
    if kind == "string":
        return tuple(cursor.strings(count, "Q", lambda number: f"element {number} of {what}"))
    values = cursor.unpack(f"{count}{_CODES[kind]}", what)
    return tuple(bool(value) for value in values) if kind == "bool" else values


def _alignment(path: Path, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(value, int) or not 1 <= value <= _LARGEST_ALIGNMENT or value & (value - 1):
        raise FormatError(f"{path}: general.alignment is {value!r}, expected a power of two", hint=DAMAGED)
    return value


def _tensor(cursor: _Cursor, number: int) -> StoredTensor:
    what = f"the description of tensor {number + 1}"
    length = cursor.integer("Q", what)
    if not 1 <= length <= _LONGEST_NAME:
        raise FormatError(f"{cursor.path}: {what} claims a name of {length} bytes", hint=DAMAGED)
    name = bytes(cursor.take(length, what)).decode("utf-8", "backslashreplace")
    rank = cursor.integer("I", what)
    if not 1 <= rank <= _MOST_DIMENSIONS:
        raise FormatError(f"{cursor.path}: tensor {name} has {rank} dimensions, expected 1 to 4", hint=DAMAGED)
    sizes = cursor.unpack(f"{rank}Q", what)
    return StoredTensor(name, sizes, cursor.integer("I", what), cursor.integer("Q", what))


def _checked_offset(path: Path, tensor: StoredTensor, alignment: int) -> int:
    if tensor.offset % alignment:
        raise FormatError(
            f"{path}: tensor {tensor.name} is at offset {tensor.offset}, not a multiple of {alignment}",
            hint=DAMAGED,
        )
    return tensor.offset


def _check_names(path: Path, tensors: Sequence[StoredTensor]) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise FormatError(f"{path}: tensor {tensor.name} occurs twice", hint=DAMAGED)
        seen.add(tensor.name)


def _aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    return -(-offset // alignment) * alignment


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value to be written, with the type that readers expect it in; a sequence becomes an array."""

    kind: Kind
    value: Any


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor to be written: ggml sizes (fastest first), ggml type number, bytes of its data."""

    name: str
    sizes: tuple[int, ...]
    type: int
    size_bytes: int


def encode(metadata: Mapping[str, Value], tensors: Sequence[Described]) -> tuple[bytes, tuple[int, ...], int]:
    """Return the bytes of everything before the data, each tensor's offset in the file, and the file's size."""
    parts = [MAGIC, struct.pack("<I2Q", VERSION, len(tensors), len(metadata))]
    for name, value in metadata.items():
        parts += [_string(name), _encode_value(value)]
    offsets, offset = [], 0
    for tensor in tensors:
        offsets.append(offset)
        rank = len(tensor.sizes)
        parts += [_string(tensor.name), struct.pack(f"<I{rank}QIQ", rank, *tensor.sizes, tensor.type, offset)]
        offset = _aligned(offset + tensor.size_bytes)
    head = b"".join(parts)
    head += bytes(_aligned(len(head)) - len(head))
    return head, tuple(len(head) + offset for offset in offsets), len(head) + offset


def _string(text: str | bytes) -> bytes:
    # A file's name, or a name in a source's JSON, may be no text at all.
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _encode_value(value: Value) -> bytes:
    number = _KINDS.index(value.kind)
    if not isinstance(value.value, list | tuple):
        return struct.pack("<I", number) + _encode_one(value.kind, value.value)
    head = struct.pack("<2IQ", _KINDS.index("array"), number, len(value.value))
    if value.kind == "string":
        return head + b"".join([_string(text) for text in value.value])
    return head + struct.pack(f"<{len(value.value)}{_CODES[value.kind]}", *value.value)


def _encode_one(kind: Kind, value: Any) -> bytes:
    return _string(value) if kind == "string" else struct.pack(f"<{_CODES[kind]}", value)
