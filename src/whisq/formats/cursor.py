"""How readers look into a file: at its first bytes, and front to back without ever reading past its end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from whisq.errors import FormatError
from whisq.source_file import SourceFile

INCOMPLETE = "the file is incomplete: download or convert it again"
DOWNLOAD_AGAIN = "the file is incomplete or damaged: download it again"
DAMAGED = "the file is damaged: download or convert it again"
NOT_WHISPER = "name a Whisper model; if this is one, it is damaged: download or convert it again"


def first_bytes(path: Path, count: int) -> bytes | None:
    """Return the first bytes of a file, fewer of a shorter one, None of what is not a readable file."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return None


_READ_BYTES = 1 << 12
_READ_STRINGS_BYTES = 1 << 20
"""Read at once, where what is wanted is small: a tensor's head, and a vocabulary."""


class Cursor:
    """Reads a file front to back. All numbers are little-endian.

    Every method names ``what`` it reads and raises ``FormatError`` with it where the bytes are not there.
    """

    def __init__(self, file: SourceFile) -> None:
        self.path = file.path
        self.file = file
        self.offset = 0
        self.end = file.size_bytes
        self._window, self._begin = memoryview(b""), 0

    @property
    def left(self) -> int:
        """Bytes between here and the end."""
        return self.end - self.offset

    def take(self, size: int, what: str) -> memoryview:
        """Return the next ``size`` bytes."""
        start = self.offset
        self.skip(size, what)
        at = start - self._begin
        if at + size > len(self._window):
            at = self._load(start, max(size, _READ_BYTES))
        return self._window[at : at + size]

    def skip(self, size: int, what: str) -> None:
        """Go on behind the next ``size`` bytes, which are not read."""
        if size > self.left:
            raise self.too_short(size, what)
        self.offset += size

    def _load(self, offset: int, size: int) -> int:
        """Have the bytes from an offset on at hand, as many as there are; returns where they begin: at 0."""
        self._window = self.file.read(offset, min(offset + size, self.file.size_bytes))
        self._begin = offset
        return 0

    def too_short(self, size: int, what: str) -> FormatError:
        """Return the error for ``size`` bytes that are not there."""
        return FormatError(
            f"{self.path}: truncated in {what}: {size} bytes expected at offset {self.offset}, {self.left} left",
            hint=INCOMPLETE,
        )

    def unpack(self, form: str, what: str) -> tuple[Any, ...]:
        """Return the next numbers; ``form`` is ``struct``'s, without the byte order."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))

    def integer(self, code: str, what: str) -> int:
        """Return the next integer; ``code`` is ``struct``'s."""
        value: int = self.unpack(code, what)[0]
        return value

    def strings(self, count: int, code: str, what: Callable[[int], str], longest: int | None = None) -> list[bytes]:
        """Return ``count`` strings, each behind its length in bytes, an unsigned integer of ``code``.

        A vocabulary is fifty thousand short reads, which are most of what opening a file costs: one tight loop.
        """
        offset, end = self.offset, self.end
        most = end if longest is None else longest
        length_of, width = struct.Struct(f"<{code}").unpack_from, struct.calcsize(f"<{code}")
        begin = offset + self._load(offset, _READ_STRINGS_BYTES)
        view, n_here = bytes(self._window), len(self._window)
        found = []
        for number in range(count):
            start = offset + width
            if start - begin > n_here and start <= end:
                begin = offset + self._load(offset, _READ_STRINGS_BYTES)
                view, n_here = bytes(self._window), len(self._window)
            length = length_of(view, offset - begin)[0] if start <= end else 0
            offset = start + length
            if length > most or offset > end:
                self._refuse_string(start - width, code, what(number), longest)
            if offset - begin > n_here:
                begin = start + self._load(start, max(length, _READ_STRINGS_BYTES))
                view, n_here = bytes(self._window), len(self._window)
            found.append(view[start - begin : offset - begin])
        self.offset = offset
        return found

    def _refuse_string(self, offset: int, code: str, what: str, longest: int | None) -> NoReturn:
        self.offset = offset
        length = self.integer(code, what)
        if longest is not None and length > longest:
            raise FormatError(
                f"{self.path}: {what} claims a length of {length} bytes, at most {longest} expected", hint=DAMAGED
            )
        raise self.too_short(length, what)
