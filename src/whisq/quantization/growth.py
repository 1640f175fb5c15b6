"""Rows as large as they were: what is nearest to a layer's outputs is also a little smaller than they are.

Where an error is as small as it can be, the outputs lack its energy. In three bits that is 1 % of a row, and layers
that are all smaller add up. The blocks' units make up for it; integers stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq import kernels
from whisq.kernels.blocks import Parts, format_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.types import TensorType

BITS_THAT_SHRINK = 4.0
"""Bits per weight below which it pays. On real speech base's q3_K diverges 0.91 (0.84 to 0.93) times as much, where its
rows grow by 1.1 %; tiny.en's q4_0, which grows by 0.3 %, 0.99 (0.97 to 1.01), its q5_0 0.99 (0.98 to 1.00)."""

MOST = 1.1
"""A row is not made larger than that, nor as much smaller: what is further off is no picture of it."""
_BITS = 12
"""Of a growth: sums in float64 differ between machines in their last bits, blocks do not."""
_ROWS_AT_ONCE = 256


def growth(
    weights: NDArray[np.float32], decoded: NDArray[np.float32], second_moment: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return how much larger rows have to be, ``float32[rows]``, at most ``MOST``; a row may be too large, too.

    ``weights`` and what they decode to are ``float32[rows, columns]``. With H the second moment of the input, w a row
    and d what it decodes to, it is w H w / w H d.
    """
    outputs = weights.astype(np.float64) @ second_moment.astype(np.float64)
    size, found = np.einsum("rc,rc->r", outputs, weights), np.einsum("rc,rc->r", outputs, decoded)
    by = np.clip(np.divide(size, found, out=np.ones_like(size), where=found > 0), 1 / MOST, MOST)
    return np.asarray(np.ldexp(np.rint(np.ldexp(by, _BITS)), -_BITS), np.float32)


def grown(
    blocks: NDArray[np.uint8], type: TensorType, weights: NDArray[np.float32], second_moment: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Return rows of blocks, ``uint8[rows, row bytes]``, with units so much larger that outputs are as large as before.

    ``type`` is one whose units are in f16. Rows do not depend on each other.
    """
    definition, result = format_of(type), np.empty_like(blocks)
    for start in range(0, len(blocks), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        some = np.ascontiguousarray(blocks[rows])
        by = growth(weights[rows], kernels.dequantize(some, type, weights[rows].shape), second_moment)
        parts = definition.unpack(some.reshape(-1, type.block_bytes))
        factor = np.repeat(by, weights.shape[1] // type.block_size)
        minimum = None if parts.minimum is None else parts.minimum * factor
        larger = Parts(parts.levels, parts.unit * factor, minimum, parts.scale_integers, parts.minimum_integers)
        result[rows] = definition.pack(larger).reshape(-1, blocks.shape[1])
    return result
