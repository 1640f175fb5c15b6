"""Files made step by step in one folder, made again only when what they are made from has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from whisq.documents import json_value
from whisq.errors import OutputError
from whisq.hashing import file_sha256
from whisq.records import typed
from whisq.version import __version__
from whisq.writing import write_text


class Steps:
    """A cache of steps: the files of a folder, each with a key of what made it and the hash of what it was then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "made.json"
        self.reused: list[str] = []
        try:
            folder.mkdir(exist_ok=True)
            self._path.touch()
            content = self._path.read_bytes()
        except OSError as error:
            raise OutputError(f"{folder}: cannot be used: {error.strerror}", hint="name another: --folder") from None
        self._known: dict[str, tuple[str, ...]] = {}
        # Where it is damaged everything is made again.
        with contextlib.suppress(ValueError):
            self._known = typed(dict[str, tuple[str, ...]], json_value(content.decode() or "{}"), "made.json")

    def key(self, name: str) -> str:
        """Return the key of a file that was made."""
        return self._known[name][0]

    def made(self, path: Path) -> bool:
        """Return whether a file is there as it was made."""
        known = self._known.get(path.name)
        return known is not None and path.is_file() and known[1] == file_sha256(path)

    def make(self, path: Path, made_from: Mapping[str, Any], make: Callable[[], object]) -> bool:
        """Make a file unless it is there, as it was made from the same; returns whether it was made now.

        Raises ``OutputError`` where the system refuses to write, and what ``make`` raises.
        """
        key = hashlib.sha256(json.dumps({"whisq": __version__, **made_from}, sort_keys=True).encode()).hexdigest()
        if path.is_file() and self._known.get(path.name) == (key, file_sha256(path)):
            self.reused.append(path.name)
            return False
        try:
            make()
            self._known[path.name] = (key, file_sha256(path))
            write_text(self._path, json.dumps(self._known, indent=1) + "\n")
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror or error}",
                hint="free some space, or write to another disk",
            ) from error
        return True
