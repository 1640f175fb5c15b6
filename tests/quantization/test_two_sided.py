"""Rounding on both sides: the objective that it is for, and what it comes to where outputs are alike."""

from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.calibrations import moments_of, write
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq import kernels
from whisq.calibration import inputs_of, read_calibration, write_calibration
from whisq.calibration.outputs import OutputMoment, weighed_outputs
from whisq.errors import CalibrationError
from whisq.kernels.feedback import factor_of, quantize_with_feedback
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.rounding import FEEDBACK, exchanged, rounded
from whisq.quantization.two_sided import GROUP, order_of_rows, output_factor, quantize_two_sided
from whisq.types import TYPES

QUERY, OUT, MLP = (f"encoder.blocks.0.{part}" for part in ("attn.query", "attn.out", "mlp.0"))


def correlated(width: int, seed: int) -> np.ndarray:
    """Return a second moment with a few directions that matter more than all others."""
    x = np.random.default_rng(seed).normal(size=(4 * width, width)).astype(np.float32)
    x += (
        3
        * np.random.default_rng(seed + 1).normal(size=(4 * width, 6))
        @ np.random.default_rng(seed + 2).normal(size=(6, width))
        / 6
    )
    second = (x.T @ x / len(x)).astype(np.float32)
    return second / np.float32(np.trace(second) / width)


def loss(weights: np.ndarray, blocks: np.ndarray, kind: str, given: np.ndarray, outputs: np.ndarray) -> float:
    """Return tr(G E H Eᵀ)."""
    error = kernels.dequantize(blocks, TYPES[kind], weights.shape).astype(np.float64) - weights
    return float(np.einsum("rs,sc,cd,rd->", outputs, error, given, error, optimize=True))


def weights_of(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.float32)


@pytest.mark.parametrize("kind", ["q4_0", "q5_1", "iq4_nl", "q4_K"])
def test_the_error_that_words_see_falls(kind: str) -> None:
    weights, given, outputs = weights_of(3 * GROUP, 256), correlated(256, 1), correlated(3 * GROUP, 4)
    factor = factor_of(given)
    one = quantize_with_feedback(weights, kind, factor)
    both = quantize_two_sided(weights, TYPES[kind], factor, output_factor(OutputMoment(outputs, 0.03)))
    before, after = (loss(weights, blocks, kind, given, outputs) for blocks in (one, both))
    assert after < 0.85 * before
    # What is paid for it: each row on its own is further off than it could be.
    plain = np.eye(len(weights))
    assert loss(weights, both, kind, given, plain) > loss(weights, one, kind, given, plain)


@pytest.mark.parametrize("rows", [GROUP - 5, 2 * GROUP, 2 * GROUP + 7])
def test_outputs_that_are_all_alike_change_nothing(rows: int) -> None:
    weights, factor = weights_of(rows, 64), factor_of(correlated(64, 2))
    alike = output_factor(OutputMoment(np.eye(rows, dtype=np.float32), 0.3))
    both = quantize_two_sided(weights, TYPES["q4_1"], factor, alike)
    assert np.array_equal(both, quantize_with_feedback(weights, "q4_1", factor))


def test_every_error_moves_the_later_groups_as_one_row_after_the_other_would() -> None:
    """Against rows one by one in float64, which know of each other within a group too: the aims of the last group."""
    rows = 2 * GROUP
    weights, given, outputs = weights_of(rows, 32), correlated(32, 3), correlated(rows, 5)
    factor, order = factor_of(given), order_of_rows(rows)
    upper = output_factor(OutputMoment(outputs, 0.1)).astype(np.float64)
    both = quantize_two_sided(weights, TYPES["q4_0"], factor, upper.astype(np.float32))
    found = kernels.dequantize(both, TYPES["q4_0"], weights.shape).astype(np.float64)[order]
    aims = weights[order].astype(np.float64)
    for row in range(GROUP):
        aims[row + 1 :] += upper[row, row + 1 :, None] * (found[row] - aims[row])
    last = quantize_with_feedback(aims[GROUP:].astype(np.float32), "q4_0", factor)
    assert (last == both[order][GROUP:]).mean() > 0.999


