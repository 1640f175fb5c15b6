"""Blocks from their parts: the layouts of ggml's formats (``ggml-common.h``), packed in numpy.

Every function takes stored integers (never negative) with one block, or super-block of 256, a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int32]
    Bytes = NDArray[np.uint8]


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


def pack(type_name: str, parts: Parts) -> Bytes:
    """Return the blocks of a ggml type, ``uint8[n, block bytes]``. Raises ``KeyError`` for a type without blocks."""
    packed: Bytes = _PACKERS[type_name](parts)
    return packed


def half_bytes(values: Floats) -> Bytes:
    """Return f16 bytes ``[n, 2]``, rounded to nearest, half to even."""
    return values.astype(np.float16)[:, None].view(np.uint8)


def _nibbles(levels: Integers) -> Bytes:
    """32 integers: the low nibbles of j and j + 16 share a byte."""
    return ((levels[:, :16] & 15) | (levels[:, 16:] & 15) << 4).astype(np.uint8)


def _fifth_bits(levels: Integers) -> Bytes:
    bits = np.zeros(len(levels), np.uint32)
    for j in range(32):
        bits |= (levels[:, j] >> 4 & 1).astype(np.uint32) << np.uint32(j)
    return bits[:, None].view(np.uint8)


def _two_bits(levels: Integers) -> Bytes:
    """256 integers: bits 0 and 1 of j, j + 32, j + 64, j + 96 share a byte, and so in the second half."""
    parts = (levels & 3).reshape(-1, 2, 4, 32)
    packed = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    return packed.reshape(-1, 64).astype(np.uint8)


def _bit_planes(levels: Integers, bit: int) -> Bytes:
    """One bit of 256 integers: j, j + 32, … j + 224 share a byte."""
    planes = (levels >> bit & 1).reshape(-1, 8, 32)
    packed: Bytes = np.bitwise_or.reduce(planes << np.arange(8)[None, :, None], axis=1).astype(np.uint8)
    return packed


def _paired_nibbles(levels: Integers) -> Bytes:
    """256 integers: the low nibbles of j and j + 32 share a byte, in each 64."""
    pairs = (levels & 15).reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128).astype(np.uint8)


def _given(values: Integers | None) -> Integers:
    if values is None:
        raise KeyError("this type has sub-blocks, and no integers for them were given")
    return values


def _minimum(parts: Parts) -> Bytes:
    return half_bytes(np.zeros_like(parts.unit) if parts.minimum is None else parts.minimum)


def _q4_0(parts: Parts) -> Bytes:
    return np.concatenate([half_bytes(parts.unit), _nibbles(parts.levels)], 1)


def _q4_1(parts: Parts) -> Bytes:
    return np.concatenate([half_bytes(parts.unit), _minimum(parts), _nibbles(parts.levels)], 1)


def _q5_0(parts: Parts) -> Bytes:
    return np.concatenate([half_bytes(parts.unit), _fifth_bits(parts.levels), _nibbles(parts.levels)], 1)


def _q5_1(parts: Parts) -> Bytes:
    head = [half_bytes(parts.unit), _minimum(parts)]
    return np.concatenate([*head, _fifth_bits(parts.levels), _nibbles(parts.levels)], 1)


def _q8_0(parts: Parts) -> Bytes:
    return np.concatenate([half_bytes(parts.unit), (parts.levels - 127).astype(np.int8).view(np.uint8)], 1)


def _q2_k(parts: Parts) -> Bytes:
    scales = (_given(parts.scale_integers) | _given(parts.minimum_integers) << 4).astype(np.uint8)
    return np.concatenate([scales, _two_bits(parts.levels), half_bytes(parts.unit), _minimum(parts)], 1)


def _q3_k(parts: Parts) -> Bytes:
    scales = _given(parts.scale_integers) + 32
    low = (scales[:, :8] & 15) | (scales[:, 8:] & 15) << 4
    high = (scales >> 4 & 3).reshape(-1, 4, 4)
    packed = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    scale_bytes = np.concatenate([low, packed], 1).astype(np.uint8)
    return np.concatenate(
        [_bit_planes(parts.levels, 2), _two_bits(parts.levels), scale_bytes, half_bytes(parts.unit)], 1
    )


def _scales_and_mins(parts: Parts) -> Bytes:
    """Eight 6-bit scales and minimums in twelve bytes."""
    scales, mins = _given(parts.scale_integers), _given(parts.minimum_integers)
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = mins[:, :4] | mins[:, 4:] >> 4 << 6
    third = (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], 1).astype(np.uint8)


def _q4_k(parts: Parts) -> Bytes:
    head = [half_bytes(parts.unit), _minimum(parts), _scales_and_mins(parts)]
    return np.concatenate([*head, _paired_nibbles(parts.levels)], 1)


def _q5_k(parts: Parts) -> Bytes:
    head = [half_bytes(parts.unit), _minimum(parts), _scales_and_mins(parts)]
    return np.concatenate([*head, _bit_planes(parts.levels, 4), _paired_nibbles(parts.levels)], 1)


def _q6_k(parts: Parts) -> Bytes:
    quarters = parts.levels.reshape(-1, 2, 4, 32)
    low = np.concatenate([(quarters[:, :, k] & 15) | (quarters[:, :, k + 2] & 15) << 4 for k in (0, 1)], 2)
    high = np.zeros_like(quarters[:, :, 0])
    for k in range(4):
        high |= (quarters[:, :, k] >> 4 & 3) << 2 * k
    quants = [low.reshape(-1, 128).astype(np.uint8), high.reshape(-1, 64).astype(np.uint8)]
    scales = _given(parts.scale_integers).astype(np.int8).view(np.uint8)
    return np.concatenate([*quants, scales, half_bytes(parts.unit)], 1)


def _iq4_xs(parts: Parts) -> Bytes:
    scales = _given(parts.scale_integers) + 32
    high = np.bitwise_or.reduce((scales >> 4) << 2 * np.arange(8), axis=1).astype(np.uint16)
    low = ((scales[:, ::2] & 15) | (scales[:, 1::2] & 15) << 4).astype(np.uint8)
    eighths = parts.levels.reshape(-1, 8, 32)
    nibbles = (eighths[..., :16] | eighths[..., 16:] << 4).reshape(-1, 128).astype(np.uint8)
    return np.concatenate([half_bytes(parts.unit), high[:, None].view(np.uint8), low, nibbles], 1)


_PACKERS = {
    "q4_0": _q4_0,
    "iq4_nl": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q2_K": _q2_k,
    "q3_K": _q3_k,
    "q4_K": _q4_k,
    "q5_K": _q5_k,
    "q6_K": _q6_k,
    "iq4_xs": _iq4_xs,
}
