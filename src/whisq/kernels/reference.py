"""What the kernels compute, in numpy: slow, plain, and what the native core is tested against.

For tests, and for whoever wants to read what a format is: the definitions themselves are in ``whisq.kernels.blocks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.kernels.blocks import format_of
from whisq.kernels.reference_search import sequential_sum
from whisq.types import TensorType, parse_type

if TYPE_CHECKING:
    from whisq.kernels.blocks.bits import Bytes, Floats

F = np.float32


def quantize(
    weights: Floats,
    type: str | TensorType,
    importance: Floats | None = None,
) -> Bytes:
    """Return ``float32[rows, columns]`` in a block format: ``uint8[rows, row bytes]``.

    ``importance`` is ``float32[columns]``, ggml's imatrix argument. Raises ``KernelError`` for a type without blocks.
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
    definition = format_of(kind)
    with np.errstate(all="ignore"):
        blocks = definition.pack(definition.quantize(x, w, row_mean))
    return blocks.reshape(rows, -1)


def dequantize(
    blocks: Bytes,
    type: str | TensorType,
) -> Floats:
    """Return the weights that rows of blocks hold: ``uint8[rows, row bytes]`` to ``float32[rows, columns]``.

    Raises ``KernelError`` for a type without blocks.
    """
    kind = parse_type(type)
    definition = format_of(kind)
    with np.errstate(all="ignore"):
        weights = definition.decode(definition.unpack(blocks.reshape(-1, kind.block_bytes)))
    return weights.reshape(len(blocks), -1)
