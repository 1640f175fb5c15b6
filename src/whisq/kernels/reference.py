"""What the kernels compute, in numpy: the definition that the native core is tested against.

One axis of every array is the block, so that a block's elements are summed in ggml's order (``ggml-quants.c``,
ggml 0.13: ``quantize_row_*_ref`` and ``quantize_row_*_impl``) in float32, one after the other. Slow and plain; the
searches are in ``reference_search``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from whisq.kernels.reference_search import (
    nearest,
    nearest_iq4,
    of_largest_magnitude,
    search_iq4,
    search_positive,
    search_q3,
    search_scale,
    search_scale_min,
    sequential_sum,
    smallest,
)
from whisq.types import TensorType, parse_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int32]
    Bytes = NDArray[np.uint8]

F = np.float32


def quantize(
    weights: Floats,
    type: str | TensorType,  # noqa: A002 - the field's own word for it
    importance: Floats | None = None,
) -> Bytes:
    """Return ``float32[rows, columns]`` in a block format: ``uint8[rows, row bytes]``.

    ``importance`` is ``float32[columns]``, ggml's imatrix argument. Raises ``KeyError`` for a type without blocks.
    """
    kind = parse_type(type)
    rows, columns = weights.shape
    x = np.ascontiguousarray(weights, F).reshape(-1, kind.block_size)
    w = None
    row_mean = np.zeros((len(x), 1), F)
    if importance is not None:
        w = np.tile(np.asarray(importance, F).reshape(-1, kind.block_size), (rows, 1))
        means = sequential_sum(weights * weights) / F(columns)
        row_mean = np.repeat(means, columns // kind.block_size)[:, None]
    with np.errstate(all="ignore"):
        blocks = _QUANTIZERS[kind.name](x, w, row_mean)
    return blocks.reshape(rows, -1)


def _half(values: Floats) -> tuple[Bytes, Floats]:
    """Round to f16; return the bytes ``[n, 2]`` and what they decode to."""
    halves = values.astype(np.float16)
    return halves[:, None].view(np.uint8), halves.astype(F)


def _inverse(values: Floats) -> Floats:
    return np.where(values != 0, F(1) / values, F(0)).astype(F)


def _nibbles(integers: Integers) -> Bytes:
    """Pack 32 integers: low nibbles of j and j + 16 share a byte."""
    return ((integers[:, :16] & 15) | (integers[:, 16:] & 15) << 4).astype(np.uint8)


def _fifth_bits(integers: Integers) -> Bytes:
    bits = np.zeros(len(integers), np.uint32)
    for j in range(32):
        bits |= (integers[:, j] >> 4 & 1).astype(np.uint32) << np.uint32(j)
    return bits[:, None].view(np.uint8)


def _low_byte(values: Floats) -> Integers:
    """C's conversion to int8_t: to int32, then the low byte with its sign."""
    finite = np.where(np.isfinite(values), values, F(-(2.0**31)))
    return (finite.astype(np.int64).astype(np.int32) << 24) >> 24


