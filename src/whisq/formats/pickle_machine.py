"""A pickle read as a description: what it would build, told without building or running anything.

A pickle is a program for a stack machine; the one here has no calls. A class or function is a name, calling it is
kept as a note of what was asked, and the reader of the notes understands those that it knows; of the others, which
trainers keep beside the weights, nothing but the name is taken. Source of the opcodes: Python, ``pickletools``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from whisq.errors import FormatError
from whisq.formats.cursor import DOWNLOAD_AGAIN

_UNSAFE = (
    "do not load it elsewhere: what a checkpoint needs runs no programs. Ask for the weights alone, as safetensors"
)
_DICTIONARY, _SET = "collections.OrderedDict", "builtins.set"
_ACTING = {
    "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes", "pty", "commands",
    "platform", "webbrowser", "code", "codeop", "timeit", "pdb", "bdb", "multiprocessing", "pip", "urllib", "http",
    "asyncio", "marshal", "pickle", "_pickle", "tempfile", "signal", "threading", "_thread", "io", "_io", "builtins",
    "__builtin__",
}  # fmt: skip
"""Modules whose functions act: what asks for one is an attack, or no checkpoint. Nothing is run either way."""
_HARMLESS = {
    "set", "frozenset", "slice", "range", "xrange", "complex", "object", "bool", "int", "long", "float", "str",
    "unicode", "bytes", "list", "dict", "tuple",
}  # fmt: skip
"""Classes of Python's own, which its pickles name where they have no opcode."""
_MOST_STEPS = 1 << 20
"""Twenty times those of the largest Whisper: each may cost a hundred bytes and a microsecond."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the pickle names."""

    name: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call that the pickle asks for and that is not made; ``items`` are put into what it would return."""

    name: str
    arguments: tuple[Any, ...]
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """What a pickle would build: ``value``; ``classes`` are the names in it other than tensors' and dictionaries'."""

    value: Any
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Persistent:
    """A reference to what is stored outside the pickle; torch's are ('storage', class, key, device, count)."""

    key: Any


class _Mark:
    pass


_PUSHES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "MARK": _Mark, "EMPTY_SET": lambda: Called(_SET, ()),
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": lambda machine, argument: machine._global(argument),
    "STACK_GLOBAL": lambda machine, _: machine._stack_global(),
    "REDUCE": lambda machine, _: machine._reduce(),
    "NEWOBJ": lambda machine, _: machine._reduce(),
    "NEWOBJ_EX": lambda machine, _: machine._new_with_keywords(),
    "FROZENSET": lambda machine, _: machine.stack.append(Called(_SET, tuple(machine._since_mark()))),
    "ADDITEMS": lambda machine, _: machine._append(machine._since_mark()),
    "BUILD": lambda machine, _: machine._build(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": lambda machine, _: machine.stack.append(machine._since_mark()),
    "DICT": lambda machine, _: machine._dict(),
    "SETITEMS": lambda machine, _: machine._set_items(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    "BINPERSID": lambda machine, _: machine.stack.append(Persistent(machine.stack.pop())),
    "POP": lambda machine, _: machine._pop(),
    "POP_MARK": lambda machine, _: machine._pop_since_mark(),
}


class _Machine:
    """Pickle's stack machine without the opcodes that act."""

    def __init__(self, where: str, names: Set[str]) -> None:
        self.where = where
        self.names = names
        self.classes: dict[str, None] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """Return what the program leaves; raises ``FormatError``."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
                if count == _MOST_STEPS:
                    raise FormatError(
                        f"{self.where}: the pickle in it takes more than {_MOST_STEPS} steps", hint=DOWNLOAD_AGAIN
                    )
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
            raise FormatError(f"{self.where}: the pickle in it is damaged: {error}", hint=DOWNLOAD_AGAIN) from None
        raise FormatError(f"{self.where}: the pickle in it has no end", hint=DOWNLOAD_AGAIN)

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
            raise ValueError("a name that is not text")
        full = f"{module}.{name}"
        if full not in self.names and full != _DICTIONARY:
            root = module.partition(".")[0]
            if root in _ACTING and not (root in ("builtins", "__builtin__") and name in _HARMLESS):
                raise FormatError(f"{self.where}: the pickle in it asks for {full[:80]}", hint=_UNSAFE)
            self.classes[full] = None
        self.stack.append(Named(full))

    def _global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._name(module, name)

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Named | Called) or not isinstance(arguments, tuple):
            raise ValueError("a call to a non-function")
        if called.name == _DICTIONARY:
            if arguments:
                raise ValueError("an OrderedDict with arguments")
            self.stack.append({})
        else:
            self.stack.append(Called(called.name, arguments))

    def _tuple(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :]) if count else ()
        if len(items) < count:
            raise ValueError("the stack is too short")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Called):
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for a non-dictionary")
        # Hashing a deeply nested tuple would exhaust the C stack: of other keys than texts and numbers nothing is kept.
        for key, item in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str) or is_size(abs(key) if isinstance(key, int) else key):
                target[key] = item
            elif isinstance(key, int | list | dict):
                raise ValueError("a key that is neither text nor number")

    def _dict(self) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set_items(items)

    def _append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Called):
            raise ValueError("elements for a non-list")

    def _new_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _pop(self) -> None:
        del self.stack[-1]

    def _pop_since_mark(self) -> None:
        self._since_mark()

    def _build(self) -> None:
        # torch hangs version numbers on a state dictionary this way; nothing here needs them, nor objects' attributes.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | Called):
            raise ValueError("state for a non-dictionary")


def read_pickle(program: bytes, where: str, names: Set[str]) -> Description:
    """Return what a pickle describes: plain values, ``Called`` for each call, ``Persistent`` for what lies elsewhere.

    ``names`` are those that the caller understands; of others none may be of what acts. ``where`` is for messages.
    Raises ``FormatError``.
    """
    machine = _Machine(where, names)
    return Description(machine.run(program), tuple(machine.classes))


def is_size(value: object) -> bool:
    """Return whether this is an integer that a size or an offset may be.

    A pickle may hold a number of millions of digits, with which arithmetic takes hours.
    """
    return isinstance(value, int) and 0 <= value < 1 << 63
