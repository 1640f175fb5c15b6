"""What methods ask of the layers' inputs: moments, ggml's importance, feedback's factor, the shift of a bias."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from whisq.calibration import Calibration, Moments, input_of
from whisq.calibration.factors import factor_for
from whisq.errors import CalibrationError
from whisq.kernels.feedback import Factor

T = TypeVar("T")


class LayerInputs:
    """A calibration, asked by matrix. Moments and factors of the inputs used last are kept; any thread may ask."""

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
        would divide by the sum of a sub-block's weights, and that can be zero (llama.cpp #8661). Raises
        ``CalibrationError`` for a matrix that is not covered, and where no column ever was active.
        """
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

    def bias_shift(
        self, tensor: str, weights: NDArray[np.float32], rounded: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return what the rounding takes from a layer's mean output, ``float32[rows]``; None without a mean.

        Raises ``CalibrationError`` for a matrix that is not covered.
        """
        mean = self.moments(tensor).mean
        if mean is None:
            return None
        return ((weights.astype(np.float64) - rounded) @ mean.astype(np.float64)).astype(np.float32)


def _source(tensor: str) -> str:
    source = input_of(tensor)
    if source is None:
        raise CalibrationError(f"{tensor}: is not a weight matrix")
    return source


def _kept(kept: OrderedDict[str, T], key: str, most: int, make: Callable[[], T]) -> T:
    if key not in kept:
        while len(kept) >= most:
            kept.popitem(last=False)
        kept[key] = make()
    kept.move_to_end(key)
    return kept[key]
