"""What an error of a tensor is at its ends, in a comparison and in an evaluation's results alike."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import write_model
from tests.support.models import NARROW, values_of
from whisq import compare as module
from whisq.compare import TensorDifference, compare
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


def test_an_evaluation_stores_what_a_comparison_finds(tmp_path: Path) -> None:
    others = {spec.name: values_of(spec, seed=1) for spec in expected_tensors(NARROW).values() if spec.is_matrix}
    paths = [write_model(tmp_path / "a.bin"), write_model(tmp_path / "b.bin", change=others)]
    with open_model(paths[0]) as first, open_model(paths[1]) as second:
        compared = {tensor.name: tensor for tensor in compare(first, second).tensors}
        names = [tensor.name for tensor in second.tensors if len(tensor.shape) > 1]
    errors = tensor_errors(*paths)
    assert [error.name for error in errors] == names
    for error in errors:
        expected = compared[error.name]
        assert (error.signal, error.noise) == (expected.signal, expected.noise)
        assert error.relative_error == expected.relative_error
        assert (error.relative_error > 0) == (error.name in others)
    assert module.finite_or_none(-np.inf) is None
