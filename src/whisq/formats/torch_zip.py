"""Arrays in a file that ``torch.save`` wrote, found without torch and without running anything of the pickle.

Such a file is a zip: ``*/data.pkl`` describes the objects, ``*/data/N`` are the raw storages, not compressed. The
pickle is read by ``pickle_machine``, and of its notes only those that describe tensors are understood. Source:
torch, ``torch/_utils.py`` (``_rebuild_tensor_v2``), ``torch/_tensor.py`` (``_rebuild_from_type_v2``).
"""

from __future__ import annotations

import io
import shlex
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whisq.errors import FormatError
from whisq.formats.cursor import DOWNLOAD_AGAIN
from whisq.formats.pickle_machine import Called, Named, is_size, read_pickle
from whisq.formats.state_names import is_whispers
from whisq.formats.stored import DOUBLE, StoredArray, extent_of, is_row_by_row, size_of
from whisq.model import Location
from whisq.source_file import FileBytes, SourceFile
from whisq.types import BF16, F16, F32, TensorType

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAGIC = b"PK\x03\x04"
"""A zip's first bytes."""
PICKLE_MAGIC = b"\x80"
"""The first byte of a bare pickle, which is not read but told from other files."""

_STORAGES: dict[str, tuple[str, int, TensorType | None]] = {
    "torch.FloatStorage": ("f32", 4, F32),
    "torch.HalfStorage": ("f16", 2, F16),
    "torch.BFloat16Storage": ("bf16", 2, BF16),
    "torch.DoubleStorage": (DOUBLE, 8, F32),
    "torch.LongStorage": ("i64", 8, None),
    "torch.IntStorage": ("i32", 4, None),
    "torch.ShortStorage": ("i16", 2, None),
    "torch.CharStorage": ("i8", 1, None),
    "torch.ByteStorage": ("u8", 1, None),
    "torch.BoolStorage": ("bool", 1, None),
}
_PLAIN = "torch._utils._rebuild_tensor_v2"
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_OF_CLASS, _OF_DTYPE = "torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_tensor_v3"
_TENSOR_CLASSES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_DESCRIBES = {_PLAIN, *_PARAMETERS, *_STORAGES, "torch.Size"}
"""All that a checkpoint of plain tensors names, dictionaries apart."""
_MOST_PICKLE_BYTES = 1 << 24
_MOST_ENTRIES = 1 << 16
_MOST_DIMENSIONS = 8
_DEEPEST = 3
"""Dictionaries in dictionaries, the one that was saved included: as deep as any trainer puts a model."""
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True, slots=True)
class Saved:
    """What ``torch.save`` was given: dictionaries and plain values, ``StoredArray`` for tensors, None for the rest.

    Objects of other classes are ``Called``; ``classes`` names these. Nothing of them is made.
    """

    value: Any
    classes: tuple[str, ...] = ()


