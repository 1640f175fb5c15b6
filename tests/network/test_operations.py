"""Numpy's operations against torch's, each within a bound."""

import numpy as np
import pytest

from whisq.network.numpy_operations import NumpyOperations
from whisq.network.torch_operations import TorchOperations

pytestmark = pytest.mark.usefixtures("torch")
NUMPY = NumpyOperations()


def values(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def both(name: str, *arrays: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """One operation in both backends, as numpy's arrays."""
    found = []
    for operations in (NUMPY, TorchOperations()):
        given = [operations.array(a) if isinstance(a, np.ndarray) else a for a in arrays]
        found.append(operations.numpy(getattr(operations, name)(*given, **options)))
    return found[0], found[1]


def assert_close(pair: tuple[np.ndarray, np.ndarray], bound: float = 2e-6) -> None:
    """Equal within ``bound`` of the largest value."""
    mine, theirs = pair
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype
    assert np.abs(mine - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 70, 48), (3, 5, 48), (48,)])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    assert_close(both("linear", values(*shape), values(96, 48), values(96) if bias else None))


def test_layer_norm() -> None:
    shifted = values(2, 50, 384) * 3 + 7
    assert_close(both("layer_norm", shifted, values(384), values(384, seed=1)))
    # Without variance the epsilon decides.
    flat = np.full((1, 2, 8), 3, np.float32)
    assert_close(both("layer_norm", flat, values(8), values(8, seed=1)))


def test_gelu_is_exact_and_not_the_approximation() -> None:
    x = np.linspace(-12, 12, 200_001, dtype=np.float32).reshape(1, 3, -1)
    assert_close(both("gelu", x), 3e-7)
    assert NUMPY.gelu(np.array([1.0], np.float32))[0] == pytest.approx(0.8413447, abs=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv1d(stride: int) -> None:
    assert_close(both("conv1d", values(2, 10, 30), values(16, 10, 3), values(16), stride))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 7, 300])
def test_attention(length: int, causal: bool) -> None:
    queries, keys, others = (values(2, 3, length, 16, seed=n, scale=2) for n in range(3))
    assert_close(both("attention", queries, keys, others, causal=causal))


def test_attention_on_more_keys_than_queries() -> None:
    queries, keys, others = values(1, 3, 4, 16), values(1, 3, 600, 16), values(1, 3, 600, 16, seed=1)
    assert_close(both("attention", queries, keys, others, causal=False))
    weights = both("attention_weights", queries, keys)
    assert_close(weights)
    np.testing.assert_allclose(weights[0].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("backend", [NumpyOperations, TorchOperations])
def test_log_sum_exp_is_in_float64_and_takes_what_would_overflow(backend) -> None:
    operations = backend()
    logits = operations.float64(operations.array(np.array([[1000, 999, -1000], [0, 0, 0]])))
    found = operations.numpy(operations.log_sum_exp(logits))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [1000 + np.log1p(np.exp(-1)), np.log(3)], rtol=1e-15)


def test_arguments_are_left_as_they_were() -> None:
    x, other = values(1, 2, 40, 8), values(1, 2, 40, 8, seed=3)
    kept, also = x.copy(), other.copy()
    NUMPY.attention(x, other, other, causal=True)
    NUMPY.gelu(x)
    NUMPY.layer_norm(x, other[0, 0, 0], other[0, 0, 1])
    NUMPY.log_sum_exp(x)
    NUMPY.attention_weights(x, other)
    assert np.array_equal(x, kept)
    assert np.array_equal(other, also)


def test_torch_copies_what_cannot_be_written() -> None:
    fixed = np.frombuffer(values(4).tobytes(), np.float32)
    held = TorchOperations().array(fixed)
    held += 1
    assert np.array_equal(fixed, values(4))
