"""q2_K q3_K q4_K q5_K q6_K: super-blocks of 256 weights whose sub-blocks' scales are quantized too.

Source of the arithmetic: ggml 0.13, ``ggml-quants.c`` (``quantize_row_q*_K_ref``, ``quantize_row_q*_K_impl``). The
native code is in ``native/k_quants.cpp``.
"""

# ruff: noqa: D102 - what the methods do is said once, in BlockFormat

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.kernels.blocks import bits
from whisq.kernels.blocks.format import BlockFormat, F, Parts, as_half
from whisq.kernels.reference_search import (
    nearest,
    of_largest_magnitude,
    search_positive,
    search_q3,
    search_scale,
    search_scale_min,
    sequential_sum,
)

if TYPE_CHECKING:
    from whisq.kernels.blocks.bits import Bytes, Floats, Integers


def _weights(x: Floats, w: Floats, factor: float) -> Floats:
    """Importance × sqrt(mean square of the super-block + x²)."""
    mean = F(factor) * sequential_sum(x * x) / F(256)
    weighted: Floats = w * np.sqrt(mean[:, None] + x * x)
    return weighted


def _again(x: Floats, scale: Floats, minimum: Floats, kept: Integers, low: int, high: int) -> Integers:
    """Take integers anew with decoded scales and minimums; where the scale is 0 the search's stay."""
    sub = x.reshape(*scale.shape, -1)
    fresh = np.clip(nearest((sub + minimum[..., None]) / scale[..., None]), low, high) - low
    return np.where(scale[..., None] == 0, kept.reshape(sub.shape), fresh).reshape(x.shape)


def _plain_units(values: Floats, most: int, *, clamp: bool) -> tuple[Floats, Integers]:
    """Quantize scales that are not negative by their largest: the unit and integers."""
    largest = np.maximum(values.max(1), F(0))
    inverse = np.where(largest > 0, F(most) / largest, F(0)).astype(F)
    integers = nearest(inverse[:, None] * values) & 0xFF
    return (largest / F(most)).astype(F), (np.minimum(integers, most) if clamp else integers)


