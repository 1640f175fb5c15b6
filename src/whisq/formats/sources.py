"""An open model's files as they are sent to another machine."""

from __future__ import annotations

from pathlib import Path

from whisq.model import Model
from whisq.work.content import Source

_MOST_BYTES = 64_000_000
"""Of a file beside the weights: vocabularies and settings are smaller, other copies of the weights larger."""


def source_of(model: Model) -> tuple[Source, str]:
    """Return what has to be there to open a model, and the name to open below its root, empty for the root itself.

    Of a folder these are the files with weights and what lies beside them, but for files as large as other weights.
    """
    path = model.path.resolve()
    if model.format in ("bin", "gguf", "openai") and path.is_file():
        return Source.of(path, sha256=model.sha256), ""
    root = path if path.is_dir() else path.parent
    weights = {Path(file.path).resolve() for file in model.files}
    names = [
        other.relative_to(root).as_posix()
        for other in root.iterdir()
        if other.is_file() and (other.resolve() in weights or other.stat().st_size <= _MOST_BYTES)
    ]
    return Source.of(root, names), "" if path.is_dir() else path.name
