"""Rates from sums, bootstrap intervals over utterances, and paired differences with a verdict in words.

The utterance is what was sampled, so the utterance is what is resampled (Bisani & Ney 2004, "Bootstrap
estimates for confidence intervals in ASR performance evaluation"). Paired: a difference uses the same
utterances on both sides, which takes out how hard each one is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
Verdict = Literal["worse", "better", "not distinguishable"]

CONFIDENCE = 0.95
RESAMPLES = 10_000
"""The percentiles of 10 000 resamples stand still to about a hundredth of the interval's width."""
DIFFERENCE_OF_INTEREST = 0.005
"""Half a point: more than q8_0 or q5_0 is known to cost, about what makes one choose another file."""
_DETECTION_Z = 1.959964 + 0.841621
"""Standard errors in a difference that is found at 5 % two-sided with a probability of 80 %."""
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its 95 % bootstrap interval, as fractions."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A candidate's rate less the reference's, over the same utterances.

    ``p_value`` is the two-sided sign-flip test's. ``standard_error`` is the bootstrap's.
    ``utterances_needed`` says how many such utterances would show a difference of
    ``DIFFERENCE_OF_INTEREST`` with a probability of 80 %; None when there is one utterance only, or they do
    not differ at all, so that nothing can be said.
    """

    interval: Interval
    standard_error: float
    p_value: float
    utterances: int
    verdict: Verdict
    utterances_needed: int | None

    @property
    def audio_factor(self) -> float | None:
        """Times the audio at hand that would be needed."""
        return None if self.utterances_needed is None else self.utterances_needed / self.utterances


def _resampled_sums(columns: Counts, seed: int, resamples: int) -> Counts:
    """Return ``[resamples, columns]`` sums over utterances drawn with replacement; ``columns`` is [n, k]."""
    generator = np.random.default_rng(seed)
    n = len(columns)
    sums = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        drawn = generator.integers(0, n, size=(min(step, resamples - start), n))
        for column in range(columns.shape[1]):
            sums[start : start + len(drawn), column] = columns[drawn, column].sum(axis=1)
    return sums


def _bounds(values: Counts) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _as_columns(*columns: npt.ArrayLike) -> Counts:
    stacked = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    if not len(stacked):
        raise ValueError("no utterances")
    return stacked


def rate(edits: npt.ArrayLike, units: npt.ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return sum(edits) / sum(units) with its interval; one entry per utterance. NaN without units."""
    columns = _as_columns(edits, units)
    total = columns.sum(axis=0)
    if total[1] == 0:
        return Interval(math.nan, math.nan, math.nan)
    sums = _resampled_sums(columns, seed, resamples)
    sums = sums[sums[:, 1] > 0]
    low, high = _bounds(sums[:, 0] / sums[:, 1])
    return Interval(float(total[0] / total[1]), low, high)


def paired_difference(
    candidate_edits: npt.ArrayLike,
    reference_edits: npt.ArrayLike,
    units: npt.ArrayLike,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Return how the candidate's rate differs from the reference's; one entry per utterance, same order.

    The verdict is "worse" or "better" only where the interval leaves out zero *and* the sign-flip test gives
    p < 0.05: with a handful of utterances that differ, the bootstrap alone is too sure of itself.
    """
    columns = _as_columns(np.subtract(candidate_edits, reference_edits), units)
    differences, words = columns[:, 0], columns[:, 1].sum()
    sums = _resampled_sums(columns, seed, resamples)
    sums = sums[sums[:, 1] > 0]
    values = sums[:, 0] / sums[:, 1]
    low, high = _bounds(values)
    interval = Interval(float(differences.sum() / words), low, high)
    error = float(values.std())
    p_value = sign_flip_p_value(differences, seed=seed, resamples=resamples)
    verdict: Verdict = "not distinguishable"
    if p_value < 1 - CONFIDENCE and low > 0:
        verdict = "worse"
    elif p_value < 1 - CONFIDENCE and high < 0:
        verdict = "better"
    needed = None
    if len(columns) > 1 and error > 1e-12:  # of one utterance all resamples are the same
        needed = math.ceil(len(columns) * (_DETECTION_Z * error / DIFFERENCE_OF_INTEREST) ** 2)
    return Difference(interval, error, p_value, len(columns), verdict, needed)


def sign_flip_p_value(differences: npt.ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p-value of the sum of differences when each one's sign were a coin's fall.

    Exact, over all signs, where at most 13 utterances differ; else by that many random ones (Phipson & Smyth
    2010: the observed one counted among them).
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    observed = abs(values.sum()) - 1e-9
    if 2 ** len(values) <= resamples:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float((np.abs((2 * patterns - 1) @ values) >= observed).mean())
    generator = np.random.default_rng(seed)
    hits, step = 0, max(1, _CHUNK // len(values))
    for start in range(0, resamples, step):
        signs = generator.integers(0, 2, size=(min(step, resamples - start), len(values))) * 2 - 1
        hits += int((np.abs(signs @ values) >= observed).sum())
    return (hits + 1) / (resamples + 1)
