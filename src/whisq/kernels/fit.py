"""Better bytes in the same format, of the weights alone: each block's scale, minimum and integers searched for.

The search is native (``native/fit.h``); ``whisq.kernels.reference_fit`` defines it in numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq import kernels
from whisq.errors import KernelError
from whisq.kernels import _core, chosen_isa
from whisq.kernels.blocks import format_of
from whisq.kernels.core_types import CORE_TYPES, refused_as
from whisq.kernels.feedback import Outputs
from whisq.kernels.threads import over_rows
from whisq.types import TensorType, parse_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 1 << 19
"""Weights whose integers are packed at once: they take sixteen times the memory of their blocks."""


def quantize_fitted(
    weights: NDArray[np.float32],
    type: str | TensorType,
    importance: NDArray[np.float32] | None = None,
    *,
    threads: int = 1,
    isa: str | None = None,
) -> NDArray[np.uint8]:
    """Return ``float32[rows, columns]`` in a block format, ``uint8[rows, row bytes]``, as near as a search finds.

    An error of a weight x in column c costs its square times ``importance[c]`` (``float32[columns]``, none negative;
    ones where it is None) times √(mean square of its block + x²), as ggml weighs importance. No block costs more than
    ggml's plain rounding of it: where none is found that costs less, that is what is written.

    Deterministic: the same bytes on every instruction set, with any number of threads. Raises ``KernelError`` for
    shapes that do not fit, and for a type without blocks.
    """
    kind = parse_type(type)
    definition = format_of(kind)
    rows, columns = weights.shape
    if not kind.fits(columns):
        raise KernelError(f"rows of {columns} do not fit {kind}, whose blocks have {kind.block_size} weights")
    if importance is None:
        importance = np.ones(columns, np.float32)
    if importance.shape != (columns,):
        raise KernelError(f"importance has shape {list(importance.shape)}, expected [{columns}]")
    costs, use = np.ascontiguousarray(importance, np.float32), chosen_isa(isa)
    result = np.empty((rows, kind.row_bytes(columns)), np.uint8)

    def work(start: int, stop: int) -> None:
        step = max(1, _AT_ONCE // columns)
        for first in range(start, stop, step):
            part = np.ascontiguousarray(weights[first : min(first + step, stop)], np.float32)
            blocks = kernels.quantize(part, kind, isa=use)
            plain = kernels.dequantize(blocks, kind, part.shape, isa=use)
            found = Outputs.zeros(len(part), columns, kind.block_size, CORE_TYPES[kind.ggml_type].sub_blocks)
            is_better = np.zeros(part.size // kind.block_size, np.bool_)
            with refused_as(f"a fit on rows of {columns}"):
                _core.fit(use, part, costs, plain, kind.ggml_type, columns, *found.arrays, is_better)
            fitted = definition.pack(found.parts(kind))
            chosen = np.where(is_better[:, None], fitted, blocks.reshape(fitted.shape))
            result[first : first + len(part)] = chosen.reshape(len(part), -1)

    over_rows(work, rows, threads)
    return result
