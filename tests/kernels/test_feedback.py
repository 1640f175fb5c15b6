"""Rounding with error feedback: against a plain numpy version, its own promise, and ggml's reading of the blocks."""

from functools import cache
from itertools import pairwise

import gguf
import numpy as np
import pytest

from whisq import kernels
from whisq.errors import CalibrationError, KernelError
from whisq.kernels.blocks import format_of
from whisq.kernels.feedback import PANEL, Factor, factor_of, feedback_parts, quantize_with_feedback
from whisq.types import TYPES, parse_type

KINDS = [kind for kind in TYPES.values() if kernels.has_feedback(kind)]
ISAS = kernels.available_isas()


@cache
def correlated(columns: int, seed: int = 0) -> np.ndarray:
    """The second moment of inputs that share a few directions, as real layers' do."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(columns // 4, columns))
    inputs = generator.normal(size=(4 * columns, columns // 4)) @ shared + generator.normal(size=(4 * columns, columns))
    second = inputs.T @ inputs / len(inputs)
    second.setflags(write=False)
    return second


@cache
def correlated_factor(columns: int, damping: float | None = None) -> Factor:
    return factor_of(correlated(columns)) if damping is None else factor_of(correlated(columns), damping)


def some_weights(rows: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.05, size=(rows, columns)).astype(np.float32)


def weighted_error(weights: np.ndarray, decoded: np.ndarray, second: np.ndarray) -> float:
    difference = weights.astype(np.float64) - decoded
    return float(np.einsum("ri,ij,rj->", difference, second, difference))


def plain_feedback(weights: np.ndarray, factor: Factor, scale: np.ndarray, low: int, high: int) -> np.ndarray:
    """The loop over columns as it is in the paper, in float32, with the blocks' scales given. Returns the integers."""
    w = weights.copy()
    levels = np.zeros(w.shape, np.int64)
    for column in range(w.shape[1]):
        step = scale[:, column // 32]
        inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
        chosen = np.clip(np.rint(w[:, column] * inverse), low, high)
        levels[:, column] = chosen
        error = w[:, column] - step * chosen
        w[:, column + 1 :] -= error[:, None] * factor.upper[column, column + 1 :]
    return levels


LEVELS = {"q4_0": (-8, 7), "q5_0": (-16, 15), "q8_0": (-127, 127), "q4_1": (0, 15), "q5_1": (0, 31)}


def stored(parts, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = parts.unit.reshape(rows, -1)
    return parts.levels.reshape(rows, -1), blocks, parts.minimum.reshape(rows, -1)


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0"])
def test_integers_are_those_of_a_plain_loop_over_columns(name):
    weights, factor = some_weights(40, 128), correlated_factor(128, 0.03)
    levels, scale, _ = stored(feedback_parts(weights, parse_type(name), factor, sweeps=0), 40)
    low, high = LEVELS[name]
    assert np.array_equal(levels + low, plain_feedback(weights, factor, scale, low, high))


@pytest.mark.parametrize("name", ["iq4_nl", "mxfp4"])
def test_indices_are_those_of_a_plain_loop_over_columns(name):
    weights, factor = some_weights(40, 128), correlated_factor(128, 0.03)
    definition = format_of(parse_type(name))
    parts = feedback_parts(weights, parse_type(name), factor, sweeps=0)
    found, scale = definition.values(parts.levels).reshape(40, -1), parts.unit.reshape(40, -1)
    values = np.unique(definition.values(np.arange(16)))
    w = weights.copy()
    for column in range(w.shape[1]):
        step = scale[:, column // 32]
        scaled = w[:, column] * np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
        chosen = values[(scaled[:, None] >= (values[:-1] + values[1:]) / 2).sum(1)]
        assert np.array_equal(found[:, column], chosen), column
        error = w[:, column] - step * chosen
        w[:, column + 1 :] -= error[:, None] * factor.upper[column, column + 1 :]


@pytest.mark.parametrize("sweeps", [0, 3])
def test_scales_of_mxfp4_are_powers_of_two_that_its_byte_can_hold(sweeps):
    weights = some_weights(40, 512) * np.float32(10.0) ** np.arange(-36, 4)[:, None].astype(np.float32)
    weights[3] = 0
    parts = feedback_parts(weights, parse_type("mxfp4"), correlated_factor(512), sweeps=sweeps)
    fraction, exponent = np.frexp(parts.unit)
    assert (fraction == 0.5).all()
    assert ((exponent + 127 > 0) & (exponent + 127 < 255)).all()
    decoded = format_of(parse_type("mxfp4")).decode(parts).reshape(weights.shape)
    assert (decoded[3] == 0).all()
    assert np.isfinite(decoded).all()


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def plain_sweep(weights, moment, levels, scale, offset, low: int, high: int, ranged: bool | None) -> None:
    """One sweep of the second pass in float32, a column and a block at a time, in place; with None integers only."""
    gradient = np.zeros_like(weights)
    for column in range(weights.shape[1]):
        block = column // 32
        gradient -= (scale[:, block] * levels[:, column] + offset[:, block] - weights[:, column])[:, None] * moment[
            column
        ]
    for block in range(scale.shape[1]):
        here = slice(32 * block, 32 * block + 32)
        h, g, change = moment[here, here], gradient[:, here].copy(), np.zeros((len(weights), 32), np.float32)
        plain_integers(h, g, change, levels[:, here], scale[:, block], low, high)
        if ranged is not None:
            plain_scales(h, g, change, levels[:, here], scale, offset, block, ranged)
            plain_integers(h, g, change, levels[:, here], scale[:, block], low, high)
        for j in range(32):
            gradient -= change[:, j : j + 1] * moment[32 * block + j]


def plain_integers(h, g, change, levels, scale, low, high):
    for j in range(32):
        step = scale * h[j, j]
        wish = np.divide(g[:, j], step, out=np.zeros_like(step), where=step != 0)
        chosen = np.clip(levels[:, j] + np.clip(np.rint(wish), -64, 64), low, high)
        delta = scale * (chosen - levels[:, j])
        levels[:, j] = chosen
        change[:, j] += delta
        g -= delta[:, None] * h[j]


def plain_scales(h, g, change, levels, scale, offset, block, ranged):
    hl, ho = np.zeros_like(g), np.zeros(32, np.float32)
    ll, lo, lg, og = (np.zeros(len(g), np.float32) for _ in range(4))
    oo = np.float32(0)
    for j in range(32):
        hl += levels[:, j : j + 1] * h[j]
        ho += h[j]
    for j in range(32):
        ll += levels[:, j] * hl[:, j]
        lg += levels[:, j] * g[:, j]
        lo += levels[:, j] * ho[j]
        oo += ho[j]
        og += g[:, j]
    ds, dm = np.divide(lg, ll, out=np.zeros_like(lg), where=ll > 0), np.zeros_like(lg)
    if ranged:
        determinant = ll * oo - lo * lo
        sound = determinant > np.float32(1e-6) * (ll * oo)
        ds = np.where(sound, (oo * lg - lo * og) / determinant, ds)
        dm = np.where(sound, (ll * og - lo * lg) / determinant, dm)
    ds = half(scale[:, block] + ds) - scale[:, block]
    dm = half(offset[:, block] + dm) - offset[:, block] if ranged else dm
    two = np.float32(2)
    better = ds * (ds * ll + two * (dm * lo - lg)) + dm * (dm * oo - two * og) < 0
    ds, dm = np.where(better, ds, 0), np.where(better, dm, 0)
    scale[:, block] += ds
    offset[:, block] += dm
    change += ds[:, None] * levels + dm[:, None]
    g -= ds[:, None] * hl + dm[:, None] * ho


@pytest.mark.parametrize("name", LEVELS)
def test_a_sweep_gives_the_integers_and_scales_of_a_plain_one(name):
    weights, factor = some_weights(40, 128), correlated_factor(128, 0.03)
    low, high = LEVELS[name]
    levels, scale, offset = stored(feedback_parts(weights, parse_type(name), factor, sweeps=0), 40)
    levels = (levels + low).astype(np.float32)
    plain_sweep(weights, factor.second_moment, levels, scale, offset, low, high, name.endswith("_1"))
    found, found_scale, found_offset = stored(feedback_parts(weights, parse_type(name), factor, sweeps=1), 40)
    assert np.array_equal(found + low, levels)
    assert np.array_equal(found_scale, scale)
    assert np.array_equal(found_offset, offset)
    first = feedback_parts(weights, parse_type(name), factor, sweeps=0)
    assert not np.array_equal(found, first.levels.reshape(40, -1))


@pytest.mark.parametrize("name", LEVELS)
def test_a_sweep_before_the_last_sets_the_integers_of_a_plain_one(name):
    weights, factor = some_weights(40, 512), correlated_factor(512, 0.03)
    low, high = LEVELS[name]
    levels, scale, offset = stored(feedback_parts(weights, parse_type(name), factor, sweeps=0), 40)
    levels = (levels + low).astype(np.float32)
    plain_sweep(weights, factor.second_moment, levels, scale, offset, low, high, None)
    plain_sweep(weights, factor.second_moment, levels, scale, offset, low, high, name.endswith("_1"))
    found, found_scale, found_offset = stored(feedback_parts(weights, parse_type(name), factor, sweeps=2), 40)
    assert (found + low != levels).mean() < 1e-3
    assert (found_scale != scale).mean() < 2e-2
    assert (found_offset != offset).mean() < 2e-2
    assert not np.array_equal(found, feedback_parts(weights, parse_type(name), factor, sweeps=1).levels.reshape(40, -1))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sweeps_make_no_row_worse_and_more_of_them_make_all_rows_better(kind):
    second, weights = correlated(512, 3), some_weights(24, 512, 4)
    factor = factor_of(second, 0.03)
    errors = []
    for sweeps in range(5):
        blocks = quantize_with_feedback(weights, kind, factor, sweeps=sweeps)
        decoded = kernels.dequantize(blocks.data, kind, weights.shape)
        difference = weights.astype(np.float64) - decoded
        errors.append(np.einsum("ri,ij,rj->r", difference, factor.second_moment, difference))
    for after in errors[1:]:
        assert (after <= errors[0] * (1 + 1e-5)).all()
    for before, after in pairwise(errors):
        assert after.sum() <= before.sum() * (1 + 1e-3)
    assert errors[1].sum() < 0.97 * errors[0].sum()
    assert errors[4].sum() < errors[1].sum()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weighted_error_is_below_that_of_plain_rounding(kind):
    second, weights = correlated(256), some_weights(32, 256)
    fed = kernels.dequantize(quantize_with_feedback(weights, kind, factor_of(second, 0.001)).data, kind, (32, 256))
    plain = kernels.dequantize(kernels.quantize(weights, kind).data, kind, (32, 256))
    assert weighted_error(weights, fed, second) < 0.8 * weighted_error(weights, plain, second)


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0"])
def test_no_row_is_worse_than_rounding_to_nearest_with_its_scales(name):
    kind, second, weights = parse_type(name), correlated(256, 5), some_weights(64, 256, 6)
    parts = feedback_parts(weights, kind, factor_of(second, 0.001))
    fed = kernels.dequantize(quantize_with_feedback(weights, kind, factor_of(second, 0.001)).data, kind, (64, 256))
    scale = np.repeat(parts.unit.reshape(64, -1), 32, axis=1)
    nearest = scale * np.clip(np.rint(weights / scale), *LEVELS[name])
    for row in range(64):
        mine = weighted_error(weights[row : row + 1], fed[row : row + 1], second)
        assert mine <= weighted_error(weights[row : row + 1], nearest[row : row + 1], second)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_same_bytes_on_every_instruction_set_and_with_any_number_of_threads(kind, isa):
    weights, factor = some_weights(37, 512), correlated_factor(512)
    expected = quantize_with_feedback(weights, kind, factor, isa=ISAS[0])
    assert np.array_equal(quantize_with_feedback(weights, kind, factor, isa=isa, threads=3), expected)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gguf_reads_from_the_blocks_what_we_do(kind):
    blocks = quantize_with_feedback(some_weights(8, 512), kind, correlated_factor(512))
    theirs = gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind.ggml_type))
    assert np.array_equal(theirs, kernels.dequantize(blocks.data, kind, (8, 512)))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-7, 1000.0])
