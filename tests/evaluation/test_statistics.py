"""Intervals and verdicts against known distributions, brute force, and planted differences."""

import itertools

import numpy as np
import pytest

from whisq.evaluation.statistics import paired_difference, rate, sign_flip_p_value


def test_rate_is_of_sums_not_a_mean_of_rates() -> None:
    assert rate([1, 0], [2, 98]).estimate == pytest.approx(0.01)


def test_interval_of_a_bernoulli_sample_is_the_binomials() -> None:
    # 2000 one-word utterances, 400 wrong: the bootstrap of the mean is Binomial(2000, 0.2) / 2000.
    from scipy.stats import binom

    interval = rate([1] * 400 + [0] * 1600, [1] * 2000)
    low, high = binom.ppf([0.025, 0.975], 2000, 0.2) / 2000
    assert interval.estimate == 0.2
    assert interval.low == pytest.approx(low, abs=0.0015)
    assert interval.high == pytest.approx(high, abs=0.0015)


def test_interval_equals_brute_force_over_all_resamples() -> None:
    edits, words = np.array([0, 1, 5, 2]), np.array([4, 7, 9, 3])
    draws = np.array(list(itertools.product(range(4), repeat=4)))
    values = edits[draws].sum(axis=1) / words[draws].sum(axis=1)
    interval = rate(edits, words, resamples=100_000)
    assert [interval.low, interval.high] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.01)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        words = generator.integers(5, 30, size=80)
        edits = generator.binomial(words, 0.1)
        interval = rate(edits, words, seed=trial, resamples=1000)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_planted_difference_is_found_and_signed() -> None:
    generator = np.random.default_rng(2)
    words = generator.integers(10, 30, size=300)
    reference = generator.binomial(words, 0.10)
    harmed = reference + generator.binomial(words, 0.03)
    worse = paired_difference(harmed, reference, words)
    better = paired_difference(reference, harmed, words)
    assert (worse.verdict, better.verdict) == ("worse", "better")
    assert worse.interval.low < 0.03 < worse.interval.high
    assert better.interval.estimate == -worse.interval.estimate


def test_pairing_finds_what_unpaired_intervals_hide() -> None:
    generator = np.random.default_rng(3)
    words = np.full(200, 20)
    reference = generator.binomial(20, generator.beta(1, 4, size=200))
    harmed = reference + (np.arange(200) % 10 == 0)
    first, second = rate(reference, words), rate(harmed, words)
    assert second.low < first.estimate < second.high
    assert paired_difference(harmed, reference, words).verdict == "worse"


def test_no_difference_stays_quiet() -> None:
    generator = np.random.default_rng(4)
    alarms = 0
    for trial in range(200):
        words = generator.integers(10, 30, size=60)
        one, other = generator.binomial(words, 0.1), generator.binomial(words, 0.1)
        alarms += paired_difference(one, other, words, seed=trial, resamples=1000).verdict != "not distinguishable"
    assert alarms / 200 <= 0.08


def test_equal_transcripts_are_not_distinguishable_and_promise_nothing() -> None:
    same = paired_difference([1, 2, 0], [1, 2, 0], [10, 10, 10])
    assert (same.verdict, same.utterances_needed, same.p_value) == ("not distinguishable", None, 1.0)


def test_four_utterances_that_differ_are_too_few_for_a_verdict() -> None:
    harmed = np.array([1, 1, 1, 1] + [0] * 60)
    found = paired_difference(harmed, np.zeros(64), np.full(64, 20))
    assert found.interval.low > 0
    assert found.p_value == pytest.approx(2 / 16)
    assert found.verdict == "not distinguishable"


def test_sign_flip_is_exact_where_it_can_be() -> None:
    values = [3, -1, 2, 2, 1]
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=5)
    ]
    assert sign_flip_p_value(values) == sum(total >= 7 for total in sums) / 32
    many = np.random.default_rng(5).integers(-3, 4, size=60)
    assert 0.02 < sign_flip_p_value(many) <= 1


def test_one_utterance_says_nothing_of_how_many_would() -> None:
    found = paired_difference([7], [3], [690])
    assert (found.verdict, found.utterances_needed) == ("not distinguishable", None)


def test_utterances_needed_do_show_half_a_point() -> None:
    # The promise itself, played out: with that many utterances, half a point is found about 80 % of the time.
    generator = np.random.default_rng(6)

    def draw(n: int, harm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        words = np.full(n, 20)
        change = generator.choice([-1, 0, 1], p=[0.1 - 10 * harm, 0.8, 0.1 + 10 * harm], size=n)
        return np.full(n, 3) + change, np.full(n, 3), words

    needed = paired_difference(*draw(400, 0.0), resamples=4000).utterances_needed
    assert needed is not None
    found = [paired_difference(*draw(needed, 0.005), seed=i, resamples=500).verdict == "worse" for i in range(60)]
    assert 0.6 <= np.mean(found) <= 0.95