class Q2K(BlockFormat):
    """Two bits, and four for each of sixteen scales and minimums."""

    name = "q2_K"

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del row_mean
        sub = x.reshape(-1, 16)
        if w is None:
            found = search_scale_min(sub, np.abs(sub), 3, -0.5, 0.1, 15, absolute_error=True)
            scales, minimums, kept = found[0].reshape(-1, 16), found[1].reshape(-1, 16), found[2]
            unit, scale_integers = _plain_units(scales, 15, clamp=False)
            minimum_unit, minimum_integers = _plain_units(minimums, 15, clamp=False)
        else:
            weights = _weights(x, w, 1).reshape(-1, 16)
            found = search_scale_min(sub, weights, 3, -0.9, 0.05, 36)
            scales, minimums, kept = found[0].reshape(-1, 16), found[1].reshape(-1, 16), found[2]
            sums = sequential_sum(weights).reshape(-1, 16)
            unit, scale_integers = search_positive(scales, sums, 15)
            minimum_unit, minimum_integers = search_positive(minimums, sums, 15)
        unit, minimum_unit = as_half(unit), as_half(minimum_unit)
        packed = (scale_integers | minimum_integers << 4) & 0xFF
        scale_integers, minimum_integers = packed & 15, packed >> 4
        scale, minimum = unit[:, None] * scale_integers.astype(F), minimum_unit[:, None] * minimum_integers.astype(F)
        levels = _again(x, scale, minimum, kept, 0, 3)
        return Parts(levels, unit, minimum_unit, scale_integers, minimum_integers)

    def pack(self, parts: Parts) -> Bytes:
        scales = (self.given(parts.scale_integers) | self.given(parts.minimum_integers) << 4).astype(np.uint8)
        units = [bits.halves(parts.unit), bits.halves(self.given(parts.minimum))]
        return np.concatenate([scales, bits.two_bits(parts.levels), *units], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        scales, levels, unit, minimum = bits.split(blocks, 16, 64, 2, 2)
        return Parts(
            bits.from_two_bits(levels), bits.from_halves(unit), bits.from_halves(minimum), scales & 15, scales >> 4
        )


class Q3K(BlockFormat):
    """Three bits, and six for each of sixteen signed scales."""

    name = "q3_K"
    zero = 4

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del row_mean
        sub = x.reshape(-1, 16)
        if w is None:
            scales, kept = search_q3(sub)
            scales = scales.reshape(-1, 16)
            largest = of_largest_magnitude(scales)
            inverse = F(-32) / largest
            clamped = np.clip((nearest(inverse[:, None] * scales) << 24) >> 24, -32, 31)
            integers = np.where(largest[:, None] != 0, clamped, -32)
            unit = np.where(largest != 0, F(1) / inverse, F(0)).astype(F)
        else:
            weights = _weights(x, w, 2).reshape(-1, 16)
            scales, kept, _ = search_scale(sub, weights, 4)
            unit, integers, _ = search_scale(scales.reshape(-1, 16), sequential_sum(weights).reshape(-1, 16), 32)
            integers = integers - 32
        unit = as_half(unit)
        scale = unit[:, None] * integers.astype(F)
        levels = _again(x, scale, np.zeros_like(scale), kept, -4, 3)
        return Parts(levels, unit, scale_integers=integers)

    def pack(self, parts: Parts) -> Bytes:
        scales = self.given(parts.scale_integers) + 32
        low = (scales[:, :8] & 15) | (scales[:, 8:] & 15) << 4
        high = (scales >> 4 & 3).reshape(-1, 4, 4)
        packed = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
        quants = [bits.bit_plane(parts.levels, 2), bits.two_bits(parts.levels)]
        return np.concatenate([*quants, low.astype(np.uint8), packed.astype(np.uint8), bits.halves(parts.unit)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        high, low, low_scales, high_scales, unit = bits.split(blocks, 32, 64, 8, 4, 2)
        scales = np.concatenate([low_scales & 15, low_scales >> 4], 1)
        scales |= (high_scales[:, None] >> 2 * np.arange(4)[:, None] & 3).reshape(-1, 16) << 4
        levels = bits.from_two_bits(low) | bits.from_bit_plane(high, 2)
        return Parts(levels, bits.from_halves(unit), scale_integers=scales - 32)


class Q45K(BlockFormat):
    """q4_K and q5_K: four or five bits, and six for each of eight scales and minimums."""

    def __init__(self, name: str, n_bits: int) -> None:
        self.name = name
        self.n_bits = n_bits

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del row_mean
        sub, most = x.reshape(-1, 32), (1 << self.n_bits) - 1
        if w is None:
            average = np.sqrt(sequential_sum(sub * sub) / F(32))
            search_from, steps = (-1.0, 20) if self.n_bits == 4 else (-0.5, 15)
            found = search_scale_min(sub, average[:, None] + np.abs(sub), most, search_from, 0.1, steps)
            scales, minimums, kept = found[0].reshape(-1, 8), found[1].reshape(-1, 8), found[2]
            unit, scale_integers = _plain_units(scales, 63, clamp=True)
            minimum_unit, minimum_integers = _plain_units(minimums, 63, clamp=True)
        else:
            weights = _weights(x, w, 2).reshape(-1, 32)
            found = search_scale_min(sub, weights, most, -0.9, 0.05, 36)
            scales, minimums, kept = found[0].reshape(-1, 8), found[1].reshape(-1, 8), found[2]
            sums = sequential_sum(weights).reshape(-1, 8)
            unit, scale_integers = search_positive(scales, sums, 63)
            minimum_unit, minimum_integers = search_positive(minimums, sums, 63)
        unit, minimum_unit = as_half(unit), as_half(minimum_unit)
        scale, minimum = unit[:, None] * scale_integers.astype(F), minimum_unit[:, None] * minimum_integers.astype(F)
        levels = _again(x, scale, minimum, kept, 0, most)
        return Parts(levels, unit, minimum_unit, scale_integers, minimum_integers)

    def pack(self, parts: Parts) -> Bytes:
        units = [bits.halves(parts.unit), bits.halves(self.given(parts.minimum))]
        scales = bits.scales_and_minimums(self.given(parts.scale_integers), self.given(parts.minimum_integers))
        fifth = [bits.bit_plane(parts.levels, 4)] if self.n_bits == 5 else []
        return np.concatenate([*units, scales, *fifth, bits.paired_nibbles(parts.levels)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        unit, minimum, packed, fifth, low = bits.split(blocks, 2, 2, 12, 32 * (self.n_bits - 4), 128)
        scales, minimums = bits.from_scales_and_minimums(packed)
        levels = bits.from_paired_nibbles(low)
        if self.n_bits == 5:
            levels |= bits.from_bit_plane(fifth, 4)
        return Parts(levels, bits.from_halves(unit), bits.from_halves(minimum), scales, minimums)


class Q6K(BlockFormat):
    """Six bits, and eight for each of sixteen signed scales."""

    name = "q6_K"
    zero = 32

    def quantize(self, x: Floats, w: Floats | None, row_mean: Floats) -> Parts:
        del row_mean
        sub = x.reshape(-1, 16)
        scales, kept, _ = search_scale(sub, sub * sub if w is None else w.reshape(-1, 16), 32)
        scales = scales.reshape(-1, 16)
        largest = of_largest_magnitude(scales)
        is_zero = np.abs(largest) < F(1e-15)
        inverse = F(-128) / largest
        unit = as_half(np.where(is_zero, F(0), F(1) / inverse).astype(F))
        integers = (np.minimum(nearest(inverse[:, None] * scales), 127) << 24) >> 24
        integers = np.where(is_zero[:, None], 0, integers)
        scale = unit[:, None] * integers.astype(F)
        levels = _again(x, scale, np.zeros_like(scale), kept, -32, 31)
        return Parts(np.where(is_zero[:, None], 0, levels), unit, scale_integers=integers)

    def pack(self, parts: Parts) -> Bytes:
        quarters = parts.levels.reshape(-1, 2, 4, 32)
        low = np.concatenate([(quarters[:, :, k] & 15) | (quarters[:, :, k + 2] & 15) << 4 for k in (0, 1)], 2)
        high = np.bitwise_or.reduce((quarters >> 4 & 3) << 2 * np.arange(4)[:, None], axis=2)
        quants = [low.reshape(-1, 128).astype(np.uint8), high.reshape(-1, 64).astype(np.uint8)]
        scales = self.given(parts.scale_integers).astype(np.int8).view(np.uint8)
        return np.concatenate([*quants, scales, bits.halves(parts.unit)], 1)

    def unpack(self, blocks: Bytes) -> Parts:
        low, high, scales, unit = bits.split(blocks, 128, 64, 16, 2)
        nibbles = (low.reshape(-1, 2, 1, 64) >> 4 * np.arange(2)[:, None] & 15).reshape(-1, 256)
        levels = nibbles | bits.from_two_bits(high) << 4
        integers = scales.astype(np.uint8).view(np.int8).astype(np.int32)
        return Parts(levels, bits.from_halves(unit), scale_integers=integers)


FORMATS: tuple[BlockFormat, ...] = (Q2K(), Q3K(), Q45K("q4_K", 4), Q45K("q5_K", 5), Q6K())