def test_odd_weights_stay_finite(kind, value):
    # llama.cpp #3010: all-zero super-blocks, scales that are zero or subnormal in f16.
    weights = np.full((4, 256), value, np.float32)
    blocks = quantize_with_feedback(weights, kind, correlated_factor(256))
    decoded = kernels.dequantize(blocks.data, kind, (4, 256))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - weights).max() <= max(0.6 * abs(value), 1e-6)


def test_the_factor_is_one_cholesky_factor_of_the_inverse():
    # A slice of the inverse is not what is left of it after the first columns: the remaining columns' own inverse is.
    second = correlated(64)
    factor = factor_of(second, 0.01)
    damped = second + 0.01 * np.mean(np.diag(second)) * np.eye(64)
    for column in (0, 17, 40):
        left = np.linalg.inv(damped[column:, column:])
        assert np.allclose(factor.upper[column, column:], left[0] / left[0, 0], rtol=1e-4, atol=1e-5)
        assert factor.gain[column] == pytest.approx(1 / left[0, 0], rel=1e-4)
        sliced = np.linalg.inv(damped)[column:, column:]
        if column:
            assert not np.allclose(sliced[0] / sliced[0, 0], left[0] / left[0, 0], atol=1e-3)


@pytest.mark.parametrize("columns", [32, 64, 200, 384])
def test_the_factor_is_the_same_on_every_instruction_set_and_that_of_float64(columns):
    second = correlated(columns - columns % 4)
    factor = factor_of(second, 0.01)
    for isa in ISAS:
        other = factor_of(second, 0.01, isa=isa)
        for part in ("triangle", "inside", "gain", "moment"):
            assert np.array_equal(getattr(other, part), getattr(factor, part)), part
    damped = second + 0.01 * np.mean(np.diag(second)) * np.eye(len(second))
    inverse = np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1]))[::-1, ::-1]
    diagonal = np.diag(inverse)
    assert np.abs(factor.upper - inverse / diagonal[:, None]).max() < 1e-4
    assert np.abs(factor.gain * diagonal**2 - 1).max() < 1e-3
    assert (np.tril(factor.upper, -1) == 0).all()


