"""A file that is read piece by piece, and known to be the same from the first one to the last."""

from __future__ import annotations

import bisect
import os
import stat
import sys
import threading
import weakref
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from whisq.errors import FormatError
from whisq.system import READING, read_at

_PIECE_BYTES = 1 << 20


class SourceFile:
    """Not mapped: a map of a file that another program makes shorter ends the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # What is no file is told by its mode, below.
            self._descriptor = os.open(path, READING)
        except FileNotFoundError:
            raise FormatError(f"{path}: no such file", hint="check the path") from None
        except PermissionError:
            raise FormatError(f"{path}: no permission to read it", hint="check the file's owner and mode") from None
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
        self._close = weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        try:
            if stat.S_ISDIR(found.st_mode):
                raise FormatError(f"{path}: is a directory, expected a file", hint="name the model file itself")
            if not stat.S_ISREG(found.st_mode):
                raise FormatError(f"{path}: is a pipe or a device, expected a file", hint="write it to a file first")
            if found.st_size == 0:
                raise FormatError(f"{path}: the file is empty", hint="download or convert it again")
        except FormatError:
            self.close()
            raise
        self.size_bytes = found.st_size
        # Compared with what a path says, later; on Windows a descriptor may say it in other numbers.
        named = path.stat() if sys.platform == "win32" else found
        self.state = FileState(path, named.st_dev, named.st_ino, named.st_size, named.st_mtime_ns)
        self.view = FileBytes(self)
        self._stated: dict[int, _Stated] = {}
        self._starts: list[int] = []

    def expect(self, start: int, stop: int, crc: int, what: str) -> None:
        """Have ``check`` look for bytes of this CRC-32 at ``start:stop``; ``what`` names them in its error."""
        self._stated[start] = _Stated(stop, crc, what)
        self._starts = []

    def check(self, at: int) -> None:
        """Raise ``FormatError`` where the stretch that holds a byte has not the CRC-32 expected of it.

        It is read for that, once; what nothing is expected of is right.
        """
        if not self._stated:
            return
        starts = self._starts or sorted(self._stated)
        self._starts = starts
        index = bisect.bisect_right(starts, at) - 1
        if index < 0 or at >= self._stated[starts[index]].stop:
            return
        stated = self._stated[starts[index]]
        with stated.lock:
            if not stated.is_right:
                found = 0
                for start in range(starts[index], stated.stop, _PIECE_BYTES):
                    found = zlib.crc32(self.read(start, min(start + _PIECE_BYTES, stated.stop)), found)
                if found != stated.crc:
                    raise FormatError(
                        f"{self.path}: {stated.what} is damaged: its CRC-32 is {found:08x}, expected {stated.crc:08x}",
                        hint="download it again, or save it again from where it was right",
                    )
                stated.is_right = True

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``start:stop``; raises ``FormatError`` where the file has become shorter."""
        wanted = stop - start
        try:
            data = read_at(self._descriptor, wanted, start)
            if len(data) < wanted:
                data = self._rest(data, wanted, start)
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read: {error.strerror or error}", hint="try again") from None
        return memoryview(data)

    def _rest(self, data: bytes, wanted: int, start: int) -> bytes:
        # A read gives less than was asked for beyond 2 GiB, and on some network file systems.
        pieces, n_read = [data], len(data)
        while n_read < wanted:
            piece = read_at(self._descriptor, wanted - n_read, start + n_read)
            if not piece:
                left = os.fstat(self._descriptor).st_size
                raise _changed(self.path, f"{left} bytes are left of {self.size_bytes}")
            pieces.append(piece)
            n_read += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the file; what was read from it stays."""
        self._close()
        self._descriptor = -1  # the number is another file's by and by


@dataclass(slots=True)
class _Stated:
    """Where a stretch of a file ends, and what it is said to hold."""

    stop: int
    crc: int
    what: str
    is_right: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class FileBytes:
    """The bytes of a file by slices, read as they are asked for."""

    def __init__(self, file: SourceFile) -> None:
        # What the file holds must not hold the file: it is closed when nobody does.
        self._file = weakref.proxy(file)

    def __len__(self) -> int:
        length: int = self._file.size_bytes
        return length

    def __getitem__(self, span: slice) -> memoryview:
        start, stop, _ = span.indices(len(self))
        found: memoryview = self._file.read(start, max(start, stop))
        return found


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file was written since, or replaced by another."""

    path: Path
    device: int
    inode: int
    size_bytes: int
    written_ns: int

    def check(self) -> None:
        """Raise ``FormatError`` where the file is not what it was."""
        try:
            now = self.path.stat()
        except OSError as error:
            raise _changed(self.path, error.strerror or str(error)) from None
        if (now.st_dev, now.st_ino) != (self.device, self.inode):
            raise _changed(self.path, "another file has its name")
        if (now.st_size, now.st_mtime_ns) != (self.size_bytes, self.written_ns):
            raise _changed(self.path, "it was written")


def _changed(path: Path, how: str) -> FormatError:
    return FormatError(f"{path}: changed while it was read: {how}", hint="wait until nothing writes it, then try again")
