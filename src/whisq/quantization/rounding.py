"""How a matrix becomes blocks: ggml's own rounding, with importance, or with error feedback.

``method_for`` decides before any work, so that a plan can say it of every tensor; ``Rounder`` does it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from whisq import kernels
from whisq.errors import CalibrationError, PlanError
from whisq.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.calibration import Calibration, Moments
    from whisq.kernels.feedback import Factor

T = TypeVar("T")
Method = Literal["ggml", "importance", "feedback"]
METHODS: tuple[Method, ...] = get_args(Method)

WITHOUT_IMPORTANCE = frozenset({"q8_0"})
"""Block types whose ggml code does not look at importance."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The method of one tensor, and why it is not the one asked for (empty when it is)."""

    method: Method
    note: str = ""


def parse_method(text: str) -> Method:
    """Return the method of that name; raises ``PlanError``."""
    for method in METHODS:
        if text.strip().lower() == method:
            return method
    raise PlanError(f"unknown method '{text}'", hint=f"use one of: {' '.join(METHODS)}")


def method_for(tensor: str, type: TensorType, asked: Method, calibration: Calibration | None) -> Chosen:  # noqa: A002
    """Return how a matrix will be rounded. For feedback, its input's second moments are read and checked once.

    Raises ``PlanError`` when a method needs a calibration and there is none, or it cannot give what is needed.
    """
    if asked == "ggml" or not type.is_quantized:
        return Chosen("ggml")
    if calibration is None:
        raise PlanError(
            f"--method {asked} needs to know the layers' inputs", hint="add --calibration FILE, from `whisq calibrate`"
        )
    if asked == "feedback" and not calibration.has_second_moments:
        raise PlanError(
            f"{calibration.path}: holds importance only, feedback needs second moments",
            hint="use --method importance, or a calibration from `whisq calibrate`",
        )
    from whisq.calibration import input_of

    source = input_of(tensor)
    if source is None or source not in calibration.counts:
        return Chosen("ggml", f"{calibration.path.name} does not cover it")
    if calibration.counts[source] == 0 or source in calibration.idle:
        return Chosen("ggml", "its input was never active in the calibration")
    if asked == "feedback":
        wrong = _what_is_wrong(source, calibration)
        if wrong:
            return Chosen("ggml", f"of its input in {calibration.path.name}, {wrong}")
    if asked == "importance" and type.name in WITHOUT_IMPORTANCE:
        return Chosen("ggml", f"{type} does not use importance")
    return Chosen(asked)


class Rounder:
    """Rounds matrices with a calibration. Moments and factors of the inputs used last are kept."""

    def __init__(self, calibration: Calibration, most_kept: int = 2) -> None:
        self._calibration = calibration
        self._most = most_kept
        self._moments: OrderedDict[str, Moments] = OrderedDict()
        self._factors: OrderedDict[str, Factor] = OrderedDict()
        self._lock = threading.Lock()

    def moments(self, tensor: str) -> Moments:
        """Return the moments of a matrix's input; raises ``CalibrationError``."""
        source = _source(tensor)
        with self._lock:
            return _kept(self._moments, source, self._most, lambda: self._calibration.moments(source))

    def importance(self, tensor: str) -> NDArray[np.float32]:
        """Return ggml's ``imatrix`` argument for a matrix, ``float32[columns]``.

        A column that was never active gets a thousandth of the smallest that was: with a zero, q2_K, q4_K and q5_K
        would divide by the sum of a sub-block's weights, and that can be zero (llama.cpp #8661).
        """
        import numpy as np

        squares = self.moments(tensor).squares
        active = squares[squares > 0]
        if len(active) == len(squares):
            return squares
        if len(active) == 0:
            raise CalibrationError(f"{tensor}: its input was never active", hint="calibrate on more audio")
        return np.where(squares > 0, squares, active.min() * np.float32(1e-3)).astype(np.float32)

    def factor(self, tensor: str) -> Factor:
        """Return what feedback needs of a matrix's input; raises ``CalibrationError`` for singular moments."""
        moments = self.moments(tensor)
        source = _source(tensor)
        with self._lock:
            return _kept(self._factors, source, self._most, lambda: factor_for(source, moments))

    def round(
        self,
        tensor: str,
        weights: NDArray[np.float32],
        type: TensorType,  # noqa: A002 - the field's own word for it
        method: Method,
        threads: int = 1,
    ) -> NDArray[np.uint8]:
        """Return the blocks of a matrix ``float32[rows, columns]``: ``uint8[rows, row bytes]``."""
        if method == "feedback":
            from whisq.kernels.feedback import quantize_with_feedback

            return quantize_with_feedback(weights, type, self.factor(tensor), threads=threads)
        importance = self.importance(tensor) if method == "importance" else None
        return kernels.quantize(weights, type, importance=importance, threads=threads)

    def bias_shift(
        self, tensor: str, weights: NDArray[np.float32], rounded: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return what the rounding takes from a layer's mean output, ``float32[rows]``; None without a mean."""
        import numpy as np

        mean = self.moments(tensor).mean
        if mean is None:
            return None
        return ((weights.astype(np.float64) - rounded) @ mean.astype(np.float64)).astype(np.float32)


def factor_for(source: str, moments: Moments) -> Factor:
    """Return the factor for an input's moments; raises ``CalibrationError`` where there is none.

    They are taken about the mean: a constant shift of a layer's output goes into its bias, and one of the keys changes
    no attention. The encoder's output is weighted by attention, which has no one mean, and the output layer, which is
    the token embedding, has no bias: there they are as they are.
    """
    from whisq.kernels.feedback import factor_of

    return factor_of(*_second_moment(source, moments))


def _second_moment(source: str, moments: Moments) -> tuple[NDArray[np.float64], float]:
    """Return an input's second moment as feedback takes it, and its damping."""
    import numpy as np

    from whisq.calibration.inputs import EMBEDDING_INPUT, ENCODER_OUTPUT
    from whisq.kernels.feedback import damping_for

    if moments.second_moment is None or moments.mean is None:
        raise CalibrationError(f"{source}: the calibration has no second moments", hint="use --method importance")
    second = moments.second_moment.astype(np.float64)
    if source not in (ENCODER_OUTPUT, EMBEDDING_INPUT):
        second -= np.outer(moments.mean, moments.mean).astype(np.float64)
        # A column that never varied leaves rounding noise, of either sign, on the diagonal.
        diagonal = np.diag_indices_from(second)
        second[diagonal] = np.maximum(second[diagonal], 0)
    return second, damping_for(len(second), moments.n_rows)


def _what_is_wrong(source: str, calibration: Calibration) -> str:
    """Return why an input's second moments give no factor, empty where they do. Looked at once a calibration."""
    from whisq.kernels.feedback import damped_moment

    if source not in calibration.unusable:
        moments = calibration.moments(source)
        try:
            damped_moment(*_second_moment(source, moments))
            calibration.unusable[source] = ""
        except CalibrationError as error:
            calibration.unusable[source] = str(error)
    return calibration.unusable[source]


def _source(tensor: str) -> str:
    from whisq.calibration import input_of

    source = input_of(tensor)
    if source is None:
        raise CalibrationError(f"{tensor}: is no weight matrix")
    return source


def _kept(kept: OrderedDict[str, T], key: str, most: int, make: Callable[[], T]) -> T:
    if key not in kept:
        while len(kept) >= most:
            kept.popitem(last=False)
        kept[key] = make()
    kept.move_to_end(key)
    return kept[key]
