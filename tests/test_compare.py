"""What an error of a tensor is at its ends, in a comparison and in an evaluation's results alike."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import write_model
from tests.support.models import NARROW, values_of
from whisq import compare as module
from whisq.compare import TensorDifference, _piece_difference, compare
from whisq.evaluation.results import TensorError
from whisq.evaluation.tensors import tensor_errors
from whisq.formats import open_model
from whisq.types import F16
from whisq.whisper import expected_tensors


def difference(signal: float, noise: float, n_not_finite: int) -> TensorDifference:
    return TensorDifference("t", 64, (F16, F16), (128, 128), signal, noise, 1.0, n_not_finite)


def stored(signal: float, noise: float, n_not_finite: int) -> TensorError:
    return TensorError("t", "decoder", 0, "mlp.0", "f16", "f16", 64, 128, signal, noise, n_not_finite)


@pytest.mark.parametrize("made", [difference, stored])
@pytest.mark.parametrize(
    ("signal", "noise", "n_not_finite", "error", "snr_db"),
    [
        (4.0, 0.04, 0, 0.1, 20.0),
        (4.0, 0.0, 0, 0.0, math.inf),
        (0.0, 0.0, 0, 0.0, math.inf),
        (0.0, 1e-9, 0, math.inf, -math.inf),
        (4.0, 0.0, 1, math.inf, -math.inf),
    ],
)
def test_one_meaning_of_an_error(made, signal, noise, n_not_finite, error, snr_db) -> None:
    found = made(signal, noise, n_not_finite)
    assert found.relative_error == pytest.approx(error)
    assert found.snr_db == pytest.approx(snr_db)


def compared(folder: Path, first: list[float], second: list[float]) -> TensorDifference:
    """Return how a bias that begins with these values differs."""
    spec, paths = expected_tensors(NARROW)["encoder.ln_post.bias"], []
    for name, values in (("a.bin", first), ("b.bin", second)):
        changed = np.concatenate([np.array(values, np.float32), values_of(spec)[len(values) :]])
        paths.append(write_model(folder / name, change={spec.name: changed}))
    with open_model(paths[0]) as a, open_model(paths[1]) as b:
        return compare(a, b, [spec.name]).tensors[0]


@pytest.mark.parametrize("step", [0.5, -0.5])
def test_the_largest_error_has_no_sign(tmp_path: Path, step: float) -> None:
    assert compared(tmp_path, [1.0, 2.0], [1.0, 2.0 + step]).largest_error == 0.5


def test_what_is_not_finite_differs_only_from_what_is_otherwise(tmp_path: Path) -> None:
    odd = [math.nan, math.inf, -math.inf, 1.0]
    same = compared(tmp_path, odd, odd)
    assert (same.n_not_finite, same.noise, same.relative_error) == (0, 0.0, 0.0)
    other = compared(tmp_path, odd, [0.0, -math.inf, -math.inf, math.nan])
    assert (other.n_not_finite, other.noise, other.relative_error) == (3, 0.0, math.inf)


def test_an_evaluation_stores_what_a_comparison_finds(tmp_path: Path) -> None:
    others = {spec.name: values_of(spec, seed=1) for spec in expected_tensors(NARROW).values() if spec.is_matrix}
    paths = [write_model(tmp_path / "a.bin"), write_model(tmp_path / "b.bin", change=others)]
    with open_model(paths[0]) as first, open_model(paths[1]) as second:
        differences = {tensor.name: tensor for tensor in compare(first, second).tensors}
        names = [tensor.name for tensor in second.tensors if len(tensor.shape) > 1]
    errors = tensor_errors(*paths)
    assert [error.name for error in errors] == names
    for error in errors:
        expected = differences[error.name]
        assert (error.signal, error.noise) == (expected.signal, expected.noise)
        assert error.relative_error == expected.relative_error
        assert (error.relative_error > 0) == (error.name in others)
    assert module.finite_or_none(-np.inf) is None


SCALES = [1e-40, *(10.0**k for k in np.arange(-24, -9, 0.25)), 1.0, 1e12, 1e19, 1e38]
"""From where squares in float32 are all zero, in steps through where they lose digits, to where their sum overflows."""
NEARNESS = [0.0, 1e-7, 1e-4, 1e-2, 1.0]
PRECISION = 3e-6
"""Of a sum of 65536 squares in float32."""


def worst_sum(scale: float) -> float:
    """Return how far, relatively, sums of a piece of this scale are from float64's at most."""
    worst = 0.0
    for nearness in NEARNESS:
        generator = np.random.default_rng(0)
        a = (scale * generator.uniform(-1, 1, 65536)).astype(np.float32)
        b = (a * (1 + nearness * generator.uniform(-1, 1, 65536))).astype(np.float32)
        signal, noise, largest, n_not_finite = _piece_difference(a, b)
        wide = a.astype(np.float64)
        difference = wide - b
        expected = (wide @ wide, difference @ difference, abs(difference).max())
        assert n_not_finite == 0
        for found, right in zip((signal, noise, largest), expected, strict=True):
            worst = max(worst, abs(found - right) / (right or 1.0))
    return worst


@pytest.mark.parametrize("scale", SCALES)
def test_sums_are_those_of_float64_at_any_scale(scale: float) -> None:
    assert worst_sum(scale) < PRECISION


@pytest.mark.parametrize("loosened", [0.0, 1e-40, 1e-38])
def test_with_a_lower_limit_of_float32_some_scale_would_show_it(monkeypatch, loosened: float) -> None:
    monkeypatch.setattr(module, "_LEAST", loosened)
    assert max(map(worst_sum, SCALES)) > PRECISION