def test_rows_of_a_group_lie_apart_and_each_comes_once() -> None:
    for rows in (1, GROUP, 384, 391):
        order = order_of_rows(rows)
        assert sorted(order) == list(range(rows))
    assert np.diff(order_of_rows(384)[:GROUP]).min() == 384 // GROUP


@pytest.fixture
def weighed(tmp_path: Path):
    """A calibration that weighed the outputs of two layers."""
    made = write(tmp_path / "plain.calib")
    widths = weighed_outputs(WIDE)
    outputs = {name: OutputMoment(correlated(widths[name], n), 0.1) for n, name in enumerate((QUERY, OUT))}
    listed = [(name, width, 500) for name, width in inputs_of(WIDE).items()]
    path = tmp_path / "weighed.calib"
    write_calibration(path, {"data": ["clips"], "model_sha256": "x"}, listed, made.__getitem__, None, outputs)
    return read_calibration(path)


@pytest.fixture
def model(tmp_path: Path):
    with whisq.open_model(write_model(tmp_path / "wide.bin", WIDE)) as opened:
        yield opened


def test_a_file_has_both_sides_where_outputs_were_weighed(model, weighed, tmp_path: Path) -> None:
    plain = read_calibration(tmp_path / "plain.calib")
    changed = {}
    for number, calibration in enumerate((plain, weighed)):
        plan = whisq.make_plan(model, whisq.Recipe(TYPES["q4_0"]), method="feedback", calibration=calibration)
        whisq.quantize(plan, tmp_path / f"{number}.bin", threads=1)
        whisq.quantize(plan, tmp_path / "cut.bin", threads=3, piece_weights=999)
        assert (tmp_path / "cut.bin").read_bytes() == (tmp_path / f"{number}.bin").read_bytes()
    with whisq.open_model(tmp_path / "0.bin") as before, whisq.open_model(tmp_path / "1.bin") as after:
        for tensor in after.tensors:
            if tensor.spec.is_matrix:
                changed[tensor.name] = not np.array_equal(before.array(tensor.name), after.array(tensor.name))
        name = f"{QUERY}.weight"
        found = rounded(model, model[name], TYPES["q4_0"], FEEDBACK, LayerInputs(weighed), threads=2)
        for key, array in exchanged(model, model[name], TYPES["q4_0"], found).items():
            assert np.array_equal(after.array(key), array), key
    assert {name for name, is_other in changed.items() if is_other} == {f"{QUERY}.weight", f"{OUT}.weight"}


def test_a_file_says_how_many_outputs_were_weighed(weighed, tmp_path: Path) -> None:
    assert FEEDBACK.provenance(weighed)["calibration"]["weighed_outputs"] == 2
    assert "weighed_outputs" not in FEEDBACK.provenance(read_calibration(tmp_path / "plain.calib"))["calibration"]


def test_an_output_moment_that_is_none_is_told_with_its_layer(weighed, tmp_path: Path) -> None:
    widths = inputs_of(WIDE)
    wrong = -np.eye(weighed_outputs(WIDE)[QUERY], dtype=np.float32)
    listed = [(name, width, 500) for name, width in widths.items()]
    made = {name: moments_of(width, 1) for name, width in widths.items()}
    path = tmp_path / "wrong.calib"
    write_calibration(path, {"data": ["clips"]}, listed, made.__getitem__, None, {QUERY: OutputMoment(wrong, 0.1)})
    with pytest.raises(CalibrationError, match=rf"wrong\.calib: the output moment of {QUERY} is damaged"):
        LayerInputs(read_calibration(path)).output_factor(f"{QUERY}.weight")
    assert LayerInputs(weighed).output_factor(f"{MLP}.weight") is None