def _symmetric(bits: int) -> Callable[[Floats, Floats | None, Floats], Bytes]:
    half = 1 << (bits - 1)

    def quantizer(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
        if w is not None:
            scale, integers, _ = search_scale(x, w * np.sqrt(row_mean + x * x), half)
        else:
            scale = of_largest_magnitude(x) / F(-half)
            integers = np.minimum(_low_byte(x * _inverse(scale)[:, None] + F(half + 0.5)), 2 * half - 1)
        parts = [_half(scale)[0]] + ([_fifth_bits(integers)] if bits == 5 else []) + [_nibbles(integers)]
        return np.concatenate(parts, 1)

    return quantizer


def _ranged(bits: int) -> Callable[[Floats, Floats | None, Floats], Bytes]:
    most = (1 << bits) - 1

    def quantizer(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
        if w is not None:
            weights = w * np.sqrt(row_mean + x * x)
            scale, minimum, integers = search_scale_min(x, weights, most, -0.9, 0.05, 36)
            low = -minimum
        else:
            low = smallest(x)
            scale = (x.max(1) - low + F(0)) / F(most)  # + 0: of zeros with both signs the range is +0
            scaled = (x - low[:, None]) * _inverse(scale)[:, None] + F(0.5)
            integers = np.minimum(_low_byte(scaled), most) if bits == 4 else _low_byte(scaled) & 0xFF
        parts = [_half(scale)[0], _half(low)[0]] + ([_fifth_bits(integers)] if bits == 5 else [])
        return np.concatenate([*parts, _nibbles(integers)], 1)

    return quantizer


def _q8_0(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
    del w, row_mean
    scale = np.abs(x).max(1) / F(127)
    scaled = x * _inverse(scale)[:, None]
    away = np.trunc(scaled) + np.where(np.abs(scaled - np.trunc(scaled)) >= 0.5, np.sign(scaled), 0)
    return np.concatenate([_half(scale)[0], _low_byte(away.astype(F)).astype(np.uint8)], 1)


def _super_weights(x: Floats, w: Floats, factor: float) -> Floats:
    """Importance × sqrt(mean square of the super-block + x²)."""
    mean = F(factor) * sequential_sum(x * x) / F(256)
    weighted: Floats = w * np.sqrt(mean[:, None] + x * x)
    return weighted


def _two_bits(integers: Integers) -> Bytes:
    parts = (integers & 3).reshape(-1, 2, 4, 32)
    packed = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    return packed.reshape(-1, 64).astype(np.uint8)


def _bit_planes(integers: Integers, bit: int) -> Bytes:
    """Collect one bit of 256 integers: j, j + 32, … j + 224 share a byte."""
    planes = (integers >> bit & 1).reshape(-1, 8, 32)
    packed: Bytes = np.bitwise_or.reduce(planes << np.arange(8)[None, :, None], axis=1).astype(np.uint8)
    return packed


def _requantize(x: Floats, d: Floats, m: Floats, kept: Integers, low: int, high: int) -> Integers:
    """Take integers anew with decoded scales and minimums; where the scale is 0 the search's stay."""
    fresh = np.clip(nearest((x + m[..., None]) / d[..., None]), low, high) - low
    return np.where(d[..., None] == 0, kept, fresh)


def _plain_units(values: Floats, most: int, *, clamp: bool) -> tuple[Integers, Floats]:
    """Quantize scales that are not negative by their largest: integers and the unit."""
    largest = np.maximum(values.max(1), F(0))
    inverse = np.where(largest > 0, F(most) / largest, F(0)).astype(F)
    integers = nearest(inverse[:, None] * values) & 0xFF
    return (np.minimum(integers, most) if clamp else integers), (largest / F(most)).astype(F)


def _q2_k(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
    del row_mean
    sub = x.reshape(-1, 16)
    if w is None:
        scales, mins, kept = search_scale_min(sub, np.abs(sub), 3, -0.5, 0.1, 15, absolute_error=True)
    else:
        weights = _super_weights(x, w, 1).reshape(-1, 16)
        scales, mins, kept = search_scale_min(sub, weights, 3, -0.9, 0.05, 36)
    scales, mins = scales.reshape(-1, 16), mins.reshape(-1, 16)
    if w is None:
        scale_l, unit = _plain_units(scales, 15, clamp=False)
        min_l, min_unit = _plain_units(mins, 15, clamp=False)
    else:
        sums = sequential_sum(weights).reshape(-1, 16)
        unit, scale_l = search_positive(scales, sums, 15)
        min_unit, min_l = search_positive(mins, sums, 15)
    (d_bytes, d), (m_bytes, m) = _half(unit), _half(min_unit)
    packed = (scale_l | min_l << 4) & 0xFF
    integers = _requantize(
        x.reshape(-1, 16, 16), d[:, None] * (packed & 15).astype(F), m[:, None] * (packed >> 4).astype(F),
        kept.reshape(-1, 16, 16), 0, 3,
    )  # fmt: skip
    return np.concatenate([packed.astype(np.uint8), _two_bits(integers.reshape(-1, 256)), d_bytes, m_bytes], 1)


def _q3_k(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
    del row_mean
    sub = x.reshape(-1, 16)
    if w is None:
        scales, kept = search_q3(sub)
        scales = scales.reshape(-1, 16)
        largest = of_largest_magnitude(scales)
        inverse = F(-32) / largest
        clamped = np.clip((nearest(inverse[:, None] * scales) << 24) >> 24, -32, 31) + 32
        scale_l = np.where(largest[:, None] != 0, clamped, 0)
        unit = np.where(largest != 0, F(1) / inverse, F(0)).astype(F)
    else:
        weights = _super_weights(x, w, 2).reshape(-1, 16)
        scales, kept, _ = search_scale(sub, weights, 4)
        unit, scale_l, _ = search_scale(scales.reshape(-1, 16), sequential_sum(weights).reshape(-1, 16), 32)
    d_bytes, d_all = _half(unit)
    d = d_all[:, None] * (scale_l - 32).astype(F)
    x16, none = x.reshape(-1, 16, 16), np.zeros_like(d)
    integers = _requantize(x16, d, none, kept.reshape(-1, 16, 16), -4, 3).reshape(-1, 256)
    low = (scale_l[:, :8] & 15) | (scale_l[:, 8:] & 15) << 4
    high = (scale_l >> 4 & 3).reshape(-1, 4, 4)
    packed = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    scale_bytes = np.concatenate([low, packed], 1).astype(np.uint8)
    return np.concatenate([_bit_planes(integers, 2), _two_bits(integers), scale_bytes, d_bytes], 1)


def _scales_and_mins(scales: Integers, mins: Integers) -> Bytes:
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = mins[:, :4] | mins[:, 4:] >> 4 << 6
    third = (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], 1).astype(np.uint8)


def _q45_k(bits: int) -> Callable[[Floats, Floats | None, Floats], Bytes]:
    most = (1 << bits) - 1
    search_from, steps = (-1.0, 20) if bits == 4 else (-0.5, 15)

    def quantizer(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
        del row_mean
        sub = x.reshape(-1, 32)
        if w is None:
            average = np.sqrt(sequential_sum(sub * sub) / F(32))
            weights = average[:, None] + np.abs(sub)
            scales, mins, kept = search_scale_min(sub, weights, most, search_from, 0.1, steps)
            scale_l, unit = _plain_units(scales.reshape(-1, 8), 63, clamp=True)
            min_l, min_unit = _plain_units(mins.reshape(-1, 8), 63, clamp=True)
        else:
            weights = _super_weights(x, w, 2).reshape(-1, 32)
            scales, mins, kept = search_scale_min(sub, weights, most, -0.9, 0.05, 36)
            sums = sequential_sum(weights).reshape(-1, 8)
            unit, scale_l = search_positive(scales.reshape(-1, 8), sums, 63)
            min_unit, min_l = search_positive(mins.reshape(-1, 8), sums, 63)
        (d_bytes, d), (m_bytes, m) = _half(unit), _half(min_unit)
        integers = _requantize(
            x.reshape(-1, 8, 32), d[:, None] * scale_l.astype(F), m[:, None] * min_l.astype(F),
            kept.reshape(-1, 8, 32), 0, most,
        )  # fmt: skip
        pairs = (integers & 15).reshape(-1, 4, 2, 32)
        nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128).astype(np.uint8)
        fifth = [_bit_planes(integers.reshape(-1, 256), 4)] if bits == 5 else []
        return np.concatenate([d_bytes, m_bytes, _scales_and_mins(scale_l, min_l), *fifth, nibbles], 1)

    return quantizer


def _q6_k(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
    del row_mean
    sub = x.reshape(-1, 16)
    scales, kept, _ = search_scale(sub, sub * sub if w is None else w.reshape(-1, 16), 32)
    scales = scales.reshape(-1, 16)
    largest = of_largest_magnitude(scales)
    is_zero = np.abs(largest) < F(1e-15)
    inverse = F(-128) / largest
    d_bytes, d_all = _half(np.where(is_zero, F(0), F(1) / inverse).astype(F))
    scale_l = (np.minimum(nearest(inverse[:, None] * scales), 127) << 24) >> 24
    scale_l = np.where(is_zero[:, None], 0, scale_l)
    d = d_all[:, None] * scale_l.astype(F)
    integers = _requantize(x.reshape(-1, 16, 16), d, np.zeros_like(d), kept.reshape(-1, 16, 16), -32, 31)
    parts = np.where(is_zero[:, None], 0, integers.reshape(-1, 256)).reshape(-1, 2, 4, 32)
    low = np.concatenate([(parts[:, :, k] & 15) | (parts[:, :, k + 2] & 15) << 4 for k in (0, 1)], 2)
    high = sum(((parts[:, :, k] >> 4 & 3) << 2 * k for k in range(4)), np.zeros_like(parts[:, :, 0]))
    quants = [low.reshape(-1, 128).astype(np.uint8), high.reshape(-1, 64).astype(np.uint8)]
    return np.concatenate([*quants, scale_l.astype(np.int8).view(np.uint8), d_bytes], 1)


def _iq4_nl(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
    del row_mean
    mean = sequential_sum(x * x) * F(2 / 32)
    scale = search_iq4(x, x * x if w is None else w * np.sqrt(mean[:, None] + x * x))
    indices = nearest_iq4(_inverse(scale)[:, None] * x)
    return np.concatenate([_half(scale)[0], (indices[:, :16] | indices[:, 16:] << 4).astype(np.uint8)], 1)


def _iq4_xs(x: Floats, w: Floats | None, row_mean: Floats) -> Bytes:
    del row_mean
    mean = sequential_sum(x * x) * F(2 / 256)
    weights = x * x if w is None else w * np.sqrt(mean[:, None] + x * x)
    scales = search_iq4(x.reshape(-1, 32), weights.reshape(-1, 32)).reshape(-1, 8)
    d = -of_largest_magnitude(scales) / F(32)
    scale_l = np.clip(nearest(_inverse(d)[:, None] * scales), -32, 31)
    units = d[:, None] * scale_l.astype(F)
    indices = nearest_iq4(_inverse(units)[..., None] * x.reshape(-1, 8, 32))
    scale_l = scale_l + 32
    high = np.bitwise_or.reduce((scale_l >> 4) << 2 * np.arange(8), axis=1).astype(np.uint16)
    low = ((scale_l[:, ::2] & 15) | (scale_l[:, 1::2] & 15) << 4).astype(np.uint8)
    nibbles = (indices[..., :16] | indices[..., 16:] << 4).reshape(-1, 128).astype(np.uint8)
    return np.concatenate([_half(d)[0], high[:, None].view(np.uint8), low, nibbles], 1)


_QUANTIZERS: dict[str, Callable[[Floats, Floats | None, Floats], Bytes]] = {
    "q4_0": _symmetric(4),
    "q5_0": _symmetric(5),
    "q4_1": _ranged(4),
    "q5_1": _ranged(5),
    "q8_0": _q8_0,
    "q2_K": _q2_k,
    "q3_K": _q3_k,
    "q4_K": _q45_k(4),
    "q5_K": _q45_k(5),
    "q6_K": _q6_k,
    "iq4_nl": _iq4_nl,
    "iq4_xs": _iq4_xs,
}
