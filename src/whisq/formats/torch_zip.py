"""Arrays in a file that ``torch.save`` wrote, found without torch and without running anything of the pickle.

Such a file is a zip: ``*/data.pkl`` describes the objects, ``*/data/N`` are the raw storages, not compressed. A
pickle is a program for a stack machine; the one here has no calls. A class or function is a name, calling it is
kept as a note of what was asked, and only notes that describe tensors are understood afterwards. Source of the
opcodes: Python, ``pickletools``; of what torch writes: ``torch/_utils.py`` (``_rebuild_tensor_v2``).
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from whisq.errors import FormatError
from whisq.formats.stored import StoredArray, size_of
from whisq.model import Location, MappedFile
from whisq.types import BF16, F16, F32, TensorType

_STORAGES: dict[str, tuple[str, int, TensorType | None]] = {
    "torch.FloatStorage": ("f32", 4, F32),
    "torch.HalfStorage": ("f16", 2, F16),
    "torch.BFloat16Storage": ("bf16", 2, BF16),
    "torch.DoubleStorage": ("f64", 8, None),
    "torch.LongStorage": ("i64", 8, None),
    "torch.IntStorage": ("i32", 4, None),
    "torch.ShortStorage": ("i16", 2, None),
    "torch.CharStorage": ("i8", 1, None),
    "torch.ByteStorage": ("u8", 1, None),
    "torch.BoolStorage": ("bool", 1, None),
}
_DESCRIBES = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *_STORAGES,
    "torch.Size",
}
"""All that a checkpoint of plain tensors names."""
_MOST_PICKLE_BYTES = 1 << 24
_MOST_ENTRIES = 1 << 16
_MOST_DIMENSIONS = 8
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_AGAIN = "the file is incomplete or damaged: download it again"


@dataclass(frozen=True, slots=True)
class _Named:
    """A class or function that the pickle names."""

    name: str


@dataclass(frozen=True, slots=True)
class _Called:
    """A call that the pickle asks for and that is not made."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Persistent:
    """A reference to a storage: ('storage', class, key, device, count)."""

    key: Any


class _Mark:
    pass


def is_torch_zip(view: memoryview) -> bool:
    """Return whether the bytes begin like a zip."""
    return bytes(view[:4]) == b"PK\x03\x04"


def read_checkpoint(file: MappedFile, number: int) -> Any:
    """Return what ``torch.save`` was given: dictionaries, lists and plain values, tensors as ``StoredArray``.

    ``number`` is the file's among the model's. Raises ``FormatError`` for another kind of file, a compressed or
    damaged one, and a pickle that names anything but tensors and containers.
    """
    if not is_torch_zip(file.view):
        legacy = bytes(file.view[:2]) in (b"\x80\x02", b"\x80\x03", b"\x80\x04")
        raise FormatError(
            f"{file.path}: "
            + ("a bare pickle, as torch before 1.6 wrote" if legacy else "not a file that torch.save wrote"),
            hint="load it with torch and save it again" if legacy else "name a PyTorch checkpoint (.pt)",
        )
    entries = _entries(file)
    pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise FormatError(f"{file.path}: has {len(pickles)} entries named data.pkl, expected one", hint=_AGAIN)
    folder = pickles[0].removesuffix("data.pkl")
    begin, size = entries[pickles[0]]
    order = entries.get(f"{folder}byteorder")
    if order is not None and bytes(file.view[order[0] : order[0] + order[1]]) != b"little":
        raise FormatError(f"{file.path}: was saved on a big-endian machine", hint="save it again on this one")
    if size > _MOST_PICKLE_BYTES:
        raise FormatError(f"{file.path}: a pickle of {size} bytes, at most {_MOST_PICKLE_BYTES} expected", hint=_AGAIN)
    result = _Machine(str(file.path)).run(bytes(file.view[begin : begin + size]))
    return _Builder(file, number, entries, folder).build(result)


def _entries(file: MappedFile) -> dict[str, tuple[int, int]]:
    """Return offset and size of every entry's bytes in the file."""
    try:
        with zipfile.ZipFile(_View(file.view)) as archive:
            listed = archive.infolist()
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        NotImplementedError,
        EOFError,
        OSError,
        IndexError,
        OverflowError,
    ) as error:
        raise FormatError(f"{file.path}: no whole zip file: {error}", hint=_AGAIN) from None
    if len(listed) > _MOST_ENTRIES:
        raise FormatError(f"{file.path}: a zip of {len(listed)} entries", hint=_AGAIN)
    entries = {}
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise FormatError(
                f"{file.path}: entry {entry.filename} is compressed or encrypted",
                hint="save it again with torch.save",
            )
        entries[entry.filename] = (_data_offset(file, entry), entry.file_size)
    return entries


def _data_offset(file: MappedFile, entry: zipfile.ZipInfo) -> int:
    start = entry.header_offset
    if start < 0 or start + _LOCAL_HEADER.size > file.size_bytes:
        raise FormatError(f"{file.path}: entry {entry.filename} begins beyond the file's end", hint=_AGAIN)
    fields = _LOCAL_HEADER.unpack_from(file.view, start)
    offset = start + _LOCAL_HEADER.size + int(fields[9]) + int(fields[10])
    if fields[0] != b"PK\x03\x04" or offset + entry.file_size > file.size_bytes:
        raise FormatError(
            f"{file.path}: entry {entry.filename} is damaged or reaches beyond the file's end", hint=_AGAIN
        )
    return offset


class _View(io.RawIOBase):
    """A read-only stream over a mapped file."""

    def __init__(self, view: memoryview) -> None:
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


