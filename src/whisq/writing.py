"""A whole file or none: the one way in which whisq writes, and where it keeps what it may need again.

Bytes go to a temporary file beside the target, are synced, and take its name at the end. On any error, and where a
signal ends the program, the temporary file goes, and what stood under the name is as it was. One that was killed while
it wrote leaves its temporary file to the next writer of the same target: as long as a writer lives it holds a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from whisq.errors import OutputError
from whisq.stopping import held, undo_at_end, undone, wrote_a_file
from whisq.system import RENAMES_OPEN_FILES, holds, set_mode, write_at

_PART = ".part"
_PART_BYTES = 6
"""Random bytes in the name of a file on its way."""
_STREAMS = ("/proc/", "/dev/fd/", "/dev/std")
_MOST_LINKS = 40
"""Linux follows as many."""


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
                count = write_at(self.descriptor, view, offset)
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

    A symbolic link is followed, an existing file's mode is kept. What a writer of the same file has left behind that
    was killed is removed. Raises ``OutputError`` with ``hint`` for whatever the system refuses, also in the block.
    """
    check_writable(path)
    target = Path(os.path.realpath(path))
    try:
        _remove_orphans(target)
        # A part that has no name yet is as private as the file that it replaces; otherwise the umask decides.
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        with held:
            part, descriptor = _new_part(target, 0o666 if mode is None else mode & 0o600)
            undoing = undo_at_end(partial(_discard, part, descriptor))
    except OSError as error:
        raise _cannot_be_written(path, error, hint) from None
    try:
        yield Part(part, target, descriptor)
        if mode is not None:
            set_mode(descriptor, mode)
        os.fsync(descriptor)
        with held:
            if not RENAMES_OPEN_FILES:
                os.close(descriptor)
                descriptor = -1
            part.replace(target)
            wrote_a_file()
    except OSError as error:
        raise _cannot_be_written(path, error, hint) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        part.unlink(missing_ok=True)
        undone(undoing)
    _sync_directory(target.parent)


def _discard(part: Path, descriptor: int) -> None:
    """Remove a file on its way, where the program ends."""
    if not RENAMES_OPEN_FILES:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a new folder among the system's temporary ones, which goes with all that is in it where the block ends."""
    import tempfile

    with held:
        folder = Path(tempfile.mkdtemp(prefix="whisq-"))
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        undoing = undo_at_end(remove)
    try:
        yield folder
    finally:
        remove()
        undone(undoing)


@contextlib.contextmanager
def text_with(path: str | Path, text: str, *, hint: str = "choose another place") -> Iterator[None]:
    """Write a file in UTF-8 that takes its name where the block ends without an error, after what is written in it.

    What goes with another file is on the disk before that has its name, and has its own only after. Raises
    ``OutputError``.
    """
    with whole(path, hint=hint) as part:
        part.write(text.encode(), 0)
        yield


@contextlib.contextmanager
def files_with(files: Sequence[tuple[Path, bytes]]) -> Iterator[None]:
    """Write new files that go with what the block writes, and remove them where it fails, or a signal ends the program.

    They have their names before the block begins: it may need them. Raises ``OutputError``.
    """
    made: list[Path] = []

    def remove() -> None:
        for path in made:
            path.unlink(missing_ok=True)

    undoing = undo_at_end(remove)
    try:
        for path, content in files:
            made.append(path)
            write_bytes(path, content)
        yield
    except BaseException:
        remove()
        raise
    finally:
        undone(undoing)


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
    wrong = [found for path in paths if path is not None for found in [_reason_against(path)] if found is not None]
    if wrong:
        raise OutputError("; ".join(reason for reason, _ in wrong), hint=wrong[0][1])


def _reason_against(path: str | Path) -> tuple[str, str] | None:
    """Return why a file cannot be written, and what to do instead; None where it can be as far as can be told."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        return f"{path}: cannot be written: {error.strerror}", "name another file"
    parent = Path(os.path.realpath(path)).parent
    if stat.S_ISDIR(mode):
        return f"{path}: is a directory, expected a file name", f"write to {Path(path) / 'NAME'}"
    if not stat.S_ISREG(mode) or _is_a_stream(path):
        return f"{path}: is not a regular file", "write to a file: the result is renamed into place"
    if not parent.is_dir():
        return f"{path}: directory {parent} does not exist", f"create it: mkdir -p {parent}"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{path}: no permission to write in {parent}", "choose another directory"
    return None


def default_cache_folder() -> Path:
    """Return ``$WHISQ_CACHE``, else ``whisq`` in the user's cache folder."""
    if named := os.environ.get("WHISQ_CACHE"):
        return Path(named)
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "whisq"


def _is_a_stream(path: str | Path) -> bool:
    """Return whether a path goes by /dev/stdout or the like, even to a file: the shell that made that holds it open."""
    place = Path(path).absolute()
    for _ in range(_MOST_LINKS):
        if os.path.normpath(place).startswith(_STREAMS):
            return True
        if not place.is_symlink():
            return False
        place = place.parent / place.readlink()
    return False


def _cannot_be_written(path: str | Path, error: OSError, hint: str) -> OutputError:
    return OutputError(f"{path}: cannot be written: {error.strerror or error}", hint=hint)


def _new_part(target: Path, mode: int) -> tuple[Path, int]:
    """Return a new file beside a target, and its descriptor, which holds its lock: its writer is alive."""
    while True:
        part = target.parent / f"{_part_prefix(target)}{os.urandom(_PART_BYTES).hex()}{_PART}"
        # Binary: on Windows a descriptor is a text file's unless it is told.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        # Between the two another writer may have taken it for an orphan.
        if not RENAMES_OPEN_FILES or (holds(descriptor) is not False and os.fstat(descriptor).st_nlink):
            return part, descriptor
        os.close(descriptor)


def _part_prefix(target: Path) -> str:
    return f".{target.name}."


def _remove_orphans(target: Path) -> None:
    """Remove what writers of this file left behind whose process was killed: nobody holds its lock."""
    prefix = _part_prefix(target)
    for name in (path.name for path in target.parent.iterdir()):
        if not (name.startswith(prefix) and name.endswith(_PART)):
            continue
        number = name.removeprefix(prefix).removesuffix(_PART)
        if len(number) != 2 * _PART_BYTES or set(number) - set("0123456789abcdef"):
            continue
        part = target.parent / name
        with contextlib.suppress(OSError):
            if not RENAMES_OPEN_FILES:
                part.unlink()  # which the system refuses while its writer lives
                continue
            descriptor = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if holds(descriptor):
                    part.unlink()
            finally:
                os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    # The rename is durable only once the directory is; some file systems cannot sync one, and need not.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
