"""The damping that held-out windows choose, and the halves that they are kept in."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from whisq import kernels
from whisq.calibration import Moments, read_calibration
from whisq.calibration.factors import MOST_COLUMNS, MULTIPLES, damping_of_halves, factor_for, reason_against
from whisq.calibration.file import write_calibration
from whisq.calibration.inputs import EMBEDDING_INPUT
from whisq.calibration.sums import Sums
from whisq.errors import CalibrationError
from whisq.kernels.feedback import damping_for, factor_of, quantize_with_feedback
from whisq.network.numpy_operations import NumpyOperations
from whisq.types import parse_type

SOURCE = "encoder.blocks.0.attn.query"


def inputs(n_vectors: int, width: int, seed: int, directions: int = 8) -> np.ndarray:
    """Inputs with a few directions of their own, beside those that all seeds share."""
    shared = np.random.default_rng(99).normal(size=(directions, width))
    generator = np.random.default_rng(seed)
    own = generator.normal(size=(directions, width))
    x = generator.normal(size=(n_vectors, directions)) @ shared + generator.normal(size=(n_vectors, directions)) @ own
    return (0.3 + x + generator.normal(size=x.shape)).astype(np.float32)


def moments(x: np.ndarray, damping: float | None = None) -> Moments:
    second = (x.T @ x / len(x)).astype(np.float32)
    return Moments(len(x), np.diag(second).copy(), x.mean(0), second, damping)


def test_halves_that_agree_want_no_more_damping_than_their_number_asks_for() -> None:
    x = inputs(8000, 64, seed=1)
    found = damping_of_halves(SOURCE, [moments(x[::2]), moments(x[1::2])])
    assert found == pytest.approx(damping_for(64, 8000))


def test_halves_that_have_little_in_common_want_more() -> None:
    halves = [moments(inputs(70, 64, seed, directions=30)) for seed in (1, 2)]
    found = damping_of_halves(SOURCE, halves)
    assert found in [pytest.approx(multiple * damping_for(64, 140)) for multiple in MULTIPLES[1:]]


@pytest.mark.parametrize("source", [SOURCE, EMBEDDING_INPUT])
def test_what_is_chosen_errs_least_on_the_other_half_and_less_than_plain_rounding(source: str) -> None:
    halves = [inputs(70, 64, seed, directions=16) for seed in (1, 2)]
    weights = np.random.default_rng(3).normal(size=(600, 64)).astype(np.float32)
    kind = parse_type("q4_0")

    def error(decoded: np.ndarray, fitted: np.ndarray, held: np.ndarray) -> float:
        outputs = (held - (fitted.mean(0) if source == SOURCE else 0)) @ (decoded - weights).T
        return float((outputs.astype(np.float64) ** 2).sum())

    found = {}
    for multiple in (*MULTIPLES, None):
        total = 0.0
        for fitted, held in (halves, halves[::-1]):
            if multiple is None:
                blocks = kernels.quantize(weights, kind)
            else:
                given = moments(fitted, multiple * damping_for(64, len(fitted)))
                blocks = quantize_with_feedback(weights, kind, factor_for(source, given))
            total += error(kernels.dequantize(blocks.data, kind, weights.shape), fitted, held)
        found[multiple] = total
    chosen = damping_of_halves(source, [moments(half) for half in halves])
    assert chosen is not None
    multiple = round(chosen / damping_for(64, 140))
    assert found[multiple] <= 1.02 * min(found[m] for m in MULTIPLES)
    assert found[multiple] < found[None]


def test_of_a_wide_input_the_last_columns_stand_for_all() -> None:
    x = inputs(300, MOST_COLUMNS + 64, seed=4)
    second = x.T @ x / len(x)
    whole, last = factor_of(second, 0.1), factor_of(second[64:, 64:], 0.1)
    share = np.diag(second)[64:].mean() / np.diag(second).mean()
    assert share == pytest.approx(1, abs=0.05)
    assert np.abs(whole.upper[64:, 64:] - last.upper).max() < 0.01
    assert damping_of_halves(SOURCE, [moments(x[::2]), moments(x[1::2])]) is not None


def white(seed: int) -> Moments:
    return moments(np.random.default_rng(seed).normal(size=(70, 64)).astype(np.float32))


def test_where_no_half_helps_the_other_rounding_is_plain_and_says_why() -> None:
    assert damping_of_halves(SOURCE, [white(1), white(2)]) == math.inf
    useless = dataclasses.replace(white(1), damping=math.inf)
    assert "helps nothing on the other half" in reason_against(SOURCE, useless)
    with pytest.raises(CalibrationError, match=SOURCE):
        factor_for(SOURCE, useless)


def test_a_calibration_keeps_which_inputs_are_rounded_plainly(tmp_path: Path) -> None:
    found = {SOURCE: dataclasses.replace(white(1), damping=math.inf), "other": white(2)}
    path = tmp_path / "a.calib"
    write_calibration(path, {"dims": [1]}, [(name, 64, 70) for name in found], found.__getitem__, None)
    read = read_calibration(path)
    assert list(read.singular) == [SOURCE]
    assert read.moments(SOURCE).damping is None


def test_a_half_that_was_never_active_chooses_nothing() -> None:
    silent = moments(np.zeros((10, 64), np.float32))
    assert damping_of_halves(SOURCE, [moments(inputs(100, 64, 1)), silent]) is None
    assert damping_of_halves(SOURCE, [silent, moments(inputs(100, 64, 1))]) is None


@pytest.mark.parametrize("n_windows", [1, 2, 3, 7])
def test_sums_are_of_all_windows_and_two_by_turns_judge_each_other(n_windows: int) -> None:
    windows = [inputs(40, 64, seed) for seed in range(n_windows)]
    sums = Sums(NumpyOperations(1))
    for window in windows:
        sums.add(window)
    found, together = sums.moments(SOURCE), np.concatenate(windows)
    np.testing.assert_allclose(found.second_moment, together.T @ together / len(together), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.mean, together.mean(0), rtol=1e-4, atol=1e-5)
    assert found.n_rows == len(together)
    halves = [[w for i, w in enumerate(windows) if i // 2 % 2 == half] for half in (0, 1)]
    if n_windows < 3:
        assert found.damping is None
    else:
        expected = damping_of_halves(SOURCE, [moments(np.concatenate(half)) for half in halves])
        assert found.damping == expected
