"""Sums over input vectors, and the moments they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration import Moments

if TYPE_CHECKING:
    import torch


class Sums:
    """Weighted sums of x and of x xᵀ over vectors: products in float32 window by window, sums in float64."""

    def __init__(self) -> None:
        self.n_rows = 0
        self._weight = 0.0
        self._first: torch.Tensor | None = None
        self._second: torch.Tensor | None = None

    def add(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add vectors ``[rows, width]``, each as often as its weight says."""
        weighted = x if weights is None else x * weights[:, None]
        first, second = weighted.sum(0).double(), (weighted.T @ x).double()
        if self._first is None or self._second is None:
            self._first, self._second = first, second
        else:
            self._first += first
            self._second += second
        self.n_rows += len(x)
        self._weight += len(x) if weights is None else float(weights.double().sum())

    def moments(self) -> Moments:
        """Return the means; there must have been a vector."""
        if self._first is None or self._second is None:
            raise ValueError("no vectors were added")
        second = (self._second / self._weight).cpu().numpy()
        # The product is symmetric but for rounding: half of it is kept, so it must be the same half everywhere.
        matrix = np.triu(second).astype(np.float32)
        matrix += np.triu(matrix, 1).T
        mean = (self._first / self._weight).cpu().numpy().astype(np.float32)
        return Moments(self.n_rows, np.diag(matrix).copy(), mean, matrix)
