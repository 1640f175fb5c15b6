"""What a file to be written consists of: which container, which tensors in which types, where every byte of it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whisq.model import ContainerName, TensorRef
from whisq.types import TensorType

__all__ = ["CONTAINERS", "Beside", "ContainerName", "Layout", "Output", "WrittenContainer"]


@dataclass(frozen=True, slots=True)
class WrittenContainer:
    """A container that is written.

    ``module`` in ``formats`` lays it out, ``suffix`` is that of its files, ``title`` is what a sentence calls it, and
    ``to_write`` what to do to get it. ``has_provenance`` is whether it has room for where the file comes from.
    """

    module: str
    suffix: str
    title: str
    to_write: str
    has_provenance: bool


CONTAINERS: dict[ContainerName, WrittenContainer] = {
    "bin": WrittenContainer("ggml", ".bin", ".bin", "write a .bin file", has_provenance=False),
    "gguf": WrittenContainer("gguf", ".gguf", ".gguf", "write a .gguf file", has_provenance=True),
    "candle": WrittenContainer(
        "candle", ".gguf", "candle's .gguf", "write a .gguf file with --format candle", has_provenance=True
    ),
}
"""By what ``--format`` calls them; of those with one suffix the first is meant by it."""


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor as it will be written."""

    tensor: TensorRef
    type: TensorType

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's data in the written file, padding excluded."""
        return self.tensor.n_rows * self.type.row_bytes(self.tensor.n_columns)


@dataclass(frozen=True, slots=True)
class Beside:
    """A small file that a loader wants in the folder of the model.

    ``says_the_same`` tells of an existing file whether it does as well; it raises ``FormatError`` for a damaged one.
    """

    name: str
    content: bytes
    says_the_same: Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes in a file to be written.

    ``pieces`` are (offset, bytes) of all that is not weights; ``data_offsets`` has one offset in bytes for each
    output, in the order given. ``size_bytes`` is the size of the whole file. ``beside`` is what goes with it.
    """

    size_bytes: int
    pieces: tuple[tuple[int, bytes], ...]
    data_offsets: tuple[int, ...]
    beside: tuple[Beside, ...] = ()
