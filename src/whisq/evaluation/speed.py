"""How long a candidate takes beside the reference: paired by clip, medians with intervals, or nothing at all.

Models take turns clip by clip, so that whatever else the machine does meets all of them. A load that comes and goes
widens the interval then; it does not turn one verdict into another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whisq.evaluation.statistics import CONFIDENCE, Interval, sign_flip_p_value

SpeedVerdict = Literal["faster", "slower", "not measurable here"]

NOT_MEASURABLE: SpeedVerdict = "not measurable here"
FEWEST_CLIPS = 6
"""With fewer the sign-flip test cannot reach p < 0.05, whatever the clips say."""
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Timing:
    """What one transcription took, in seconds: by the clock, of CPU time, and of it what each half of the model took.

    ``encode_s`` and ``decode_s`` are None where the runtime does not tell. ``others_cpus`` is how many CPUs' worth of
    work others did meanwhile. ``together`` names the run in which models took turns, empty where they did not.
    """

    wall_s: float
    cpu_s: float
    encode_s: float | None = None
    decode_s: float | None = None
    others_cpus: float | None = None
    together: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median over clips of a candidate's time as a multiple of the reference's.

    ``is_measurable`` says whether it can be told from 1: its 95 % interval leaves 1 out and is narrower than the
    difference, and a sign-flip test over clips agrees.
    """

    interval: Interval
    is_measurable: bool


@dataclass(frozen=True, slots=True)
class Speed:
    """A candidate's times against the reference's over so many clips, and what can be said of them.

    The verdict wants the clock and the CPU time to agree. ``reason`` says why there are no figures.
    """

    clips: int
    verdict: SpeedVerdict
    wall: Ratio | None = None
    cpu: Ratio | None = None
    encoder: Ratio | None = None
    decoder: Ratio | None = None
    reason: str = ""

    @property
    def is_measurable(self) -> bool:
        """True where there is a verdict."""
        return self.verdict != NOT_MEASURABLE


def compare_speeds(mine: Sequence[Timing | None], theirs: Sequence[Timing | None], seed: int = 0) -> Speed:
    """Return how a candidate's times compare with the reference's of the same clips."""
    pairs = [
        (one, other)
        for one, other in zip(mine, theirs, strict=False)
        if one is not None and other is not None and one.together and one.together == other.together
    ]
    if not pairs and any(mine) and any(theirs):
        return Speed(0, NOT_MEASURABLE, reason="the two were not measured in turns, clip by clip")
    if len(pairs) < FEWEST_CLIPS:
        return Speed(len(pairs), NOT_MEASURABLE, reason=f"fewer than {FEWEST_CLIPS} clips measured in turns")
    wall = _ratio([one.wall_s for one, _ in pairs], [other.wall_s for _, other in pairs], seed)
    cpu = _ratio([one.cpu_s for one, _ in pairs], [other.cpu_s for _, other in pairs], seed)
    encoder = _ratio([one.encode_s for one, _ in pairs], [other.encode_s for _, other in pairs], seed)
    decoder = _ratio([one.decode_s for one, _ in pairs], [other.decode_s for _, other in pairs], seed)
    return Speed(len(pairs), _verdict(wall, cpu), wall, cpu, encoder, decoder)


def median_pace(timings: Sequence[Timing | None], durations_s: Sequence[float], seed: int = 0) -> Interval | None:
    """Return the median of seconds of work for a second of audio, with its bounds; None without times."""
    paces = [t.wall_s / s for t, s in zip(timings, durations_s, strict=False) if t is not None and s > 0]
    return _median(np.array(paces), seed) if paces else None


def real_time_factor(seconds: Sequence[float | None], durations_s: Sequence[float]) -> float:
    """Return seconds of work for a second of audio, of the clips that were timed; NaN without any."""
    timed = [(took, s) for took, s in zip(seconds, durations_s, strict=False) if took is not None]
    return sum(took for took, _ in timed) / sum(s for _, s in timed) if timed else math.nan


def others_at_work(timings: Sequence[Timing | None]) -> float | None:
    """Return how many CPUs' worth of work others did while these were measured, on average; None if nobody tells."""
    known = [t.others_cpus for t in timings if t is not None and t.others_cpus is not None]
    return sum(known) / len(known) if known else None


def _verdict(wall: Ratio | None, cpu: Ratio | None) -> SpeedVerdict:
    if wall is None or cpu is None or not (wall.is_measurable and cpu.is_measurable):
        return NOT_MEASURABLE
    below = {wall.interval.estimate < 1, cpu.interval.estimate < 1}
    if len(below) > 1:
        return NOT_MEASURABLE
    return "faster" if below.pop() else "slower"


def _ratio(mine: Sequence[float | None], theirs: Sequence[float | None], seed: int) -> Ratio | None:
    if any(value is None or value <= 0 for value in (*mine, *theirs)):
        return None
    logarithms = np.log(np.array(mine, float)) - np.log(np.array(theirs, float))
    found = _median(logarithms, seed)
    outside = found.low > 0 or found.high < 0
    narrow = found.high - found.low <= abs(found.estimate)
    agreed = sign_flip_p_value(logarithms, seed=seed) < 1 - CONFIDENCE
    bounds = Interval(*(math.exp(value) for value in (found.estimate, found.low, found.high)))
    return Ratio(bounds, outside and narrow and agreed)


def _median(values: np.ndarray, seed: int) -> Interval:
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.median(values[drawn], axis=1), [tail, 100 - tail])
    return Interval(float(np.median(values)), float(low), float(high))
