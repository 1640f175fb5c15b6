"""Rounding with feedback on both sides: errors go to the columns not yet rounded, and to the rows not yet rounded.

With H the second moment of a layer's input and G that of the gradients at its output, an error E of its weights costs
tr(G E H Eᵀ). Where G is not diagonal, rows are not alone: what a row erred, the others can take back in the directions
that the next words depend on (YAQA: Tseng et al. 2025, arXiv 2505.22988). Groups of rows are rounded in turn; the error
of each moves what the rest aims at, in proportion to the factor of G, as a column's error moves the later columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq import kernels
from whisq.kernels.feedback import Factor, factor_of, quantize_with_feedback

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.calibration.outputs import OutputMoment
    from whisq.types import TensorType

GROUP = 32
"""Rows that are rounded together, as they would be if none of them knew of the others: as many as the core takes at
once. They lie as far apart as they can, so that few of one head are among them."""

_BITS = 20
"""Of the numbers whose products are added up: a sum of thousands of them is exact in float64, in any order, and so are
the bytes the same on every machine."""


def order_of_rows(n_rows: int) -> NDArray[np.intp]:
    """Return the order in which rows are rounded, a permutation: every group is spread over all of them."""
    n_groups = -(-n_rows // GROUP)
    return np.concatenate([np.arange(first, n_rows, n_groups) for first in range(n_groups)])


def output_factor(moment: OutputMoment) -> NDArray[np.float32]:
    """Return what one row's error moves in those after it, ``float32[rows, rows]``, in the order of ``order_of_rows``.

    Raises ``CalibrationError`` for a moment that has no factor.
    """
    order = order_of_rows(len(moment.second_moment))
    return factor_of(moment.second_moment[np.ix_(order, order)], moment.damping).upper


def quantize_two_sided(
    weights: NDArray[np.float32],
    type: TensorType,
    factor: Factor,
    outputs: NDArray[np.float32],
    *,
    threads: int = 1,
) -> NDArray[np.uint8]:
    """Return a whole matrix ``float32[rows, columns]`` in a block format, ``uint8[rows, row bytes]``.

    ``factor`` is of its input, ``outputs`` of its output (``output_factor``); with that of the identity the bytes are
    those of ``quantize_with_feedback``. Deterministic as that is. Raises ``KernelError`` as that does.
    """
    n_rows = len(weights)
    order = order_of_rows(n_rows)
    aims, written = weights[order], []
    for start in range(0, n_rows, GROUP):
        stop = min(start + GROUP, n_rows)
        blocks = quantize_with_feedback(np.ascontiguousarray(aims[start:stop]), type, factor, threads=threads)
        written.append(blocks)
        errors = kernels.dequantize(blocks, type, (stop - start, weights.shape[1])) - aims[start:stop]
        # What the group's rows would have taken back from each other is no error of theirs to the rows after it.
        for row in range(len(errors) - 1):
            errors[row + 1 :] -= outputs[start + row, start + row + 1 : stop, None] * errors[row]
        aims[stop:] += _exact_product(outputs[start:stop, stop:].T, errors)
    found = np.concatenate(written)
    result = np.empty_like(found)
    result[order] = found
    return result


def _exact_product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the product of two matrices, each rounded to ``_BITS`` bits below its largest: exact after that."""
    if not left.size or not right.any() or not left.any():
        return np.zeros((len(left), right.shape[1]), np.float32)
    shifts = [_BITS - int(np.frexp(np.abs(matrix).max())[1]) for matrix in (left, right)]
    whole = [np.rint(np.ldexp(matrix.astype(np.float64), by)) for matrix, by in zip((left, right), shifts, strict=True)]
    return np.asarray(np.ldexp(whole[0] @ whole[1], -sum(shifts)), np.float32)
