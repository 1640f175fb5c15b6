"""Audio and texts in the Arrow files of a Hugging Face dataset on disk."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from whisq.clips.audio import open_audio
from whisq.clips.columns import ARROW_AUDIO_COLUMNS, pick_column
from whisq.errors import DataError

_AGAIN = "save it again with Dataset.save_to_disk"


@lru_cache(maxsize=64)
def arrow_table(path: Path) -> Any:
    """Return the Arrow table of a ``datasets`` file, mapped; either of Arrow's two file layouts.

    Raises ``DataError`` for what is not one.
    """
    import pyarrow

    try:
        with open_audio(path):  # a pipe, or a device, would be waited for
            source = pyarrow.memory_map(str(path))
        try:
            return pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(source).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not an Arrow file, or damaged: {error}", hint=_AGAIN) from None


def arrow_audio(path: Path, row: int) -> io.BufferedIOBase:
    """Return the encoded audio in one row of an Arrow file.

    Raises ``OSError`` for a missing one, ``DataError`` for a row that holds another thing.
    """
    table = arrow_table(path)
    column = pick_column(table.column_names, ARROW_AUDIO_COLUMNS)
    value = table.column(column)[row].as_py()
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes):
            return io.BytesIO(value["bytes"])
        value = value.get("path")
    if not value:
        raise FileNotFoundError(2, f"row {row} holds neither audio nor a path")
    if not isinstance(value, str):
        raise DataError(f"row {row} holds {ascii(value)[:40]}, expected audio or a path")
    return open_audio(path.parent / value)
