"""safetensors files: a JSON header that says where each array is, then the arrays.

The ``safetensors`` package validates the header (it is Rust, and strict) but hands out copies and no bf16, so the
offsets are read from the header here and the arrays stay in the file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from whisq.documents import json_value
from whisq.errors import FormatError
from whisq.formats.cursor import DOWNLOAD_AGAIN
from whisq.formats.stored import StoredArray, size_of
from whisq.formats.tokenizer_json import read_json
from whisq.model import Location
from whisq.source_file import SourceFile
from whisq.types import BF16, F16, F32

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_FLOATS = {"F32": (F32, 4), "F16": (F16, 2), "BF16": (BF16, 2), "F64": (F32, 8)}
"""How an element type is given, and its bytes; the others are not read."""
_MOST_HEADER_BYTES = 100_000_000


def read_arrays(file: SourceFile, number: int) -> dict[str, StoredArray]:
    """Return the arrays of one file by name; ``number`` is the file's among the model's.

    Raises ``FormatError`` for what the format forbids: a header that is not JSON, offsets that overlap, leave gaps or
    reach beyond the file, sizes that do not match shapes.
    """
    header = _header(file)
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            arrays[name] = _array(file.path, name, entry, 8 + _header_bytes(file), number)
    return arrays


def read_metadata(file: SourceFile) -> dict[str, Any]:
    """Return what one file's header says beside its arrays; raises ``FormatError``."""
    metadata = _header(file).get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def _header_bytes(file: SourceFile) -> int:
    if file.size_bytes < 8:
        raise FormatError(
            f"{file.path}: truncated: {file.size_bytes} bytes, a header has at least 8", hint=DOWNLOAD_AGAIN
        )
    length: int = struct.unpack("<Q", file.read(0, 8))[0]
    if length > min(file.size_bytes - 8, _MOST_HEADER_BYTES):
        raise FormatError(
            f"{file.path}: claims a header of {length} bytes, the file has {file.size_bytes}", hint=DOWNLOAD_AGAIN
        )
    return length


def _header(file: SourceFile) -> dict[str, Any]:
    length = _header_bytes(file)
    _validate(file)
    try:
        header = json_value(bytes(file.view[8 : 8 + length]).decode("utf-8"))
    except ValueError as error:
        raise FormatError(f"{file.path}: the header is not JSON: {error}", hint=DOWNLOAD_AGAIN) from None
    if not isinstance(header, dict):
        raise FormatError(f"{file.path}: the header is not a JSON object", hint=DOWNLOAD_AGAIN)
    return header


def _validate(file: SourceFile) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file.path, framework="numpy"):
            pass
    except (SafetensorError, ValueError, OSError) as error:
        raise FormatError(f"{file.path}: not a valid safetensors file: {error}", hint=DOWNLOAD_AGAIN) from None


def _array(path: Path, name: str, entry: Any, data: int, number: int) -> StoredArray:
    try:
        element, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        kind, width = _FLOATS.get(element, (None, 0))
        if kind is not None and end - begin != size_of(shape, width):
            raise FormatError(
                f"{path}: {name} of shape {list(shape)} has {end - begin} bytes, expected {size_of(shape, width)}",
                hint=DOWNLOAD_AGAIN,
            )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: the header's entry {name} is malformed: {error}", hint=DOWNLOAD_AGAIN) from None
    return StoredArray(name, kind, element.lower(), shape, Location(number, data + begin, end - begin))


def shards_of(folder: Path, index_name: str = INDEX) -> tuple[list[Path], dict[str, str]]:
    """Return the shards that an index names, in order, and for each array the shard that must hold it.

    Raises ``FormatError`` for an index that is malformed, points outside the folder, or names an absent shard.
    """
    index = folder / index_name
    document = read_json(index)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index}: has no weight_map", hint="the index is damaged: download it again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise FormatError(
                f"{index}: names the shard {name!r}",
                hint="put every shard beside its index, named without a folder",
            )
    names = list(dict.fromkeys(weight_map.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FormatError(
            f"{index}: names {len(names)} shards, {len(absent)} are not there: {', '.join(absent[:3])}",
            hint="download the missing shards into the same folder",
        )
    return [folder / name for name in names], weight_map
