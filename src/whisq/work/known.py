"""Measurements kept on disk, one line per utterance, so that an interrupted run resumes where it stopped.

One file for what was measured with one model under one set of settings, both by hash; its lines are keyed
by the audio's hash and the language. Each line is written whole and flushed at once; a torn last line is
skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from whisq.documents import json_value
from whisq.errors import OutputError


class Cache:
    """What is known of one model under some settings. With no folder, it remembers nothing beyond the run."""

    def __init__(self, folder: Path | None, kind: str, **settings: Any) -> None:
        self._entries: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._path: Path | None = None
        if folder is None:
            return
        described = json.dumps({"kind": kind, **settings}, sort_keys=True)
        self._path = folder / kind / f"{hashlib.sha256(described.encode()).hexdigest()}.jsonl"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._append({"key": "settings", "value": json.loads(described)})
            self._read(self._path)
        except OSError as error:
            raise OutputError(
                f"{self._path}: the cache cannot be used: {error.strerror or error}",
                hint="name another folder with --cache, or measure without one with --no-cache",
            ) from None

    def _read(self, path: Path) -> None:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json_value(line)
                self._entries[str(entry["key"])] = dict(entry["value"])
            except (KeyError, TypeError, ValueError):
                continue

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under a key, or None."""
        return self._entries.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value under a key, on disk before this returns."""
        self._entries[key] = value
        if self._path is not None:
            self._append({"key": key, "value": value})

    def _append(self, entry: dict[str, Any]) -> None:
        # A run that was cut off may have left half a line: an empty line ends it.
        if self._path is None:
            return
        with self._lock, self._path.open("ab") as stream:
            start = b"" if stream.tell() == 0 or _ends_with_newline(self._path) else b"\n"
            stream.write(start + json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def clip_key(sha256: str, language: str | None) -> str:
    """Return the key of one utterance."""
    return f"{sha256}:{language or ''}"
