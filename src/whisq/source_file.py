"""A file that is read piece by piece, and known to be the same from the first one to the last."""

from __future__ import annotations

import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

from whisq.errors import FormatError


class SourceFile:
    """Not mapped: a map of a file that another program makes shorter ends the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Nothing is waited for: what is no file is told by its mode, below.
            not_waiting = getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | not_waiting)
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
        self.state = FileState(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        self.view = FileBytes(self)

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``start:stop``; raises ``FormatError`` where the file has become shorter."""
        wanted = stop - start
        try:
            data = os.pread(self._descriptor, wanted, start)
            if len(data) < wanted:
                data = self._rest(data, wanted, start)
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read: {error.strerror or error}", hint="try again") from None
        return memoryview(data)

    def _rest(self, data: bytes, wanted: int, start: int) -> bytes:
        # A read gives less than was asked for beyond 2 GiB, and on some network file systems.
        pieces, n_read = [data], len(data)
        while n_read < wanted:
            piece = os.pread(self._descriptor, wanted - n_read, start + n_read)
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
