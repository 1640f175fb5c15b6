"""Sums over input vectors, and the moments they make."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration import Moments
from whisq.calibration.factors import damping_of_halves

if TYPE_CHECKING:
    from whisq.network.operations import Array, Operations


class Sums:
    """Weighted sums of x and of x xᵀ over vectors: products in float32 window by window, sums in float64.

    Two windows by turns go into each of two halves, so that one can judge what is made of the other: two, because every
    other line of a decoder has timestamps.
    """

    def __init__(self, operations: Operations) -> None:
        self._halves = (_Half(operations), _Half(operations))
        self._n_windows = 0

    def add(self, x: Array, weights: Array = None) -> None:
        """Add the vectors of a window ``[rows, width]``, each as often as its weight says."""
        self._halves[self._n_windows // 2 % 2].add(x, weights)
        self._n_windows += 1

    def moments(self, source: str) -> Moments:
        """Return the means over both halves, with the damping that they choose for each other; see ``factors``.

        There must have been a vector.
        """
        whole = self._halves[0].joined(self._halves[1]).moments()
        if self._n_windows < 3:
            return whole
        return replace(whole, damping=damping_of_halves(source, [half.moments() for half in self._halves]))


_AT_ONCE = 1024
"""Vectors of short lines that are added at once. A product costs memory traffic by its width squared,
however few they are: a sixth of base's calibration went there."""


class _Half:
    def __init__(self, operations: Operations) -> None:
        self.n_rows = 0
        self._operations = operations
        self._waiting: list[Array] = []
        self._weight = 0.0
        self._first: Array = None
        self._second: Array = None

    def joined(self, other: _Half) -> _Half:
        """Return the sums of both."""
        self._add_waiting()
        other._add_waiting()
        if other._first is None:
            return self
        both = _Half(self._operations)
        both.n_rows, both._weight = self.n_rows + other.n_rows, self._weight + other._weight
        both._first, both._second = self._first + other._first, self._second + other._second
        return both

    def add(self, x: Array, weights: Array) -> None:
        if weights is not None or len(x) >= _AT_ONCE:
            self._add(x, weights)
            return
        self._waiting.append(self._operations.concatenate([x], 0))
        if sum(map(len, self._waiting)) >= _AT_ONCE:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if self._waiting:
            together = self._operations.concatenate(self._waiting, 0)
            self._waiting = []
            self._add(together, None)

    def _add(self, x: Array, weights: Array) -> None:
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
        self._add_waiting()
        if self._first is None:
            raise ValueError("no vectors were added")
        second = self._operations.numpy(self._second / self._weight)
        # The product is symmetric but for rounding: half of it is kept, so it must be the same half everywhere.
        matrix = np.triu(second).astype(np.float32)
        matrix += np.triu(matrix, 1).T
        mean = self._operations.numpy(self._first / self._weight).astype(np.float32)
        return Moments(self.n_rows, np.diag(matrix).copy(), mean, matrix)
