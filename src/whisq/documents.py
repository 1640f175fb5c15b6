"""JSON, TOML and text that people bring: one checked way of reading all of it.

A file has a size that its kind never exceeds, and nothing in it costs more than a small multiple of that. What Python's
parsers let through and nothing here can use is refused: integers beyond 64 bits, numbers that overflow, NUL; and what
they end in other exceptions for (nesting, thousands of digits) is an error like any other. Half a character is let
through: the name of a file may hold one.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.errors import WhisqError
from whisq.system import READING

_MOST_DIGITS = 19
_LARGEST_INTEGER = 1 << 64
_PIPE_WAIT_S = 30.0
_FREE_CONTAINERS, _BYTES_PER_CONTAINER = 1 << 16, 8
"""Lists and objects cost far more memory than their brackets: one in eight bytes is more than any real file has."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Marks of byte order that Windows' programs begin such a text with."""
_MOST_DOTS = 1_000
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"")


@dataclass(frozen=True, slots=True)
class Document:
    """A kind of file: its ``name`` (``a recipe``), what is raised for one that cannot be used, and what to do then."""

    name: str
    error: type[WhisqError]
    hint: str
    most_bytes: int

    def content(self, path: Path) -> bytes:
        """Return a file's bytes; raises ``error`` for what is absent, too large, or neither a file nor a pipe."""
        try:
            descriptor = os.open(path, READING)
        except FileNotFoundError:
            raise self.error(f"{path}: no such file", hint="check the path") from None
        except (OSError, ValueError) as error:
            raise self._unreadable(path, error) from None
        try:
            return b"".join(self._parts(path, descriptor))
        except OSError as error:
            raise self._unreadable(path, error) from None
        finally:
            os.close(descriptor)

    def _unreadable(self, path: Path, error: OSError | ValueError) -> WhisqError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return self.error(f"{path}: cannot be read: {reason or error}", hint="check the path and its permissions")

    def _parts(self, path: Path, descriptor: int) -> Iterator[bytes]:
        found = os.fstat(descriptor)
        is_pipe = stat.S_ISFIFO(found.st_mode)
        if not is_pipe and not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a device"
            raise self.error(f"{path}: cannot be read: it is {kind}, expected {self.name}", hint=self.hint)
        left = self.most_bytes
        while True:
            if is_pipe and not select.select([descriptor], [], [], _PIPE_WAIT_S)[0]:
                raise self.error(f"{path}: is a pipe into which nothing is written", hint="write to it, or name a file")
            part = os.read(descriptor, min(left + 1, 1 << 24))
            if not part:
                return
            left -= len(part)
            if left < 0:
                size = f"{found.st_size} bytes" if not is_pipe else "more"
                raise self.error(f"{path}: {size}, {self.name} has at most {self.most_bytes}", hint=self.hint)
            yield part

    def text(self, path: Path) -> str:
        """Return a text file, a mark of byte order at its start left out; raises ``error``."""
        content = self.content(path)
        if content[:2] in _UTF_16:
            copy = path.with_name(f"{path.stem}-utf8{path.suffix}")
            raise self.error(
                f"{path}: is UTF-16 text, expected UTF-8",
                hint=f"iconv -f UTF-16 -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(copy))}",
            )
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            message = f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"
            raise self.error(message, hint=self.hint) from None

    def json(self, path: Path) -> Any:
        """Return what a JSON file says; raises ``error``."""
        return self.parse_json(self.text(path), str(path))

    def parse_json(self, text: str, where: str) -> Any:
        """Return what a text in JSON says; raises ``error``, which names ``where``."""
        try:
            return json_value(text)
        except ValueError as error:
            raise self.error(f"{where}: not valid JSON: {error}", hint=self.hint) from None

    def parse_toml(self, text: str, where: str) -> dict[str, Any]:
        """Return what a text in TOML says; raises ``error``, which names ``where``."""
        try:
            return toml_value(text)
        except ValueError as error:
            raise self.error(f"{where}: not valid TOML: {error}", hint=self.hint) from None


def json_value(text: str) -> Any:
    """Return what a text in JSON says; raises ``ValueError`` with a reason for what nothing here can use.

    NaN and infinities are taken, as Python writes them.
    """
    containers = text.count("[") + text.count("{")
    if containers > _FREE_CONTAINERS + len(text) // _BYTES_PER_CONTAINER:
        raise ValueError(f"{containers} lists and objects in {len(text)} characters")
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\u0000" in text:
        _check_leaves(value)
    return value


def toml_value(text: str) -> dict[str, Any]:
    """Return what a text in TOML says; raises ``ValueError`` with a reason for what nothing here can use."""
    import tomllib

    # The parser takes the square of the number of a key's parts.
    if any(_QUOTED.sub("", line).count(".") > _MOST_DOTS for line in text.split("\n") if len(line) > _MOST_DOTS):
        raise ValueError(f"a key of more than {_MOST_DOTS} parts")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise ValueError("an integer of thousands of digits") from None
    _check_leaves(value)
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS + 1:
        raise ValueError(f"an integer of {len(digits)} digits, at most {_MOST_DIGITS} are taken")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:40]} is beyond what a number can be")
    return value


def _check_leaves(value: Any) -> None:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            left += one.keys()
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and "\0" in one:
            raise ValueError(f"a text with NUL: {one[:40]!a}")
        elif isinstance(one, int) and not -_LARGEST_INTEGER < one < _LARGEST_INTEGER:
            raise ValueError("an integer beyond 64 bits")
