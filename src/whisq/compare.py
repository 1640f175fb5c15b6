"""How far two files of one model are apart, tensor by tensor, whatever containers and types they are in.

Rows are dequantized a piece at a time, so that two files of any size need a few megabytes.

One meaning of an error, here, in an evaluation's results and in a report: the norm of the difference over that of the
reference. Of equal tensors it is 0, also where both are zero throughout, and the signal-to-noise ratio is infinite. Of
a tensor that differs from zeros throughout, or is not finite where the other is, the error is infinite, and the ratio
minus infinity. JSON has no infinities: there, what is infinite is null, and an error of 0 tells equal tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from whisq import kernels
from whisq.errors import PlanError
from whisq.kernels.threads import blas_on_one_thread
from whisq.model import Model, TensorRef
from whisq.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PIECE_WEIGHTS = 1 << 16
"""A quarter of a megabyte in f32: what is computed from a piece stays in the cache."""


def relative_error(signal: float, noise: float, n_not_finite: int) -> float:
    """Return the norm of a difference over that of the reference, from their squares; see above for its ends."""
    if n_not_finite:
        return math.inf
    if noise == 0:
        return 0.0
    return math.sqrt(noise / signal) if signal > 0 else math.inf


def decibels(error: float) -> float:
    """Return the signal-to-noise ratio of a relative error in dB."""
    if error == 0:
        return math.inf
    if math.isinf(error):
        return -math.inf
    return -20 * math.log10(error)


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON has it: None for what is infinite."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor in both files.

    ``signal`` is the sum of squares of the first, ``noise`` that of the difference, ``largest_error`` the largest
    absolute difference. ``n_not_finite`` counts places where only one of the two is a finite number.
    """

    name: str
    n_weights: int
    types: tuple[TensorType, TensorType]
    sizes_bytes: tuple[int, int]
    signal: float
    noise: float
    largest_error: float
    n_not_finite: int

    @property
    def relative_error(self) -> float:
        """Norm of the difference over the norm of the first."""
        return relative_error(self.signal, self.noise, self.n_not_finite)

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in dB."""
        return decibels(self.relative_error)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tensors that were compared, the worst first."""

    tensors: tuple[TensorDifference, ...]

    @property
    def whole(self) -> TensorDifference | None:
        """The tensors taken as one, or None when there are none."""
        if not self.tensors:
            return None
        types = (self.tensors[0].types[0], self.tensors[0].types[1])
        sizes = (sum(t.sizes_bytes[0] for t in self.tensors), sum(t.sizes_bytes[1] for t in self.tensors))
        return TensorDifference(
            "all",
            sum(t.n_weights for t in self.tensors),
            types,
            sizes,
            math.fsum(t.signal for t in self.tensors),
            math.fsum(t.noise for t in self.tensors),
            max(t.largest_error for t in self.tensors),
            sum(t.n_not_finite for t in self.tensors),
        )


def compare(
    first: Model,
    second: Model,
    names: Iterable[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Return how the tensors of two models differ, the first being the reference.

    ``names`` are canonical, by default all; ``progress`` is called with the number of weights done.

    Raises ``PlanError`` when the models have other shapes.
    """
    _check_shapes(first, second)
    chosen = [tensor.name for tensor in first.tensors] if names is None else list(names)
    found = []
    # A piece is too short to be shared out: BLAS's other threads would only spin.
    with blas_on_one_thread():
        for name in chosen:
            found.append(_difference(first, second, name))
            if progress is not None:
                progress(first[name].n_weights)
    for model in (first, second):
        model.check_unchanged()
    order = {tensor.name: number for number, tensor in enumerate(first.tensors)}
    return Comparison(tuple(sorted(found, key=lambda t: (-t.relative_error, -t.largest_error, order[t.name]))))


def _check_shapes(first: Model, second: Model) -> None:
    unlike = [
        f"{field.name} is {getattr(first.dims, field.name)} and {getattr(second.dims, field.name)}"
        for field in fields(first.dims)
        if getattr(first.dims, field.name) != getattr(second.dims, field.name)
    ]
    if unlike:
        raise PlanError(
            f"{first.path} and {second.path} are different models: {', '.join(unlike)}",
            hint="compare two files that were made from one model",
        )


def _difference(first: Model, second: Model, name: str) -> TensorDifference:
    a, b = first[name], second[name]
    signal = noise = largest = 0.0
    n_not_finite = 0
    step = max(1, _PIECE_WEIGHTS // a.n_columns)
    for start in range(0, a.n_rows, step):
        stop = min(start + step, a.n_rows)
        piece = _piece_difference(_weights(first, a, start, stop), _weights(second, b, start, stop))
        signal, noise = signal + piece[0], noise + piece[1]
        largest, n_not_finite = max(largest, piece[2]), n_not_finite + piece[3]
    sizes = (a.size_bytes, b.size_bytes)
    return TensorDifference(name, a.n_weights, (a.type, b.type), sizes, signal, noise, largest, n_not_finite)


def _weights(model: Model, tensor: TensorRef, start: int, stop: int) -> NDArray[np.float32]:
    rows = model.rows(tensor, start, stop)
    weights: NDArray[np.float32] = kernels.dequantize(rows, tensor.type, (stop - start, tensor.n_columns))
    return weights


def _piece_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float, float, int]:
    """Return the sums of squares of the first and of the difference, its largest value, and places not finite.

    In float32, whose sums of one piece are good to a millionth, where all squares that count are far from its ends.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        difference = a - b
        largest = max(float(difference.max(initial=0.0)), -float(difference.min(initial=0.0)))
        signal, noise = float(np.vdot(a, a)), float(np.vdot(difference, difference))
    if _LEAST < signal < math.inf and (largest == 0 or _LEAST < noise < math.inf):
        return signal, noise, largest, 0
    return _piece_difference_in_float64(a, b)


_LEAST = 1e-25
"""Sums of squares in float32 from which on nothing that counts is lost: squares below 1e-38 may be taken as 0, and of
a piece they make less than 1e-33."""


def _piece_difference_in_float64(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float, float, int]:
    import numpy as np

    n_not_finite = 0
    wide: NDArray[np.float64] = a.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = wide - b
    if not np.isfinite(difference).all():
        both = np.isfinite(a) & np.isfinite(b)
        # Infinities of one sign and NaN in both are no difference; they have no size either.
        n_not_finite = int((~both & ~((a == b) | (np.isnan(a) & np.isnan(b)))).sum())
        wide, difference = np.where(both, wide, 0), np.where(both, difference, 0)
    largest = max(float(difference.max(initial=0.0)), -float(difference.min(initial=0.0)))
    return float(np.vdot(wide, wide)), float(np.vdot(difference, difference)), largest, n_not_finite
