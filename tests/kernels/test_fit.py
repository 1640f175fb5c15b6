"""Rounding to what is nearest: against its definition, its own promise, and all scales that there are."""

import numpy as np
import pytest

from tests.support.edge_cases import EDGES, QUANTIZED, importances
from whisq import kernels
from whisq.errors import KernelError
from whisq.kernels import reference, reference_fit
from whisq.kernels.fit import quantize_fitted
from whisq.kernels.reference_search import sequential_sum
from whisq.types import TYPES

ISAS = kernels.available_isas()
every_kind = pytest.mark.parametrize("kind", QUANTIZED, ids=str)


def some_weights(rows: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.05, size=(rows, columns)).astype(np.float32)


def costs(weights: np.ndarray, kind, importance: np.ndarray | None) -> np.ndarray:
    """What an error of each weight costs, ``[blocks, block size]``, in the core's arithmetic."""
    x = weights.reshape(-1, kind.block_size)
    mean = sequential_sum(x * x) / np.float32(kind.block_size)
    of_columns = np.ones(weights.shape[1], np.float32) if importance is None else importance
    return np.tile(of_columns, len(weights)).reshape(x.shape) * np.sqrt(mean[:, None] + x * x)


def losses(weights: np.ndarray, blocks: np.ndarray, kind, importance: np.ndarray | None = None) -> np.ndarray:
    x = weights.reshape(-1, kind.block_size)
    lost = x - reference.dequantize(blocks, kind).reshape(x.shape)
    return sequential_sum(costs(weights, kind, importance) * lost * lost)


@every_kind
def test_bytes_are_those_of_the_definition(kind):
    for name, weights in (*EDGES.items(), ("normal", some_weights(11, 512))):
        for label in ("none", "some zero"):
            importance = importances(weights.shape[1])[label]
            wanted = reference_fit.quantize_fitted(weights, kind, importance)
            for isa in ISAS:
                found = quantize_fitted(weights, kind, importance, isa=isa)
                assert np.array_equal(wanted, found), (name, label, isa)


@every_kind
def test_no_block_costs_more_than_ggmls(kind):
    for name, weights in EDGES.items():
        for label in ("none", "a block of zeros"):
            importance = importances(weights.shape[1])[label]
            with np.errstate(all="ignore"):
                mine = losses(weights, quantize_fitted(weights, kind, importance), kind, importance)
                ggmls = losses(weights, kernels.quantize(weights, kind), kind, importance)
            assert not (mine > ggmls).any(), (name, label)


# What is left of ggml's error of normal weights, both weighed alike, and a little more.
AT_MOST = {
    "q4_0": 0.89, "q4_1": 0.82, "q5_0": 0.88, "q5_1": 0.80, "q8_0": 0.79, "q2_K": 0.90, "q3_K": 0.94, "q4_K": 0.97,
    "q5_K": 0.91, "q6_K": 0.90, "iq4_nl": 0.95, "iq4_xs": 0.95, "mxfp4": 0.90,
}  # fmt: skip


@every_kind
def test_much_less_is_lost_than_by_ggml(kind):
    weights = some_weights(64, 512)
    mine = losses(weights, quantize_fitted(weights, kind), kind).sum()
    assert mine < AT_MOST[kind.name] * losses(weights, kernels.quantize(weights, kind), kind).sum()


@pytest.mark.parametrize(("name", "low", "high", "at_most"), [("q4_0", -8, 7, 1.007), ("q5_0", -16, 15, 1.002)])
def test_hardly_more_is_lost_than_by_the_best_of_all_scales(name, low, high, at_most):
    """What more is lost is for blocks as large as their weights: of those, half a hundredth is lost in four bits."""
    kind, weights = TYPES[name], some_weights(8, 512)
    x, w = weights.reshape(-1, 32), costs(weights, TYPES[name], None)
    every_half = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    best = []
    for values, weighed in zip(x, w, strict=True):
        largest = np.abs(values).max()
        scales = every_half[(every_half > 0.6 * largest / -low) & (every_half < 1.7 * largest / high)]
        scales = np.concatenate([scales, -scales])[:, None]
        lost = values - scales * np.clip(np.rint(values / scales), low, high)
        best.append((weighed * lost * lost).sum(1).min())
    found = losses(weights, quantize_fitted(weights, kind), kind)
    assert (found > 0.9999 * np.array(best)).all()
    assert found.sum() < at_most * np.sum(best)


def test_a_block_worked_by_hand():
    # ggml makes the first largest magnitude -8 steps, here 7 / -8 each, and loses; with 1 a step nothing is lost.
    weights = np.array([[7, -7, 0, 1] + [0] * 12 + [3, -1] + [0] * 14], np.float32)
    assert not np.array_equal(kernels.dequantize(kernels.quantize(weights, "q4_0"), "q4_0", (1, 32)), weights)
    block = quantize_fitted(weights, "q4_0")[0]
    assert abs(block[:2].view(np.float16)[0]) == 1
    assert np.array_equal(kernels.dequantize(block, "q4_0", (1, 32)), weights)


def test_columns_that_count_more_are_nearer():
    weights, importance = some_weights(64, 512), np.where(np.arange(512) % 32 < 4, 50, 1).astype(np.float32)
    for kind in QUANTIZED:
        errors = [
            np.square(kernels.dequantize(quantize_fitted(weights, kind, given), kind, weights.shape) - weights)
            for given in (None, importance)
        ]
        often = importance > 1
        assert errors[1][:, often].sum() < 0.95 * errors[0][:, often].sum(), kind


@pytest.mark.parametrize("name", ["q3_K", "q2_K", "iq4_nl", "q4_1"])
def test_blocks_are_as_large_as_their_weights(name):
    """What is nearest alone is smaller: by a sixtieth of the weights in three bits, by a twentieth in two."""
    kind, weights = TYPES[name], some_weights(64, 512)
    found = reference.dequantize(quantize_fitted(weights, kind), kind)
    x, y = weights.reshape(-1, kind.block_size), found.reshape(-1, kind.block_size)
    w = costs(weights, kind, None)
    assert abs((w * x * y).sum() / (w * x * x).sum() - 1) < 2e-3


@every_kind
def test_bytes_do_not_depend_on_threads(kind):
    weights = some_weights(37, 512)
    assert np.array_equal(quantize_fitted(weights, kind), quantize_fitted(weights, kind, threads=3))


def test_what_does_not_fit_is_refused():
    with pytest.raises(KernelError, match="rows of 100 do not fit q4_0"):
        quantize_fitted(np.ones((2, 100), np.float32), "q4_0")
    with pytest.raises(KernelError, match=r"importance has shape \[32\], expected \[64\]"):
        quantize_fitted(np.ones((2, 64), np.float32), "q4_0", np.ones(32, np.float32))
    with pytest.raises(KernelError, match="f16 has no blocks"):
        quantize_fitted(np.ones((2, 64), np.float32), "f16")
