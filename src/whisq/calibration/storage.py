"""Write a safetensors file array by array: the ``safetensors`` package would want all of them in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.writing import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES = {"F32": 4, "F16": 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a file: its name, type and shape, and what makes it when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        size = _BYTES[self.dtype]
        for length in self.shape:
            size *= length
        return size


def write_safetensors(path: Path, metadata: Mapping[str, str], entries: Sequence[Entry]) -> None:
    """Write a file, whole or not at all. Raises ``OutputError``."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for entry in entries:
        offsets = [offset, offset + entry.size_bytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        offset = offsets[1]
    encoded = json.dumps(header, ensure_ascii=False).encode("utf-8", "backslashreplace")
    encoded += b" " * (-len(encoded) % 8)
    with whole(path) as part:
        part.write(struct.pack("<Q", len(encoded)) + encoded, 0)
        start = 8 + len(encoded)
        for entry in entries:
            array = entry.make()
            if array.nbytes != entry.size_bytes:
                raise ValueError(f"{entry.name} has {array.nbytes} bytes, expected {entry.size_bytes}")
            part.write(array.tobytes(), start)
            start += entry.size_bytes
