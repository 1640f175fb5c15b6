"""Sums over input vectors, and the moments they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration import Moments

if TYPE_CHECKING:
    from whisq.network.operations import Array, Operations


class Sums:
    """Weighted sums of x and of x xᵀ over vectors: products in float32 window by window, sums in float64."""

    def __init__(self, operations: Operations) -> None:
        self.n_rows = 0
        self._operations = operations
        self._weight = 0.0
        self._first: Array = None
        self._second: Array = None

    def add(self, x: Array, weights: Array = None) -> None:
        """Add vectors ``[rows, width]``, each as often as its weight says."""
        float64 = self._operations.float64
        weighted = x if weights is None else x * weights[:, None]
        first, second = weighted.sum(0), self._operations.second_moment(x, weights)
        if self._first is None:
            self._first, self._second = float64(first), float64(second)
        else:
            self._first += first
            self._second += second
        self.n_rows += len(x)
        self._weight += len(x) if weights is None else float(float64(weights).sum())

    def moments(self) -> Moments:
        """Return the means; there must have been a vector."""
        if self._first is None:
            raise ValueError("no vectors were added")
        second = self._operations.numpy(self._second / self._weight)
        # The product is symmetric but for rounding: half of it is kept, so it must be the same half everywhere.
        matrix = np.triu(second).astype(np.float32)
        matrix += np.triu(matrix, 1).T
        mean = self._operations.numpy(self._first / self._weight).astype(np.float32)
        return Moments(self.n_rows, np.diag(matrix).copy(), mean, matrix)