class _Machine:
    """Pickle's stack machine without the opcodes that act."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """Return what the program leaves; raises ``FormatError``."""
        try:
            for opcode, argument, _ in pickletools.genops(program):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except FormatError:
            raise
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise FormatError(f"{self.where}: the pickle in it is damaged: {error}", hint=_AGAIN) from None
        raise FormatError(f"{self.where}: the pickle in it has no end", hint=_AGAIN)

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[int(argument)])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise FormatError(
                f"{self.where}: the pickle in it uses {name}, which no checkpoint of tensors needs",
                hint=_UNSAFE,
            )

    def _since_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise ValueError("no mark")

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        full = f"{module}.{name}"
        if full not in _DESCRIBES:
            raise FormatError(f"{self.where}: the pickle in it asks for {full[:80]}", hint=_UNSAFE)
        self.stack.append(_Named(full))

    def _global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._name(module, name)

    def _stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _reduce(self, argument: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Named) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        if called.name == "collections.OrderedDict":
            if arguments:
                raise ValueError("an OrderedDict made of something")
            self.stack.append({})
        else:
            self.stack.append(_Called(called.name, arguments))

    def _tuple(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :]) if count else ()
        if len(items) < count:
            raise ValueError("the stack is too short")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        # Hashing a deeply nested tuple would exhaust the C stack: keys are texts and numbers.
        if not all(isinstance(key, str) or _is_size(abs(key) if isinstance(key, int) else key) for key in items[::2]):
            raise ValueError("a key that is neither text nor number")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _dict(self, argument: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set_items(items)

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("elements for what is no list")
        self.stack[-1].extend(items)

    def _pop(self, argument: Any) -> None:
        del self.stack[-1]

    def _build(self, argument: Any) -> None:
        # torch hangs version numbers on a state dictionary this way; nothing here needs them.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise ValueError("state for what is no dictionary")


_UNSAFE = "whisq reads tensors from a pickle and runs nothing: export the state dictionary, or use safetensors"
_PUSHES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "MARK": _Mark,
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": lambda machine, _: machine.stack.append(machine._since_mark()),
    "DICT": _Machine._dict,
    "SETITEMS": lambda machine, _: machine._set_items(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    "BINPERSID": lambda machine, _: machine.stack.append(_Persistent(machine.stack.pop())),
    "POP": _Machine._pop,
}


class _Builder:
    """Turns notes of calls into arrays."""

    def __init__(self, file: MappedFile, number: int, entries: Mapping[str, tuple[int, int]], folder: str) -> None:
        self.file, self.number, self.entries, self.folder = file, number, entries, folder
        self.built: dict[int, dict[Any, Any]] = {}

    def build(self, value: Any) -> Any:
        """Return what was saved: a dictionary, its dictionaries built too, with arrays for what describes them."""
        if not isinstance(value, dict):
            return None
        return {key: self._item(key, item) for key, item in value.items()}

    def _item(self, key: Any, value: Any) -> Any:
        if isinstance(value, dict):
            # One level is all that any Whisper checkpoint has; the same dictionary met again is not built again.
            if id(value) not in self.built:
                self.built[id(value)] = {name: self._leaf(name, item) for name, item in value.items()}
            return self.built[id(value)]
        return self._leaf(key, value)

    def _leaf(self, key: Any, value: Any) -> Any:
        if isinstance(value, _Called):
            try:
                return self._array(value, str(key))
            except (TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
                raise FormatError(f"{self.file.path}: tensor {key} is malformed: {error}", hint=_AGAIN) from None
        return value if isinstance(value, str | int | float | bool) else None

    def _array(self, call: _Called, name: str) -> StoredArray | None:
        if call.name == "torch._utils._rebuild_parameter":
            inner = call.arguments[0]
            return self._array(inner, name) if isinstance(inner, _Called) and inner.name != call.name else None
        if call.name != "torch._utils._rebuild_tensor_v2":
            return None
        storage, start, shape, strides = call.arguments[:4]
        kind, storage_class, key = storage.key[:3]
        if kind != "storage" or not isinstance(storage_class, _Named) or storage_class.name not in _STORAGES:
            raise ValueError("no storage of tensors")
        if not isinstance(key, str) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise ValueError("a storage without a name or a shape")
        if len(shape) > _MOST_DIMENSIONS or not all(_is_size(size) for size in (start, *shape, *strides)):
            raise ValueError("sizes that are no numbers")
        element, width, tensor_type = _STORAGES[storage_class.name]
        if not _is_contiguous(shape, strides):
            raise FormatError(
                f"{self.file.path}: tensor {name} is stored with strides {list(strides)}, not row by row",
                hint="call .contiguous() on it and save again",
            )
        where = self.entries.get(f"{self.folder}data/{key}")
        if where is None:
            raise FormatError(f"{self.file.path}: the data of tensor {name} (data/{key}) are missing", hint=_AGAIN)
        size = size_of(shape, width)
        if (start * width) + size > where[1]:
            raise FormatError(
                f"{self.file.path}: tensor {name} of shape {list(shape)} needs {start * width + size} bytes, data/{key}"
                f" has {where[1]}",
                hint=_AGAIN,
            )
        return StoredArray(
            name, tensor_type, element, tuple(shape), Location(self.number, where[0] + start * width, size)
        )


def _is_size(value: object) -> bool:
    # A pickle may hold a number of millions of digits, with which arithmetic takes hours.
    return isinstance(value, int) and 0 <= value < 1 << 63


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if len(shape) != len(strides):
        return False
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
