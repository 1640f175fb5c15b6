"""Tables that hold audio: the Arrow files of a Hugging Face dataset on disk, and Parquet."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from whisq.clips.audio import open_audio
from whisq.clips.columns import ARROW_AUDIO_COLUMNS, pick_column
from whisq.errors import DataError

_AGAIN = "save it again with Dataset.save_to_disk"
_AGAIN_PARQUET = "save it again with Dataset.to_parquet"


@lru_cache(maxsize=64)
def arrow_table(path: Path) -> Any:
    """Return the table of a Parquet file or, mapped, of a ``datasets`` file in either of Arrow's two layouts.

    Raises ``DataError`` for what is not one.
    """
    import pyarrow

    is_parquet = path.suffix.lower() == ".parquet"
    try:
        with open_audio(path):  # a pipe, or a device, would be waited for
            source = pyarrow.memory_map(str(path))
        if is_parquet:
            from pyarrow import parquet

            return parquet.read_table(source)
        try:
            return pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(source).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        kind, again = ("a Parquet", _AGAIN_PARQUET) if is_parquet else ("an Arrow", _AGAIN)
        raise DataError(f"{path}: is not {kind} file, or damaged: {error}", hint=again) from None


def arrow_audio(path: Path, row: int) -> io.BufferedIOBase:
    """Return the encoded audio in one row of a table.

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