def test_fewer_vectors_than_columns_are_enough():
    inputs = np.random.default_rng(0).normal(size=(20, 128))
    factor = factor_of(inputs.T @ inputs / 20)
    assert np.isfinite(factor.upper).all()


@pytest.mark.parametrize("columns", [8, 20, 256, 384, 520])
def test_a_factor_holds_the_moment_and_what_it_is_made_of(columns):
    second = correlated(columns)
    factor = factor_of(second, 0.01)
    damped = second + 0.01 * np.mean(np.diag(second)) * np.eye(columns)
    scale = np.diag(damped).max()
    assert np.abs(factor.second_moment - damped).max() < 1e-6 * scale
    assert np.abs((factor.lost * factor.gain) @ factor.lost.T - damped).max() < 1e-5 * scale
    mirrored = factor.triangle.transpose(1, 0, 2).reshape(columns, -1)
    assert np.array_equal(mirrored[:, :columns], mirrored[:, :columns].T)
    assert (mirrored[:, columns:] == 0).all()
    for panel, tiles in enumerate(factor.inside):
        here = slice(PANEL * panel, min(PANEL * (panel + 1), columns))
        inside, size = tiles.transpose(1, 0, 2).reshape(PANEL, PANEL), here.stop - here.start
        expected = np.linalg.inv(factor.lost[here, here].astype(np.float64)) - np.eye(size)
        assert np.abs(inside[:size, :size] - expected).max() < 1e-4
        assert (np.tril(inside) == 0).all()


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (np.zeros((32, 32)), "all zero"),
        (np.full((32, 32), np.nan), "not finite"),
        (-np.eye(32), "negative diagonal"),
        (np.ones((32, 16)), "expected a square"),
        (np.ones((2, 2)) * [[1, 5], [5, 1]], "singular"),
    ],
)
def test_moments_that_cannot_be_used_are_refused(moment, said):
    with pytest.raises(CalibrationError, match=said):
        factor_of(moment)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(KernelError, match="do not fit"):
        quantize_with_feedback(some_weights(2, 64), "q4_K", correlated_factor(64))
