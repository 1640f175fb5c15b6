"""What a file to be written consists of: which tensors in which types, and where every byte of it goes."""

from __future__ import annotations

from dataclasses import dataclass

from whisq.model import ContainerName, TensorRef
from whisq.types import TensorType

__all__ = ["ContainerName", "Layout", "Output"]


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
class Layout:
    """Where everything goes in a file to be written.

    ``pieces`` are (offset, bytes) of all that is not weights; ``data_offsets`` has one offset in bytes for each
    output, in the order given. ``size_bytes`` is the size of the whole file.
    """

    size_bytes: int
    pieces: tuple[tuple[int, bytes], ...]
    data_offsets: tuple[int, ...]
