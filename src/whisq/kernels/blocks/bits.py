"""How integers share bytes in ggml's blocks (``ggml-common.h``), and how they come out again.

Every function takes one block, or super-block of 256, per row; integers are never negative. ``from_x`` undoes ``x``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int32]
    Bytes = NDArray[np.uint8]


def split(blocks: Bytes, *widths: int) -> list[Integers]:
    """Return the fields of blocks ``[n, bytes]``, each so many bytes wide, as integers."""
    edges = np.cumsum(widths)
    assert edges[-1] == blocks.shape[1], (widths, blocks.shape)
    return [part.astype(np.int32) for part in np.split(blocks, edges[:-1], axis=1)]


def halves(values: Floats) -> Bytes:
    """Return f16 bytes ``[n, 2]`` of ``[n]``, rounded to nearest, half to even."""
    return values.astype(np.float16)[:, None].view(np.uint8)


def from_halves(field: Integers) -> Floats:
    """Return ``[n]`` of f16 bytes ``[n, 2]``."""
    return field.astype(np.uint8).view(np.float16)[:, 0].astype(np.float32)


def nibbles(levels: Integers) -> Bytes:
    """Pack 32 integers: the low nibbles of j and j + 16 share a byte."""
    return ((levels[:, :16] & 15) | (levels[:, 16:] & 15) << 4).astype(np.uint8)


def from_nibbles(field: Integers) -> Integers:
    """Return 32 integers of 16 bytes."""
    return np.concatenate([field & 15, field >> 4], 1)


def fifth_bits(levels: Integers) -> Bytes:
    """Pack bit 4 of 32 integers into four bytes, the first lowest."""
    return np.packbits((levels >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def from_fifth_bits(field: Integers) -> Integers:
    """Return 32 integers, 0 or 16."""
    return np.unpackbits(field.astype(np.uint8), axis=1, bitorder="little").astype(np.int32) << 4


def two_bits(levels: Integers) -> Bytes:
    """Pack bits 0 and 1 of 256 integers: j, j + 32, j + 64, j + 96 share a byte, and so in the second half."""
    parts = (levels & 3).reshape(-1, 2, 4, 32)
    packed = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    return packed.reshape(-1, 64).astype(np.uint8)


def from_two_bits(field: Integers) -> Integers:
    """Return 256 integers of 64 bytes."""
    return (field.reshape(-1, 2, 1, 32) >> 2 * np.arange(4)[:, None] & 3).reshape(-1, 256)


def bit_plane(levels: Integers, bit: int) -> Bytes:
    """Pack one bit of 256 integers: j, j + 32, … j + 224 share a byte."""
    planes = (levels >> bit & 1).reshape(-1, 8, 32)
    packed: Bytes = np.bitwise_or.reduce(planes << np.arange(8)[:, None], axis=1).astype(np.uint8)
    return packed


def from_bit_plane(field: Integers, bit: int) -> Integers:
    """Return 256 integers of 32 bytes, 0 or with that bit."""
    return (field.reshape(-1, 1, 32) >> np.arange(8)[:, None] & 1).reshape(-1, 256) << bit


def paired_nibbles(levels: Integers) -> Bytes:
    """Pack 256 integers: the low nibbles of j and j + 32 share a byte, in each 64."""
    pairs = (levels & 15).reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128).astype(np.uint8)


def from_paired_nibbles(field: Integers) -> Integers:
    """Return 256 integers of 128 bytes."""
    return (field.reshape(-1, 4, 1, 32) >> 4 * np.arange(2)[:, None] & 15).reshape(-1, 256)


def scales_and_minimums(scales: Integers, minimums: Integers) -> Bytes:
    """Pack eight 6-bit scales and eight 6-bit minimums into twelve bytes."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minimums[:, :4] | minimums[:, 4:] >> 4 << 6
    third = (scales[:, 4:] & 15) | (minimums[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], 1).astype(np.uint8)


def from_scales_and_minimums(field: Integers) -> tuple[Integers, Integers]:
    """Return the scales ``[n, 8]`` and the minimums of twelve bytes."""
    first, second, third = field[:, :4], field[:, 4:8], field[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | first >> 6 << 4], 1)
    minimums = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], 1)
    return scales, minimums
