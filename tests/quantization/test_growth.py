"""Rows that rounding made smaller: as large as before, with the same integers."""

import numpy as np
import pytest

from whisq import kernels
from whisq.kernels.blocks import format_of
from whisq.kernels.feedback import factor_of, quantize_with_feedback
from whisq.quantization.growth import BITS_THAT_SHRINK, MOST, grown, growth
from whisq.types import TYPES, parse_type

KINDS = [kind for kind in TYPES.values() if kernels.has_feedback(kind) and kind.bits_per_weight < BITS_THAT_SHRINK]
ROWS, COLUMNS = 300, 512


@pytest.fixture(scope="module")
def moment() -> np.ndarray:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(2000, 64)) @ generator.normal(size=(64, COLUMNS)) + generator.normal(
        size=(2000, COLUMNS)
    )
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    found = np.random.default_rng(1).normal(scale=0.05, size=(ROWS, COLUMNS)).astype(np.float32)
    found[7] = 0
    return found


def along(weights: np.ndarray, decoded: np.ndarray, moment: np.ndarray) -> np.ndarray:
    outputs = weights.astype(np.float64) @ moment
    size, found = (outputs * weights).sum(1), (outputs * decoded).sum(1)
    return np.divide(found, size, out=np.ones_like(size), where=size > 0)


def test_only_types_of_less_than_four_bits_grow():
    assert [kind.name for kind in KINDS] == ["q2_K", "q3_K"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_outputs_are_as_large_as_before_and_integers_are_the_same(kind, weights, moment):
    factor = factor_of(moment)
    blocks = quantize_with_feedback(weights, kind, factor)
    larger = grown(blocks, kind, weights, factor.second_moment)
    before, after = (kernels.dequantize(each, kind, weights.shape) for each in (blocks, larger))
    assert along(weights, before, factor.second_moment).mean() < 0.999
    assert abs(along(weights, after, factor.second_moment).mean() - 1) < 1e-4
    assert np.abs(along(weights, after, factor.second_moment) - 1).max() < 1e-3
    parts, same = (format_of(kind).unpack(each.reshape(-1, kind.block_bytes)) for each in (blocks, larger))
    assert np.array_equal(parts.levels, same.levels)
    assert np.array_equal(parts.scale_integers, same.scale_integers)
    assert not after[7].any()


def test_a_row_is_grown_alone(weights, moment):
    kind = parse_type("q3_K")
    blocks = quantize_with_feedback(weights, kind, factor_of(moment))
    whole = grown(blocks, kind, weights, moment)
    for start, stop in ((0, 1), (200, 290), (299, 300)):
        assert np.array_equal(whole[start:stop], grown(blocks[start:stop], kind, weights[start:stop], moment))


def test_growth_has_an_end_on_either_side(moment):
    rows = np.random.default_rng(2).normal(size=(4, COLUMNS)).astype(np.float32)
    decoded = rows * np.array([1.5, 0.98, 0.1, -1], np.float32)[:, None]
    found = growth(rows, decoded, moment)
    assert found[0] == pytest.approx(1 / MOST, abs=2**-12)
    assert abs(found[1] - 1 / 0.98) < 2**-12
    assert found[2] == pytest.approx(MOST, abs=2**-12)
    assert found[3] == 1
