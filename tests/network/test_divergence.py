"""The Kullback-Leibler divergence, worked by hand."""

import math

import numpy as np
import pytest

from whisq.network.divergence import divergences
from whisq.network.numpy_operations import NumpyOperations
from whisq.network.torch_operations import TorchOperations


@pytest.fixture(params=["numpy", pytest.param("torch", marks=[pytest.mark.torch, pytest.mark.slow])])
def operations(request: pytest.FixtureRequest):
    if request.param == "numpy":
        return NumpyOperations()
    request.getfixturevalue("torch")
    return TorchOperations()


def test_two_tokens_by_hand(operations) -> None:
    expected = operations.array(np.log([[0.5, 0.5], [0.25, 0.75]]))
    other = operations.array(np.log([[0.25, 0.75], [0.5, 0.5]]))
    by_hand = [
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75),
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5),
    ]
    np.testing.assert_allclose(divergences(expected, other, operations), by_hand, rtol=1e-6)


def test_logits_need_not_be_normalized(operations) -> None:
    random = np.random.default_rng(1)
    expected, other = random.standard_normal((2, 40, 1000)).astype(np.float32)
    found = divergences(operations.array(expected), operations.array(other), operations)
    shifted = divergences(operations.array(expected + 8), operations.array(other - 4), operations)
    assert found.shape == (40,)
    assert found.dtype == np.float64
    assert (found > 0.5).all()
    # The sum is done in float64: what is left is the rounding of the shifted float32.
    np.testing.assert_allclose(shifted, found, rtol=1e-5)
    log_p, log_q = (x.astype(float) - np.log(np.exp(x.astype(float)).sum(-1, keepdims=True)) for x in (expected, other))
    np.testing.assert_allclose(found, (np.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-12)


def test_nothing_is_negative_and_equals_are_zero(operations) -> None:
    logits = np.random.default_rng(2).standard_normal((33, 5000)).astype(np.float32)
    assert (divergences(operations.array(logits), operations.array(logits), operations) == 0).all()
    # A hair's breadth apart: the sum's own rounding is of either sign.
    near = np.nextafter(logits, np.float32(9))
    found = divergences(operations.array(logits), operations.array(near), operations)
    assert (found >= 0).all()
    assert (found < 1e-12).all()


def test_what_rounding_leaves_of_no_divergence_is_not_negative(operations) -> None:
    # In steps of 1/64 the shift is exact, the distributions are the same, and the sum's rounding is of either sign.
    logits = (np.random.default_rng(3).integers(-256, 256, (64, 1000)) / 64).astype(np.float32)
    found = divergences(operations.array(logits), operations.array(logits + 8), operations)
    assert (found >= 0).all()
    assert (found < 1e-12).all()


def test_no_tokens(operations) -> None:
    none = operations.array(np.zeros((0, 7)))
    assert divergences(none, none, operations).shape == (0,)
