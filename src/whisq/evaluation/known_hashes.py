"""SHA-256 of files that were hashed before, and not written since."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.work.known import Cache

if TYPE_CHECKING:
    from whisq.model import Model

_SETTLED_NS = 2_000_000_000
"""A file that changed less ago may change again without a clock that ticks slowly showing it."""


def known_sha256(model: Model, cache_folder: Path | None) -> str:
    """Return ``model.sha256``, from the cache where device, inode, size and both times of all its files are as then.

    One of these times no program can set. Windows has no such time: there every file is read.
    """
    key = _key(model) if cache_folder is not None and sys.platform != "win32" else None
    if key is None:
        return model.sha256
    cache = Cache(cache_folder, "hashes")
    kept = cache.get(key)
    if kept is None:
        kept = {"sha256": model.sha256}
        cache.put(key, kept)
    return str(kept["sha256"])


def _key(model: Model) -> str | None:
    """Return what tells the files as they are, None where one has just changed."""
    parts = []
    for state in model.states:
        found = state.path.stat()
        if time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) < _SETTLED_NS:
            return None
        parts.append(f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}")
    return " ".join(parts)
