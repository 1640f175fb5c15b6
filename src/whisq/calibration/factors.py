"""What error feedback makes of an input's moments, and whether it can make anything of them.

numpy is needed for all of it: this is imported where a factor is, not where a command line starts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whisq.calibration.calibration import Calibration, Moments
from whisq.calibration.inputs import is_taken_about_its_mean
from whisq.errors import CalibrationError
from whisq.kernels.feedback import Factor, check_factor, damping_for, factor_of


def factor_for(source: str, moments: Moments) -> Factor:
    """Return the factor for an input's moments; raises ``CalibrationError`` where they give none."""
    return factor_of(*_moment_and_damping(source, moments))


def reason_against(source: str, moments: Moments) -> str:
    """Return why ``factor_for`` would raise for an input's moments, empty where it would not.

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


def _moment_and_damping(source: str, moments: Moments) -> tuple[NDArray[np.float32], float]:
    """Return an input's second moment as feedback takes it, and its damping."""
    if moments.second_moment is None or moments.mean is None:
        raise CalibrationError(f"{source}: the calibration has no second moments", hint="use --method importance")
    second = moments.second_moment
    if is_taken_about_its_mean(source):
        second = second - np.outer(moments.mean, moments.mean)
        # A column that never varied leaves rounding noise, of either sign, on the diagonal.
        diagonal = np.diag_indices_from(second)
        second[diagonal] = np.maximum(second[diagonal], 0)
    return second, damping_for(len(second), moments.n_rows)