def read_checkpoint(file: SourceFile, number: int) -> Saved:
    """Return what ``torch.save`` was given; ``number`` is the file's among the model's.

    Raises ``FormatError`` for another kind of file, a compressed or damaged one, and a pickle that asks for what acts.
    """
    if bytes(file.view[:4]) != MAGIC:
        legacy = bytes(file.view[:2]) in (b"\x80\x02", b"\x80\x03", b"\x80\x04")
        again = file.path.with_name(f"{file.path.stem}-again{file.path.suffix}")
        code = f"import torch; torch.save(torch.load({str(file.path)!r}, map_location='cpu'), {str(again)!r})"
        raise FormatError(
            f"{file.path}: "
            + ("a bare pickle, as torch before 1.6 wrote" if legacy else "not a file that torch.save wrote"),
            hint=f"save it again: python -c {shlex.quote(code)}" if legacy else "name a PyTorch checkpoint (.pt)",
        )
    entries = _entries(file)
    if entries and all(name.endswith(".npy") for name in entries):
        raise FormatError(
            f"{file.path}: is a numpy archive, as MLX keeps weights, not a file that torch.save wrote",
            hint="name the model that it was made from, as openai/whisper-small",
        )
    pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise FormatError(f"{file.path}: has {len(pickles)} entries named data.pkl, expected one", hint=DOWNLOAD_AGAIN)
    folder = pickles[0].removesuffix("data.pkl")
    begin, size = entries[pickles[0]]
    order = entries.get(f"{folder}byteorder")
    if order is not None and bytes(file.view[order[0] : order[0] + order[1]]) != b"little":
        raise FormatError(f"{file.path}: was saved on a big-endian machine", hint="save it again on this one")
    if size > _MOST_PICKLE_BYTES:
        raise FormatError(
            f"{file.path}: a pickle of {size} bytes, at most {_MOST_PICKLE_BYTES} expected", hint=DOWNLOAD_AGAIN
        )
    file.check(begin)
    found = read_pickle(bytes(file.view[begin : begin + size]), str(file.path), _DESCRIBES)
    built = _Builder(file, number, entries, folder).build(found.value)
    return Saved(
        built, tuple(name for name in found.classes if not name.startswith(("torch._", "builtins.", "__builtin__.")))
    )


def _entries(file: SourceFile) -> dict[str, tuple[int, int]]:
    """Return offset and size of every entry's bytes in the file."""
    try:
        with zipfile.ZipFile(_View(file.view)) as archive:
            listed = archive.infolist()
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        NotImplementedError,  # what zipfile raises for a version or a flag that it does not read
        EOFError,
        OSError,
        IndexError,
        OverflowError,
    ) as error:
        raise FormatError(f"{file.path}: not a whole zip file: {error}", hint=DOWNLOAD_AGAIN) from None
    if len(listed) > _MOST_ENTRIES:
        raise FormatError(f"{file.path}: a zip of {len(listed)} entries", hint=DOWNLOAD_AGAIN)
    entries = {}
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise FormatError(
                f"{file.path}: entry {entry.filename} is compressed or encrypted",
                hint="save it again with torch.save",
            )
        if entry.filename in entries:
            raise FormatError(f"{file.path}: entry {entry.filename} occurs twice", hint=DOWNLOAD_AGAIN)
        offset = _data_offset(file, entry)
        entries[entry.filename] = (offset, entry.file_size)
        # Torch writes 0 where it was told not to compute them.
        if entry.CRC and entry.file_size:
            file.expect(offset, offset + entry.file_size, entry.CRC, f"entry {entry.filename}")
    return entries


def _data_offset(file: SourceFile, entry: zipfile.ZipInfo) -> int:
    start = entry.header_offset
    if start < 0 or start + _LOCAL_HEADER.size > file.size_bytes:
        raise FormatError(f"{file.path}: entry {entry.filename} begins beyond the file's end", hint=DOWNLOAD_AGAIN)
    fields = _LOCAL_HEADER.unpack(file.read(start, start + _LOCAL_HEADER.size))
    offset = start + _LOCAL_HEADER.size + int(fields[9]) + int(fields[10])
    if fields[0] != MAGIC or offset + entry.file_size > file.size_bytes:
        raise FormatError(
            f"{file.path}: entry {entry.filename} is damaged or reaches beyond the file's end", hint=DOWNLOAD_AGAIN
        )
    return offset


class _View(io.RawIOBase):
    """A read-only stream over a file."""

    def __init__(self, view: FileBytes) -> None:
        self._view, self._at = view, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = len(self._view) if size is None or size < 0 else self._at + size
        data = bytes(self._view[self._at : stop])
        self._at += len(data)
        return data


