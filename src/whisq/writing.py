"""A whole file or none: the one way in which whisq writes, and where it keeps what it may need again.

Bytes go to a temporary file beside the target, are synced, and take its name at the end. On any error the temporary
file goes, and what stood under the name is as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whisq.errors import OutputError


@dataclass(frozen=True, slots=True)
class Part:
    """A file on its way: ``path`` is where its bytes are now, ``target`` the name that it will take."""

    path: Path
    target: Path
    descriptor: int

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write bytes at an offset, from any thread; raises ``OutputError``."""
        view = memoryview(data)
        while len(view):
            try:
                count = os.pwrite(self.descriptor, view, offset)
            except OSError as error:
                raise _cannot_be_written(self.target, error, "free some space, or write to another disk") from None
            view = view[count:]
            offset += count

    def truncate(self, size_bytes: int) -> None:
        """Give the file its size: what was not written is zero."""
        os.ftruncate(self.descriptor, size_bytes)


@contextlib.contextmanager
def whole(path: str | Path, *, hint: str = "choose another place") -> Iterator[Part]:
    """Give a new file beside ``path``; where the block ends without an error it is synced and takes that name.

    A symbolic link is followed, an existing file's mode is kept. Raises ``OutputError`` with ``hint`` for whatever the
    system refuses, also in the block.
    """
    target = Path(path).resolve()
    part = target.parent / f".{target.name}.{os.urandom(6).hex()}.part"
    try:
        # Binary: on Windows a descriptor is a text file's unless it is told.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise _cannot_be_written(path, error, hint) from None
    try:
        yield Part(part, target, descriptor)
        os.fchmod(descriptor, _mode_for(target))
        os.fsync(descriptor)
        part.replace(target)
    except OSError as error:
        raise _cannot_be_written(path, error, hint) from error
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)
    _sync_directory(target.parent)


def write_bytes(path: str | Path, content: bytes, *, hint: str = "choose another place") -> None:
    """Write a file, whole or not at all; raises ``OutputError``."""
    with whole(path, hint=hint) as part:
        part.write(content, 0)


def write_text(path: str | Path, text: str, *, hint: str = "choose another place") -> None:
    """Write a file in UTF-8, whole or not at all; raises ``OutputError``.

    A half of a surrogate pair (from a file name that is no text) becomes an escape, which JSON reads back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), hint=hint)


def check_writable(*paths: str | Path | None) -> None:
    """Raise ``OutputError`` listing every output that could not be written, before long work starts; None is none."""
    wrong = []
    for path in paths:
        if path is None:
            continue
        if Path(path).is_dir():
            wrong.append(f"{path}: is a directory")
        elif not (parent := Path(path).resolve().parent).is_dir():
            wrong.append(f"{path}: directory {parent} does not exist")
    if wrong:
        raise OutputError("; ".join(wrong), hint="name files in directories that exist")


def default_cache_folder() -> Path:
    """Return ``$WHISQ_CACHE``, else ``whisq`` in the user's cache folder."""
    if named := os.environ.get("WHISQ_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "whisq"


def _cannot_be_written(path: str | Path, error: OSError, hint: str) -> OutputError:
    return OutputError(f"{path}: cannot be written: {error.strerror or error}", hint=hint)


def _mode_for(target: Path) -> int:
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_directory(directory: Path) -> None:
    # The rename is durable only once the directory is; some file systems cannot sync one, and need not.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
