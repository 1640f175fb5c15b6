"""What error feedback makes of an input's moments, and whether it can make anything of them.

numpy is needed for all of it: this is imported where a factor is, not where a command line starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whisq.calibration.calibration import Calibration, Moments
from whisq.calibration.inputs import is_taken_about_its_mean
from whisq.errors import CalibrationError
from whisq.kernels.feedback import Factor, check_factor, damping_for, factor_of


def factor_for(source: str, moments: Moments, times: int = 1) -> Factor:
    """Return the factor for an input's moments with so many times their damping.

    Raises ``CalibrationError`` where they give none.
    """
    second, damping = _moment_and_damping(source, moments)
    return factor_of(second, times * damping)


def reason_against(source: str, moments: Moments) -> str:
    """Return why ``factor_for`` would raise for an input's moments, empty where it would not: it is rounded plainly.

    Costs a Cholesky factor of the damped moment, which is the one that feedback takes.
    """
    try:
        check_factor(*_moment_and_damping(source, moments))
    except CalibrationError as error:
        return str(error)
    return ""


def check_factors(calibration: Calibration) -> Calibration:
    """Return a calibration with ``singular`` known; itself where it is.

    Else every input's moments are read and factored once, which takes seconds for Whisper base. Raises
    ``CalibrationError`` for moments that cannot be read.
    """
    if calibration.singular is not None or not calibration.has_second_moments:
        return calibration
    active = [name for name, count in calibration.counts.items() if count and name not in calibration.idle]
    found = {name: reason_against(name, calibration.load(name)) for name in active}
    return replace(calibration, singular={name: reason for name, reason in found.items() if reason})


LARGEST_SQUARE = 1e9
"""Mean squares beyond it are divided by the largest: sums of them overflow in f32, and only their ratios count.
Those of activations are far below it."""

MULTIPLES = (1, 3, 10, 30)
"""Of the damping that the number of vectors asks for, those that are tried. None is below it: the halves share their
speakers, and what is made of a file has to hold for others."""

MOST_COLUMNS = 1024
"""Columns of a wide input that the halves are tried on, the last ones: what the factor says of them is the same without
the others."""


def damping_of_halves(source: str, halves: Sequence[Moments]) -> float | None:
    """Return the damping with which what feedback makes of one half of the windows errs least on the other.

    Rounding errors e of equal size on all columns leave e U of a row's weights, U the factor of a half; on the other
    half, of second moment H, that errs by tr(U H Uᵀ), where plain rounding errs by tr(H). What is chosen is a multiple
    of the damping that each half's number of vectors asks for; returned is that of the number in both. Damping without
    end is plain rounding: infinity where none of the multiples errs less. None where a half was never active.
    """
    n_rows, width = sum(half.n_rows for half in halves), len(halves[0].squares)
    first = max(0, width - MOST_COLUMNS)
    try:
        tried = [_errors_held_out(source, fitted, held, first) for fitted, held in (halves, halves[::-1])]
    except CalibrationError:
        return None
    errors = np.mean(tried, axis=0)
    if errors.min() >= 1:
        return math.inf
    return float(MULTIPLES[int(np.argmin(errors))] * damping_for(width, n_rows))


def _errors_held_out(source: str, fitted: Moments, held: Moments, first: int) -> list[float]:
    """Return for every multiple the error on one half with the factor of the other, plain rounding's being 1."""
    moment, damping = _moment_and_damping(source, fitted)
    moment, judge = moment[first:, first:], _moment_about(source, held, fitted.mean)[first:, first:]
    if np.trace(judge) == 0:
        raise CalibrationError(f"{source}: its input was never active in half of the windows")
    errors = []
    for multiple in MULTIPLES:
        upper = factor_of(moment, multiple * damping).upper
        errors.append(float(np.einsum("ij,ij->", upper @ judge, upper, dtype=np.float64) / np.trace(judge)))
    return errors


def _moment_about(source: str, moments: Moments, mean: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return an input's second moment about a mean, where rounding takes it so."""
    if moments.second_moment is None or moments.mean is None or mean is None:
        raise CalibrationError(f"{source}: the calibration has no second moments", hint="use --method importance")
    if not is_taken_about_its_mean(source):
        return moments.second_moment
    second, difference = np.empty_like(moments.second_moment), moments.mean - mean
    # Some rows at a time: a whole matrix of each product would be fetched from memory again and again.
    for start in range(0, len(second), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        np.subtract(moments.second_moment[rows], moments.mean[rows, None] * mean, out=second[rows])
        second[rows] -= mean[rows, None] * difference
    # A column that never varied leaves rounding noise, of either sign, on the diagonal.
    diagonal = np.diag_indices_from(second)
    second[diagonal] = np.maximum(second[diagonal], 0)
    return second


_ROWS_AT_ONCE = 64


def _moment_and_damping(source: str, moments: Moments) -> tuple[NDArray[np.float32], float]:
    """Return an input's second moment as feedback takes it, and its damping.

    Raises ``CalibrationError`` where it has none, or halves of the windows have found no use in it.
    """
    if moments.damping == math.inf:
        raise CalibrationError(f"{source}: what feedback makes of half of the windows helps nothing on the other half")
    second = _moment_about(source, moments, moments.mean)
    if (largest := np.diag(second).max()) > LARGEST_SQUARE:
        second = second / largest
    return second, moments.damping if moments.damping is not None else damping_for(len(second), moments.n_rows)
