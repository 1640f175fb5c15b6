"""What every block format has to say of itself, and the parts that its blocks are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from whisq.errors import KernelError

if TYPE_CHECKING:
    from whisq.kernels.blocks.bits import Bytes, Floats, Integers

F = np.float32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a format's blocks are made of, for ``n`` blocks.

    ``levels`` are the stored integers ``[n, block size]``. ``unit`` is the scale, of a super-block the scales' unit
    ``[n]``; ``minimum`` the offset of q4_1 and q5_1, of a super-block the minimums' unit. ``scale_integers`` and
    ``minimum_integers`` are the sub-blocks' ``[n, sub-blocks]``; signed scales (q3_K, q6_K, iq4_xs) are signed here.
    """

    levels: Integers
    unit: Floats
    minimum: Floats | None = None
    scale_integers: Integers | None = None
    minimum_integers: Integers | None = None


class BlockFormat(ABC):
    """One type's blocks: how ggml rounds weights to parts, and how parts lie in bytes.

    ``zero`` is the stored integer that stands for 0. Arrays have one block per row; floats are float32, summed in the
    order in which ggml sums them.
    """

    name: str
    zero: int = 0

    @abstractmethod
    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        """Return what ggml makes of weights ``[n, block size]``.

        ``w`` is their importance, of the same shape, or None; ``row_mean`` ``[n, 1]`` the mean square of the whole row
        that a block is from.
        """

    @abstractmethod
    def pack(self, parts: Parts) -> Bytes:
        """Return blocks ``uint8[n, block bytes]``."""

    @abstractmethod
    def unpack(self, blocks: Bytes) -> Parts:
        """Return the parts of blocks ``uint8[n, block bytes]``, whatever they hold."""

    def values(self, levels: Integers) -> Floats:
        """Return what stored integers stand for, before scale and offset."""
        return (levels - self.zero).astype(F)

    def decode(self, parts: Parts) -> Floats:
        """Return the weights ``[n, block size]`` that parts stand for: scale × value + offset in each sub-block."""
        scale, offset = parts.unit[:, None], None
        if parts.scale_integers is not None:
            scale = scale * parts.scale_integers.astype(F)
        if parts.minimum is not None:
            offset = parts.minimum[:, None]
            if parts.minimum_integers is not None:
                offset = -(offset * parts.minimum_integers.astype(F))
        decoded = self.values(parts.levels).reshape(*scale.shape, -1) * scale[..., None]
        if offset is not None:
            decoded = decoded + offset[..., None]
        result: Floats = decoded.reshape(len(parts.levels), -1)
        return result

    def given(self, field: T | None) -> T:
        """Return a part that this format needs. Raises ``KernelError`` where it was not given."""
        if field is None:
            raise KernelError(f"{self.name} has sub-blocks or minimums, and the parts to pack have none")
        return field


def as_half(values: Floats) -> Floats:
    """Return what values decode to once they are written as f16."""
    return values.astype(np.float16).astype(F)


def inverse_of(values: Floats) -> Floats:
    """Return 1 / value, and 0 for 0."""
    return np.where(values != 0, F(1) / values, F(0)).astype(F)
