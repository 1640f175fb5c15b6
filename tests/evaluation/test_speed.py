"""Speeds are told where clips show them, and under any load there is one verdict or none."""

from __future__ import annotations

import numpy as np
import pytest

from whisq.evaluation.speed import Timing, compare_speeds, median_pace, others_at_work


def timings(times_s, factor: float = 1.0, together: str = "one") -> list[Timing]:
    return [Timing(factor * t, 2 * factor * t, 0.6 * factor * t, 0.4 * factor * t, 0.1, together) for t in times_s]


@pytest.fixture
def times_s() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 4, 20)


def noise(seed: int, width: float = 0.02) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, width, 20))


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "faster"), (1.25, "slower"), (1.0, "not measurable here")])
def test_a_difference_that_clips_show_is_told(times_s: np.ndarray, factor: float, verdict: str) -> None:
    found = compare_speeds(timings(times_s * noise(1), factor), timings(times_s * noise(2)))
    assert found.verdict == verdict
    assert found.clips == 20
    assert found.wall.interval.low <= found.wall.interval.estimate <= found.wall.interval.high
    assert found.wall.interval.estimate == pytest.approx(factor, rel=0.03)
    assert found.encoder.is_measurable == found.decoder.is_measurable == (factor != 1)


@pytest.mark.parametrize("factor", [0.8, 0.97, 1.0, 1.03, 1.25])
@pytest.mark.parametrize("seed", range(8))
def test_load_during_half_of_the_run_turns_no_verdict(times_s: np.ndarray, factor: float, seed: int) -> None:
    """Two busy loops on two CPUs: everything takes about twice as long, one clip more, another less."""
    quiet = compare_speeds(timings(times_s * noise(seed), factor), timings(times_s * noise(seed + 100)))
    busy = np.where(np.arange(20) < 10, 2.0, 1.0)
    loaded = compare_speeds(
        timings(times_s * busy * noise(seed + 200, 0.25), factor), timings(times_s * busy * noise(seed + 300, 0.25))
    )
    assert loaded.verdict in (quiet.verdict, "not measurable here")


def test_one_after_the_other_is_no_comparison(times_s: np.ndarray) -> None:
    """The hazard itself: the load came when the second model ran, which is as fast as the first."""
    apart = compare_speeds(timings(1.7 * times_s, together="two"), timings(times_s))
    assert (apart.verdict, apart.wall) == ("not measurable here", None)
    assert "not measured in turns" in apart.reason
    assert compare_speeds(timings(1.7 * times_s, together=""), timings(times_s, together="")).wall is None


def test_an_interval_wider_than_the_difference_is_no_verdict() -> None:
    ratios = np.array([1.01, 1.02, 1.03, 1.2, 1.22, 1.25, 1.3, 1.04])
    found = compare_speeds(timings(ratios), timings(np.ones(8)))
    assert found.wall.interval.low > 1
    assert found.verdict == "not measurable here"


def test_clock_and_cpu_time_have_to_agree(times_s: np.ndarray) -> None:
    waited = [Timing(1.5 * t, 2 * t, together="one") for t in times_s]
    found = compare_speeds(waited, timings(times_s))
    assert found.wall.is_measurable
    assert found.verdict == "not measurable here"
    assert found.encoder is None


@pytest.mark.parametrize("n_clips", [0, 1, 5])
def test_few_clips_are_too_few(n_clips: int) -> None:
    found = compare_speeds(timings(np.full(n_clips, 0.5)), timings(np.ones(n_clips)))
    assert (found.verdict, found.wall) == ("not measurable here", None)
    assert "fewer than 6 clips" in found.reason


def test_results_of_before_have_no_times(times_s: np.ndarray) -> None:
    assert compare_speeds([None] * 20, timings(times_s)).wall is None
    assert median_pace([None], [1.0]) is None
    assert median_pace(timings([1, 2, 3]), [2, 2, 2]).estimate == 1
    assert others_at_work([None]) is None
    assert others_at_work(timings(times_s)) == pytest.approx(0.1)