class _Builder:
    """Turns notes of calls into arrays."""

    def __init__(self, file: SourceFile, number: int, entries: Mapping[str, tuple[int, int]], folder: str) -> None:
        self.file, self.number, self.entries, self.folder = file, number, entries, folder
        self.built: dict[int, dict[Any, Any]] = {}

    def build(self, value: Any, depth: int = 1) -> Any:
        """Return what was saved: a dictionary, its dictionaries built too, with arrays for what describes them."""
        if isinstance(value, Called) and value.items:  # a dictionary of a class of its own
            value = value.items
        if not isinstance(value, dict):
            return value if isinstance(value, Called) else None
        # The same dictionary met again is not built again.
        if id(value) not in self.built:
            self.built[id(value)] = built = {}
            for key, item in value.items():
                deeper = (isinstance(item, dict) or (isinstance(item, Called) and item.items)) and depth < _DEEPEST
                built[key] = self.build(item, depth + 1) if deeper else self._leaf(key, item)
        return self.built[id(value)]

    def _leaf(self, key: Any, value: Any) -> Any:
        if isinstance(value, Called):
            try:
                return self._array(value, str(key)) or value
            except (TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
                raise FormatError(
                    f"{self.file.path}: tensor {key} is malformed: {error}", hint=DOWNLOAD_AGAIN
                ) from None
        return value if isinstance(value, str | int | float | bool) else None

    def _array(self, call: Called, name: str) -> StoredArray | None:
        """Return the tensor that a call would make, None where it would make something else."""
        if call.name in _PARAMETERS:
            inner = call.arguments[0]
            return self._array(inner, name) if isinstance(inner, Called) and inner.name not in _PARAMETERS else None
        if (
            call.name == _OF_CLASS
            and isinstance(call.arguments[1], Named)
            and call.arguments[1].name in _TENSOR_CLASSES
        ):
            # A tensor on which somebody hung an attribute.
            function, arguments = call.arguments[0], call.arguments[2]
            is_tensor = isinstance(function, Named) and function.name in (_PLAIN, *_PARAMETERS)
            return self._array(Called(function.name, arguments), name) if is_tensor else None
        if call.name != _PLAIN:
            self._refuse_other(call, name)
            return None
        storage, start, shape, strides = call.arguments[:4]
        kind, storage_class, key = storage.key[:3]
        if kind != "storage" or not isinstance(storage_class, Named) or storage_class.name not in _STORAGES:
            raise ValueError("not a storage of tensors")
        if not isinstance(key, str) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise ValueError("a storage without a name or a shape")
        if len(shape) > _MOST_DIMENSIONS or not all(is_size(size) for size in (start, *shape, *strides)):
            raise ValueError("sizes that are not numbers")
        element, width, tensor_type = _STORAGES[storage_class.name]
        if len(shape) != len(strides):
            raise ValueError(f"{len(shape)} sizes and {len(strides)} strides")
        where = self.entries.get(f"{self.folder}data/{key}")
        if where is None:
            raise FormatError(
                f"{self.file.path}: the data of tensor {name} (data/{key}) are missing", hint=DOWNLOAD_AGAIN
            )
        needed = (start + extent_of(shape, strides)) * width
        if needed > where[1]:
            raise FormatError(
                f"{self.file.path}: tensor {name} of shape {list(shape)} needs {needed} bytes, data/{key}"
                f" has {where[1]}",
                hint=DOWNLOAD_AGAIN,
            )
        location = Location(self.number, where[0] + start * width, size_of(shape, width))
        along = None if is_row_by_row(shape, strides) else strides
        return StoredArray(name, tensor_type, element, shape, location, along)

    def _refuse_other(self, call: Called, name: str) -> None:
        """Raise ``FormatError`` where one of Whisper's tensors is not a plain one; of other things nothing is kept."""
        if not is_whispers(name):
            return
        described = [call.name, *(argument.name for argument in call.arguments if isinstance(argument, Named))]
        shown = next((word for word in described if "float8" in word), described[min(1, len(described) - 1)])
        raise FormatError(
            f"{self.file.path}: {name} is no plain tensor but {shown}: it was quantized, or is spread over devices",
            hint="name the model that it was made from, or save whole tensors of f16, bf16 or f32 with torch.save",
        )
