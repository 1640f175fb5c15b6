"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from whisq.model import Model


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex; raises ``OSError``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_HASHED_BYTES = 1 << 22


def source_sha256(model: Model) -> str:
    """Return the SHA-256 of a model's weight file in hex; of several, that of their contents one after the other."""
    digest = hashlib.sha256()
    for file in model.files:
        for start in range(0, file.size_bytes, _HASHED_BYTES):
            stop = min(start + _HASHED_BYTES, file.size_bytes)
            digest.update(file.view[start:stop])
            file.release(start, stop)
    return digest.hexdigest()
