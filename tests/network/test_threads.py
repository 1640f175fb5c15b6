"""Work shared out among threads: the same numbers, BLAS on one thread meanwhile, and as it was afterwards."""

from collections.abc import Callable

import numpy as np
import pytest
import threadpoolctl

from whisq.network.numpy_operations import NumpyOperations
from whisq.network.threads import Threads


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


X, WIDE = values(2, 300, 64), values(64, 64)
HEADS = [values(2, 3, 200, 16), values(2, 3, 200, 16) * 2, values(2, 3, 200, 16) * 3]
OPERATIONS: dict[str, Callable[[NumpyOperations], np.ndarray]] = {
    "linear": lambda op: op.linear(X, WIDE, WIDE[0]),
    "linear of few rows": lambda op: op.linear(values(2, 1024), values(1030, 1024), values(1030)),
    "layer norm": lambda op: op.layer_norm(X, WIDE[0], WIDE[1]),
    "gelu": lambda op: op.gelu(X),
    "attention": lambda op: op.attention(*HEADS, causal=False),
    "causal attention": lambda op: op.attention(*HEADS, causal=True),
    "linear back": lambda op: op.linear_back(X, WIDE),
    "layer norm back": lambda op: op.layer_norm_back(X[:1], WIDE[0], X),
    "gelu back": lambda op: op.gelu_back(X[:1], X),
    "attention back": lambda op: np.stack(op.attention_back(*HEADS, HEADS[0], causal=True)),
    "second moment": lambda op: op.second_moment(X[0], np.linspace(0, 1, 300, dtype=np.float32)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_threads_compute_what_one_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, among owned threads; beside what is computed without them, within float32's rounding."""
    monkeypatch.setattr("whisq.network.threads._WORTH_WAKING", 1)
    alone = OPERATIONS[name](NumpyOperations(1))
    found = []
    for count in (1, 2, 3, 11):
        operations = NumpyOperations(count)
        with operations.no_gradients():
            found.append(OPERATIONS[name](operations))
    assert all(np.array_equal(other, found[0]) for other in found[1:])
    assert found[0].shape == alone.shape
    assert np.abs(found[0] - alone).max() <= 2e-6 * np.abs(alone).max()


def blas_threads() -> list[int]:
    import scipy.linalg  # noqa: F401

    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_blas_has_one_thread_while_ours_are_at_work_and_its_own_number_again_after_an_error() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        owned = Threads(2).owned()
        owned.__enter__()
        assert set(blas_threads()) == {1}
        owned.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert blas_threads() == before


def test_all_is_covered_once_and_an_error_in_a_thread_is_raised() -> None:
    threads, seen = Threads(3), np.zeros(100_000, int)

    def count(part: slice) -> None:
        seen[part] += 1

    with threads.owned(), threads.owned():
        threads.run(count, len(seen), 1 << 20)
        threads.each(lambda number: count(slice(number, number + 1)), range(10))
        with pytest.raises(IndexError):
            threads.each(lambda number: [][number], range(3))
    assert seen[:10].tolist() == [2] * 10
    assert set(seen[10:].tolist()) == {1}
