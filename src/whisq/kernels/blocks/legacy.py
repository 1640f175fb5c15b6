"""q4_0 q4_1 q5_0 q5_1 q8_0: blocks of 32 weights with an f16 scale, and for the _1 types an f16 minimum.

Source of the arithmetic: ggml 0.13, ``ggml-quants.c`` (``quantize_row_q*_ref``, ``quantize_row_q*_impl``). A type's
native code is in ``native/rounding.cpp`` and, with importance, ``native/legacy.cpp``.
"""

# ruff: noqa: D102 - what the methods do is said once, in BlockFormat

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.kernels.blocks import bits
from whisq.kernels.blocks.format import BlockFormat, F, Parts, as_half, inverse_of
from whisq.kernels.reference_search import of_largest_magnitude, search_scale, search_scale_min, smallest

if TYPE_CHECKING:
    from whisq.kernels.blocks.bits import Bytes, Floats, Integers


def _low_byte(values: Floats) -> Integers:
    """C's conversion to int8_t: to int32, then the low byte with its sign."""
    finite = np.where(np.isfinite(values), values, F(-(2.0**31)))
    return (finite.astype(np.int64).astype(np.int32) << 24) >> 24


class _FewBits(BlockFormat):
    """Four or five bits per weight: low nibbles in 16 bytes, before them the fifth bits in four."""

    def __init__(self, name: str, n_bits: int) -> None:
        self.name = name
        self.n_bits = n_bits

    def pack_levels(self, levels: Integers) -> list[Bytes]:
        return ([bits.fifth_bits(levels)] if self.n_bits == 5 else []) + [bits.nibbles(levels)]

    def unpack_levels(self, field: Integers) -> Integers:
        if self.n_bits == 4:
            return bits.from_nibbles(field)
        return bits.from_fifth_bits(field[:, :4]) | bits.from_nibbles(field[:, 4:])


class Symmetric(_FewBits):
    """q4_0 and q5_0: integers from -2^(bits - 1) on; the weight of largest magnitude is the lowest."""

    def __init__(self, name: str, n_bits: int) -> None:
        super().__init__(name, n_bits)
        self.zero = 1 << (n_bits - 1)

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        if w is not None:
            scale, levels, _ = search_scale(x, w * np.sqrt(row_mean + x * x), self.zero)
        else:
            scale = of_largest_magnitude(x) / F(-self.zero)
            levels = _low_byte(x * inverse_of(scale)[:, None] + F(self.zero + 0.5))
            levels = np.minimum(levels, 2 * self.zero - 1)
        return Parts(levels, as_half(scale))

    def pack(self, parts: Parts) -> Bytes:
        return np.concatenate([bits.halves(parts.unit), *self.pack_levels(parts.levels)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        scale, levels = bits.split(blocks, 2, 4 * self.n_bits)
        return Parts(self.unpack_levels(levels), bits.from_halves(scale))


class Ranged(_FewBits):
    """q4_1 and q5_1: integers from 0 on, above the block's minimum."""

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        most = (1 << self.n_bits) - 1
        if w is not None:
            scale, minimum, levels = search_scale_min(x, w * np.sqrt(row_mean + x * x), most, -0.9, 0.05, 36)
            return Parts(levels, as_half(scale), as_half(-minimum))
        low = smallest(x)
        scale = (x.max(1) - low + F(0)) / F(most)  # + 0: of zeros with both signs the range is +0
        levels = _low_byte((x - low[:, None]) * inverse_of(scale)[:, None] + F(0.5))
        levels = np.minimum(levels, most) if self.n_bits == 4 else levels & 0xFF
        return Parts(levels, as_half(scale), as_half(low))

    def pack(self, parts: Parts) -> Bytes:
        head = [bits.halves(parts.unit), bits.halves(self.given(parts.minimum))]
        return np.concatenate([*head, *self.pack_levels(parts.levels)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        scale, minimum, levels = bits.split(blocks, 2, 2, 4 * self.n_bits)
        return Parts(self.unpack_levels(levels), bits.from_halves(scale), bits.from_halves(minimum))


class Bytewise(BlockFormat):
    """q8_0: integers from -127 to 127; importance plays no part.

    A byte of -128, which ggml never writes, unpacks to level -1.
    """

    name = "q8_0"
    zero = 127

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del w, row_mean
        scale = np.abs(x).max(1) / F(127)
        scaled = x * inverse_of(scale)[:, None]
        away = np.trunc(scaled) + np.where(np.abs(scaled - np.trunc(scaled)) >= 0.5, np.sign(scaled), 0)
        return Parts(_low_byte(away.astype(F)) + self.zero, as_half(scale))

    def pack(self, parts: Parts) -> Bytes:
        return np.concatenate([bits.halves(parts.unit), (parts.levels - self.zero).astype(np.int8).view(np.uint8)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        scale, levels = bits.split(blocks, 2, 32)
        return Parts(levels.astype(np.uint8).view(np.int8).astype(np.int32) + self.zero, bits.from_halves(scale))


FORMATS: tuple[BlockFormat, ...] = (
    Symmetric("q4_0", 4),
    Ranged("q4_1", 4),
    Symmetric("q5_0", 5),
    Ranged("q5_1", 5),
    Bytewise(),
)
