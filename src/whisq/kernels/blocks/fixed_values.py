"""iq4_nl, iq4_xs and mxfp4: four-bit indices into sixteen fixed values, 32 weights to a scale.

Source of the arithmetic: ggml 0.13, ``ggml-quants.c`` (``quantize_row_iq4_nl_impl``, ``quantize_row_mxfp4_ref``). The
native code is in ``native/fixed_values.cpp``.
"""

# ruff: noqa: D102 - what the methods do is said once, in BlockFormat

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.kernels.blocks import bits
from whisq.kernels.blocks.format import BlockFormat, F, Parts, as_half, inverse_of
from whisq.kernels.reference_search import (
    IQ4_VALUES,
    nearest,
    nearest_iq4,
    of_largest_magnitude,
    search_iq4,
    sequential_sum,
)

if TYPE_CHECKING:
    from whisq.kernels.blocks.bits import Bytes, Floats, Integers

MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], F)


class Iq4NL(BlockFormat):
    """Blocks of 32 with an f16 scale."""

    name = "iq4_nl"

    def values(self, levels: Integers) -> Floats:
        return IQ4_VALUES[levels]

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del row_mean
        mean = sequential_sum(x * x) * F(2 / 32)
        scale = search_iq4(x, x * x if w is None else w * np.sqrt(mean[:, None] + x * x))
        return Parts(nearest_iq4(inverse_of(scale)[:, None] * x), as_half(scale))

    def pack(self, parts: Parts) -> Bytes:
        return np.concatenate([bits.halves(parts.unit), bits.nibbles(parts.levels)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        scale, levels = bits.split(blocks, 2, 16)
        return Parts(bits.from_nibbles(levels), bits.from_halves(scale))


class Iq4XS(Iq4NL):
    """Super-blocks of 256 with an f16 unit, and six bits for each of eight signed scales."""

    name = "iq4_xs"

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del row_mean
        mean = sequential_sum(x * x) * F(2 / 256)
        weights = x * x if w is None else w * np.sqrt(mean[:, None] + x * x)
        scales = search_iq4(x.reshape(-1, 32), weights.reshape(-1, 32)).reshape(-1, 8)
        unit = -of_largest_magnitude(scales) / F(32)
        integers = np.clip(nearest(inverse_of(unit)[:, None] * scales), -32, 31)
        scale = unit[:, None] * integers.astype(F)
        levels = nearest_iq4(inverse_of(scale)[..., None] * x.reshape(-1, 8, 32))
        return Parts(levels.reshape(-1, 256), as_half(unit), scale_integers=integers)

    def pack(self, parts: Parts) -> Bytes:
        scales = self.given(parts.scale_integers) + 32
        high = np.bitwise_or.reduce((scales >> 4) << 2 * np.arange(8), axis=1).astype(np.uint16)
        low = ((scales[:, ::2] & 15) | (scales[:, 1::2] & 15) << 4).astype(np.uint8)
        nibbles = bits.nibbles(parts.levels.reshape(-1, 32)).reshape(-1, 128)
        return np.concatenate([bits.halves(parts.unit), high[:, None].view(np.uint8), low, nibbles], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        unit, high, low, levels = bits.split(blocks, 2, 2, 4, 128)
        scales = np.stack([low & 15, low >> 4], 2).reshape(-1, 8)
        scales |= (high[:, :1] | high[:, 1:] << 8) >> 2 * np.arange(8) << 4 & 48
        integers = bits.from_nibbles(levels.reshape(-1, 16)).reshape(-1, 256)
        return Parts(integers, bits.from_halves(unit), scale_integers=scales - 32)


class Mxfp4(BlockFormat):
    """Blocks of 32 with a byte for the exponent of a scale that is a power of two; importance plays no part.

    The values are those of E2M1 doubled, and the scale, 2^(byte - 128), is half of E8M0's.
    """

    name = "mxfp4"

    def values(self, levels: Integers) -> Floats:
        return MXFP4_VALUES[levels]

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del w, row_mean
        largest = np.where(np.isnan(x), F(0), np.abs(x)).max(1)
        # The logarithm as a float32: just below a power of two it is that power's.
        exponent = np.floor(np.log2(largest.astype(np.float64)).astype(F)) + F(125)
        usable = (largest > 0) & np.isfinite(largest)
        unit = np.ldexp(F(1), (np.where(usable, exponent, 0).astype(np.int32) & 0xFF) - 128)
        error = np.abs(MXFP4_VALUES[:8] * unit[:, None, None] - np.abs(x)[..., None])
        index = np.where(np.isnan(x), 0, error.argmin(2)).astype(np.int32)
        return Parts(index | np.where((index != 0) & (x < 0), 8, 0), unit)

    def pack(self, parts: Parts) -> Bytes:
        exponent = np.where(parts.unit == 0, 0, np.frexp(parts.unit)[1] + 127)
        return np.concatenate([exponent.astype(np.uint8)[:, None], bits.nibbles(parts.levels)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        exponent, levels = bits.split(blocks, 1, 16)
        return Parts(bits.from_nibbles(levels), np.ldexp(F(1), exponent[:, 0] - 128))


FORMATS: tuple[BlockFormat, ...] = (Iq4NL(), Iq4XS(), Mxfp4())
