"""Files by their content: seen by a node under their path, or sent to it in pieces and kept in its cache.

The cache is a folder ``content`` with a folder for each source, named after its hash. It holds so many bytes at most:
what was used longest ago goes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisq.errors import ClusterError
from whisq.hashing import file_sha256
from whisq.units import megabytes

PIECE_BYTES = 16 << 20
FOLDER = "content"
_KEPT = ".kept"
"""The file whose time says when a source was last used; where it is there the source is whole."""


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One file: its name below the source's root, its size, and its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a folder of files: ``root`` is where it is for whoever sends it. ``is_folder`` says which."""

    root: Path
    parts: tuple[SourcePart, ...]
    is_folder: bool = False

    @classmethod
    def of(cls, path: Path, names: Sequence[str] = (), sha256: str | None = None) -> Source:
        """Return a file, or a folder with its files ``names``; ``sha256`` is the file's, where it is known already."""
        root = path.resolve()
        if not names:
            return cls(root, (SourcePart(root.name, root.stat().st_size, sha256 or file_sha256(root)),))
        parts = [SourcePart(n, (root / n).stat().st_size, file_sha256(root / n)) for n in sorted(names)]
        return cls(root, tuple(parts), is_folder=True)

    @property
    def key(self) -> str:
        """Hash of names and contents."""
        told = "\n".join(f"{part.name} {part.size_bytes} {part.sha256}" for part in self.parts)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(part.size_bytes for part in self.parts)

    def file(self, part: SourcePart) -> Path:
        """Return where one of the files is for whoever sends it."""
        return self.root / part.name if self.is_folder else self.root

    def pieces(self) -> Iterator[tuple[SourcePart, int, bytes]]:
        """Yield the content, each piece with its file and offset."""
        for part in self.parts:
            with self.file(part).open("rb") as stream:
                for offset in range(0, max(part.size_bytes, 1), PIECE_BYTES):
                    yield part, offset, stream.read(PIECE_BYTES)


class ContentCache:
    """A node's files by content; not for several threads at once."""

    def __init__(self, folder: Path, most_bytes: int, *, looks_at_paths: bool = True) -> None:
        self._folder, self._most_bytes, self._looks_at_paths = folder / FOLDER, most_bytes, looks_at_paths
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._coming: dict[str, Path] = {}
        self._in_use: set[str] = set()

    def find(self, source: Source) -> Path | None:
        """Return where a source is here: under the sender's path with the same content, in the cache, or nowhere."""
        self._in_use.add(source.key)
        if self._looks_at_paths and all(self._is_there(source.file(part), part) for part in source.parts):
            return source.root
        place = self._folder / source.key
        kept = place / _KEPT
        if kept.exists() and all(self._is_there(place / part.name, part) for part in source.parts):
            os.utime(kept)
            return place if source.is_folder else place / source.parts[0].name
        return None

    def begin(self, source: Source) -> None:
        """Make room for a source; raises ``ClusterError`` where there is none."""
        try:
            self._make_room(source)
            coming = self._folder / f"coming-{uuid.uuid4().hex}"
            coming.mkdir(parents=True)
        except OSError as error:
            raise _full(self._folder, error) from None
        self._coming[source.key] = coming

    def put(self, source: Source, part: SourcePart, offset: int, piece: bytes) -> None:
        """Add a piece; raises ``ClusterError`` where it cannot be written."""
        path = self._coming[source.key] / part.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if offset else "wb") as stream:
                stream.seek(offset)
                stream.write(piece)
        except OSError as error:
            self.give_up(source)
            raise _full(self._folder, error) from None

    def end(self, source: Source) -> Path:
        """Return where a source is now that all of it has come; raises ``ClusterError`` where it is another content."""
        coming, place = self._coming[source.key], self._folder / source.key
        wrong = [part.name for part in source.parts if not self._is_there(coming / part.name, part)]
        if wrong:
            self.give_up(source)
            raise ClusterError(f"{wrong[0]}: came as another content than was sent", hint="run the command again")
        (coming / _KEPT).touch()
        del self._coming[source.key]
        try:
            shutil.rmtree(place, ignore_errors=True)
            coming.rename(place)
        except OSError:
            shutil.rmtree(coming, ignore_errors=True)  # another process of this node has put it there meanwhile
        return place if source.is_folder else place / source.parts[0].name

    def give_up(self, source: Source) -> None:
        """Remove what has come so far."""
        coming = self._coming.pop(source.key, None)
        if coming is not None:
            shutil.rmtree(coming, ignore_errors=True)

    def _is_there(self, path: Path, part: SourcePart) -> bool:
        with contextlib.suppress(OSError):
            found = path.stat()
            if found.st_size != part.size_bytes:
                return False
            state = (str(path), found.st_size, found.st_mtime_ns)
            if state not in self._hashes:
                self._hashes[state] = file_sha256(path)
            return self._hashes[state] == part.sha256
        return False

    def _make_room(self, source: Source) -> None:
        kept = sorted(self._folder.glob(f"*/{_KEPT}"), key=lambda path: path.stat().st_mtime)
        sizes = {path: _size_of(path.parent) for path in kept}
        total = sum(sizes.values())
        free = shutil.disk_usage(_existing(self._folder)).free
        for path in kept:
            fits = total + source.size_bytes <= self._most_bytes and source.size_bytes < free
            if not fits and path.parent.name not in self._in_use:
                shutil.rmtree(path.parent, ignore_errors=True)
                total -= sizes[path]
                free += sizes[path]
        if source.size_bytes >= free or total + source.size_bytes > self._most_bytes:
            raise OSError(
                f"{megabytes(source.size_bytes):.0f} MB do not fit: the disk has {megabytes(free):.0f} MB free, and"
                f" the cache holds {megabytes(self._most_bytes):.0f} MB at most"
            )


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _full(folder: Path, error: OSError) -> ClusterError:
    return ClusterError(f"{folder}: cannot be written: {error.strerror or error}", hint="free some space there")
