"""Audio and texts in the Arrow files of a Hugging Face dataset on disk."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from whisq.clips.columns import ARROW_AUDIO_COLUMNS, pick_column


@lru_cache(maxsize=64)
def arrow_table(path: Path) -> Any:
    """Return the Arrow table of a ``datasets`` file, mapped; either of Arrow's two file layouts."""
    import pyarrow

    source = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_file(source).read_all()


def arrow_audio(path: Path, row: int) -> bytes:
    """Return the encoded audio in one row of an Arrow file; raises ``OSError`` for a missing one."""
    table = arrow_table(path)
    column = pick_column(table.column_names, ARROW_AUDIO_COLUMNS)
    value = table.column(column)[row].as_py()
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        value = value.get("path")
    if not value:
        raise FileNotFoundError(2, f"row {row} holds neither audio nor a path")
    return bytes((path.parent / value).read_bytes())
