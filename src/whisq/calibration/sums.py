"""Sums over input vectors, and the moments they make; those of groups are added in a fixed order (``in_order``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.calibration import Moments
from whisq.calibration.calibration import pack_triangle
from whisq.calibration.factors import damping_of_halves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.network.operations import Array, Operations

    Packed = Mapping[str, NDArray[Any]]
    """What a group has, in arrays alone: by input, half and part."""


class Sums:
    """Weighted sums of x and of x xᵀ over vectors: products in float32 of some windows together, sums in float64.

    Two windows by turns go into each of two halves, so that one can judge what is made of the other: two, because every
    other line of a decoder has timestamps. ``first`` is the number, among all windows, of the first that is added.
    """

    def __init__(self, operations: Operations, first: int = 0) -> None:
        self._operations = operations
        self._halves = (_Half(operations), _Half(operations))
        self._next, self._n_windows = first, 0

    def add(self, x: Array, weights: Array = None) -> None:
        """Add the vectors of a window ``[rows, width]``, each as often as its weight says."""
        self._halves[self._next // 2 % 2].add(x, weights)
        self._next += 1
        self._n_windows += 1

    def take(self, other: Sums) -> None:
        """Add what another has, and leave it unusable."""
        for mine, theirs in zip(self._halves, other._halves, strict=True):
            mine.take(theirs)
        self._n_windows += other._n_windows

    def packed(self) -> Packed:
        """Return all in numpy's arrays, of each second moment its upper triangle; see ``unpacked``."""
        found: dict[str, NDArray[Any]] = {"windows": np.array(self._n_windows)}
        for number, half in enumerate(self._halves):
            found |= {f"{number}.{part}": values for part, values in half.packed().items()}
        return found

    @classmethod
    def unpacked(cls, operations: Operations, packed: Packed) -> Sums:
        """Return sums again, to be taken by others; ``operations`` are numpy's."""
        found = cls(operations)
        found._n_windows = int(packed["windows"])
        for number, half in enumerate(found._halves):
            half.unpack({part: packed[f"{number}.{part}"] for part in _PARTS if f"{number}.{part}" in packed})
        return found

    def moments(self, source: str) -> Moments:
        """Return the means over both halves, with the damping that they choose for each other; see ``factors``.

        There must have been a vector.
        """
        whole = self._halves[0].joined(self._halves[1]).moments()
        if self._n_windows < 3:
            return whole
        return replace(whole, damping=damping_of_halves(source, [half.moments() for half in self._halves]))


_AT_ONCE = 2048
"""Vectors that are waited for before they are multiplied: two windows of 1500 together, or the lines of many. A product
costs memory traffic by its width squared, however few they are: a sixth of base's calibration went there."""
_PARTS = ("first", "second", "rows", "weight")


class _Half:
    def __init__(self, operations: Operations) -> None:
        self.n_rows = 0
        self._operations = operations
        self._waiting: list[tuple[Array, Array]] = []
        self._weight = 0.0
        # The first product stays in float32 until another comes.
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
        both._first = self._wide(self._first) + other._first
        both._second = self._wide(self._second) + other._second
        return both

    def _wide(self, x: Array) -> Array:
        """Return sums in float64: themselves, where they are."""
        return x if str(x.dtype).endswith("float64") else self._operations.float64(x)

    def take(self, other: _Half) -> None:
        """Add the sums of another."""
        self._add_waiting()
        other._add_waiting()
        if other._first is not None:
            self._add_sums(other._first, other._second)
            self.n_rows += other.n_rows
            self._weight += other._weight

    def add(self, x: Array, weights: Array) -> None:
        self._waiting.append((x, weights))
        if sum(len(vectors) for vectors, _ in self._waiting) >= _AT_ONCE:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        vectors, weights = zip(*self._waiting, strict=True)
        self._waiting = []
        join = self._operations.concatenate if len(vectors) > 1 else lambda parts, axis: parts[0]
        self._add(join(vectors, 0), None if weights[0] is None else join(weights, 0))

    def _add(self, x: Array, weights: Array) -> None:
        weighted = x if weights is None else x * weights[:, None]
        self._add_sums(weighted.sum(0), self._operations.second_moment(x, weights))
        self.n_rows += len(x)
        self._weight += len(x) if weights is None else float(self._operations.float64(weights).sum())

    def _add_sums(self, first: Array, second: Array) -> None:
        if self._first is None:
            self._first, self._second = first, second
            return
        self._first, self._second = self._wide(self._first), self._wide(self._second)
        self._first += first
        self._second += second

    def packed(self) -> Packed:
        self._add_waiting()
        if self._first is None:
            return {}
        second = pack_triangle(self._operations.numpy(self._second))
        first = self._operations.numpy(self._first)
        return {"first": first, "second": second, "rows": np.array(self.n_rows), "weight": np.array(self._weight)}

    def unpack(self, packed: Packed) -> None:
        if not packed:
            return
        first, triangle = packed["first"], packed["second"]
        second, start = np.zeros((len(first), len(first)), triangle.dtype), 0
        for row in range(len(first)):
            stop = start + len(first) - row
            second[row, row:], start = triangle[start:stop], stop
        self._first, self._second = np.array(first), second
        self.n_rows, self._weight = int(packed["rows"]), float(packed["weight"])

    def moments(self) -> Moments:
        self._add_waiting()
        if self._first is None:
            raise ValueError("no vectors were added")
        second = self._operations.numpy(self._wide(self._second) / self._weight)
        # The product is symmetric but for rounding: half of it is kept, so it must be the same half everywhere.
        matrix = np.triu(second).astype(np.float32)
        matrix += np.triu(matrix, 1).T
        mean = self._operations.numpy(self._wide(self._first) / self._weight).astype(np.float32)
        return Moments(self.n_rows, np.diag(matrix).copy(), mean, matrix)
