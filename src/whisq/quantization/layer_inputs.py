"""What methods ask of the layers' inputs: moments, ggml's importance, feedback's factor, the shift of a bias."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from whisq.calibration import Calibration, Moments, input_of
from whisq.calibration.calibration import AGAIN
from whisq.calibration.factors import LARGEST_SQUARE, factor_for
from whisq.errors import CalibrationError
from whisq.kernels.feedback import Factor
from whisq.quantization.two_sided import output_factor

T = TypeVar("T")


class LayerInputs:
    """A calibration, asked by matrix. Moments and factors of the inputs used last are kept; any thread may ask.

    What one thread reads or factors the others wait for, and only those that want the same.
    """

    def __init__(self, calibration: Calibration, most_kept: int = 2) -> None:
        self._calibration = calibration
        self._moments: _Kept[Moments] = _Kept(most_kept)
        self._factors: _Kept[Factor] = _Kept(most_kept)
        self._outputs: _Kept[NDArray[np.float32]] = _Kept(most_kept)
        self._weighs_outputs = True

    def of_single_rows(self) -> LayerInputs:
        """Return these with no output weighed, so that rows are rounded each alone; what is kept they share."""
        found = copy.copy(self)
        found._weighs_outputs = False
        return found

    def moments(self, tensor: str) -> Moments:
        """Return the moments of a matrix's input; raises ``CalibrationError``."""
        source = _source(tensor)
        return self._moments.get(source, lambda: self._calibration.moments(source))

    def importance(self, tensor: str) -> NDArray[np.float32]:
        """Return ggml's ``imatrix`` argument for a matrix, ``float32[columns]``.

        A column that was never active gets a thousandth of the smallest that was: with a zero, q2_K, q4_K and q5_K
        would divide by the sum of a sub-block's weights, and that can be zero (llama.cpp #8661). What is so large that
        ggml's sums of it overflow is divided by its largest value: only ratios count. Raises
        ``CalibrationError`` for a matrix that is not covered, and where no column ever was active.
        """
        squares = self.moments(tensor).squares
        if squares.max() > LARGEST_SQUARE:
            squares = squares / squares.max()
        active = squares[squares > 0]
        if len(active) == len(squares):
            return squares
        if len(active) == 0:
            raise CalibrationError(f"{tensor}: its input was never active", hint="calibrate on more audio")
        return np.where(squares > 0, squares, active.min() * np.float32(1e-3)).astype(np.float32)

    def factor(self, tensor: str, times: int = 1) -> Factor:
        """Return what feedback needs of a matrix's input, with so many times its damping.

        Raises ``CalibrationError`` for singular moments.
        """
        source = _source(tensor)
        key = source if times == 1 else f"{source} x{times}"
        return self._factors.get(key, lambda: self._factored(source, self.moments(tensor), times))

    def _factored(self, source: str, moments: Moments, times: int) -> Factor:
        try:
            return factor_for(source, moments, times)
        except CalibrationError as error:
            singular = self._calibration.singular
            if moments.second_moment is None or singular is None or source in singular:
                raise
            # Whoever wrote the file looked, and could factor it.
            raise CalibrationError(
                f"{self._calibration.path}: the moments of {source} are damaged: {error}", hint=AGAIN
            ) from None

    def output_factor(self, tensor: str) -> NDArray[np.float32] | None:
        """Return what rounding on both sides needs of a matrix's output, None where it was not weighed.

        Raises ``CalibrationError`` for a moment that has no factor.
        """
        name = tensor.removesuffix(".weight")
        if name not in self._calibration.outputs or not self._weighs_outputs:
            return None
        return self._outputs.get(name, lambda: self._output_factor(name))

    def _output_factor(self, name: str) -> NDArray[np.float32]:
        try:
            moment = self._calibration.load_output(name)
            if moment is None:
                raise CalibrationError("it is not there")
            return output_factor(moment)
        except CalibrationError as error:
            raise CalibrationError(
                f"{self._calibration.path}: the output moment of {name} is damaged: {error}", hint=AGAIN
            ) from None

    def is_being_factored(self, tensor: str) -> bool:
        """True while another thread is at what this matrix would wait for."""
        return self._factors.is_being_made(input_of(tensor) or "")

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


class _Kept(Generic[T]):
    """The values of the keys asked for last; each is made once, by the first thread that asks."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """Return the value of a key; raises what ``make`` raises, then and whenever it is asked for again."""
        with self._lock:
            found = self._values.get(key)
            mine = found is None
            if found is None:
                while len(self._values) >= self._most:
                    self._values.popitem(last=False)
                found = self._values[key] = Future()
            self._values.move_to_end(key)
        if mine:
            try:
                found.set_result(make())
            except BaseException as error:
                found.set_exception(error)
        return found.result()

    def is_being_made(self, key: str) -> bool:
        """True while a thread is making the value of a key."""
        with self._lock:
            found = self._values.get(key)
            return found is not None and not found.done()
