"""Importance and feedback through the whole way: plan, file, bytes, notes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support import oracle
from tests.support.calibrations import moments_of, write
from tests.support.containers import model_bytes
from tests.support.models import WIDE
from whisq import kernels
from whisq.calibration import Calibration, Moments, input_of, inputs_of, read_calibration, write_calibration
from whisq.calibration.factors import factor_for, reason_against
from whisq.calibration.imatrix import write_imatrix
from whisq.errors import CalibrationError, PlanError
from whisq.kernels.feedback import damping_for
from whisq.quantization import layer_inputs
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.method import GGML, Weights
from whisq.quantization.rounding import FEEDBACK, parse_method
from whisq.types import TYPES, parse_type
from whisq.whisper import expected_tensors

BLOCK_TYPES = [kind.name for kind in TYPES.values() if kind.is_quantized]


@pytest.fixture
def model(tmp_path: Path):
    (tmp_path / "wide.bin").write_bytes(model_bytes(WIDE))
    with whisq.open_model(tmp_path / "wide.bin") as opened:
        yield opened


def quantized(model, path: Path, type_name: str, method: str, calibration=None, threads: int = 1):
    plan = whisq.make_plan(model, whisq.Recipe(parse_type(type_name)), calibration=calibration, method=method)
    whisq.quantize(plan, path, threads=threads)
    return plan


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_importance_gives_ggmls_bytes_with_that_imatrix(model, tmp_path: Path, type_name: str) -> None:
    made = write(tmp_path / "a.calib")
    plan = quantized(model, tmp_path / "q.bin", type_name, "importance", read_calibration(tmp_path / "a.calib"))
    with whisq.open_model(tmp_path / "q.bin") as result:
        for assignment in plan.assignments:
            if assignment.is_quantized_here:
                name = assignment.tensor.name
                expected = oracle.quantize(model.array(name), assignment.type, made[input_of(name)].squares)
                assert bytes(result.rows(result[name])) == expected.tobytes(), name


def test_an_imatrix_is_named_in_a_gguf_as_llama_cpp_names_it_and_not_in_what_is_made_of_that(
    model, tmp_path: Path
) -> None:
    from whisq.cli import main

    write(tmp_path / "a.calib")
    write_imatrix(tmp_path / "speech.gguf", read_calibration(tmp_path / "a.calib"), WIDE)
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    words = ["--quiet", "--calibration", str(tmp_path / "speech.gguf"), "--method", "importance"]
    assert main(["quantize", *words, str(model.path), str(first), "q8_0", "--tensor-type", r".*mlp.*=q4_0"]) == 0
    with whisq.open_model(first) as made:
        keys = made.metadata["gguf"]
    assert keys["quantize.imatrix.file"] == "speech.gguf"
    assert keys["quantize.imatrix.entries_count"] == len(inputs_of(WIDE))
    assert keys["whisq.method"] == "importance"
    assert main(["quantize", "--quiet", "--allow-requantize", str(first), str(second), "q4_0"]) == 0
    with whisq.open_model(second) as made:
        keys = made.metadata["gguf"]
    assert not {key for key in keys if key.startswith(("quantize.imatrix.", "whisq.calibration", "whisq.method"))}


def test_an_imatrix_file_gives_the_same_weights_as_the_calibration_it_came_from(model, tmp_path: Path) -> None:
    write(tmp_path / "a.calib")
    calibration = read_calibration(tmp_path / "a.calib")
    write_imatrix(tmp_path / "a.gguf", calibration, WIDE)
    quantized(model, tmp_path / "1.bin", "q4_0", "importance", calibration)
    quantized(model, tmp_path / "2.bin", "q4_0", "importance", read_calibration(tmp_path / "a.gguf"))
    one, two = (tmp_path / name for name in ("1.bin", "2.bin"))
    with whisq.open_model(one) as first, whisq.open_model(two) as second:
        worst = max(np.abs(first.array(t.name) - second.array(t.name)).max() for t in first.tensors)
    assert worst < 1e-2  # sums × counts ÷ counts may round differently in the last bit


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["q4_0", "q5_1", "q4_K", "q6_K", "iq4_xs"])
def test_feedback_lowers_the_output_error_and_is_the_same_with_any_number_of_threads(model, tmp_path, type_name):
    made = write(tmp_path / "a.calib")
    calibration = read_calibration(tmp_path / "a.calib")
    quantized(model, tmp_path / "plain.bin", type_name, "ggml")
    quantized(model, tmp_path / "fed.bin", type_name, "feedback", calibration)
    quantized(model, tmp_path / "fed3.bin", type_name, "feedback", calibration, threads=3)
    assert (tmp_path / "fed.bin").read_bytes() == (tmp_path / "fed3.bin").read_bytes()
    name = "encoder.blocks.0.mlp.2.weight"
    second = made[input_of(name)].second_moment.astype(np.float64)
    errors = {}
    for kind in ("plain", "fed"):
        with whisq.open_model(tmp_path / f"{kind}.bin") as result:
            difference = model.array(name) - result.array(name).astype(np.float64)
            errors[kind] = np.einsum("ri,ij,rj->", difference, second, difference)
    assert errors["fed"] < errors["plain"]


def test_every_input_is_read_and_factored_once(model, tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "a.calib")
    read, factored, calibration = [], [], read_calibration(tmp_path / "a.calib")
    load, factor = calibration.load, factor_for
    noted = replace(calibration, load=lambda name: read.append(name) or load(name))
    monkeypatch.setattr(layer_inputs, "factor_for", lambda *given: factored.append(given[0]) or factor(*given))
    plan = whisq.make_plan(model, whisq.Recipe(parse_type("q4_0")), calibration=noted, method="feedback")
    whisq.quantize(plan, tmp_path / "q.bin", threads=1, piece_weights=1 << 12)
    used = {input_of(a.tensor.name) for a in plan.assignments if a.method is FEEDBACK}
    assert sorted(factored) == sorted(used)
    assert sorted(read) == sorted(used)


@pytest.mark.parametrize("type_name", ["q4_0", "q5_1", "q4_K", "iq4_nl"])
def test_no_token_of_the_embedding_is_worse_in_weights_than_plainly_and_outputs_are_better(type_name: str) -> None:
    name, kind, width = "decoder.token_embedding.weight", parse_type(type_name), 256
    spec = expected_tensors(WIDE)[name]
    generator = np.random.default_rng(5)
    x = generator.normal(size=(400, 12)) @ generator.normal(size=(12, width)) + generator.normal(size=(400, width))
    second = (x.T @ x / len(x)).astype(np.float32)
    moments = Moments(len(x), np.diag(second).copy(), x.mean(0).astype(np.float32), second)
    counts = {input_of(name): len(x)}
    inputs = LayerInputs(Calibration(Path("a.calib"), {}, counts, lambda _: moments, singular={}))
    weights = generator.normal(scale=0.05, size=(300, width)).astype(np.float32)
    errors = {}
    for method in (GGML, FEEDBACK):
        blocks = method.round(spec, Weights.of(weights), kind, inputs).blocks
        difference = kernels.dequantize(blocks, kind, weights.shape) - weights.astype(np.float64)
        errors[method] = (difference**2).sum(1), np.einsum("ri,ij,rj->", difference, second, difference)
    assert (errors[FEEDBACK][0] <= errors[GGML][0] * (1 + 1e-6)).all()
    assert errors[FEEDBACK][1] < 0.9 * errors[GGML][1]


def test_the_bias_takes_up_the_mean_shift(model, tmp_path: Path) -> None:
    made = write(tmp_path / "a.calib")
    quantized(model, tmp_path / "q.bin", "q4_0", "feedback", read_calibration(tmp_path / "a.calib"))
    with whisq.open_model(tmp_path / "q.bin") as result:
        for layer in ("encoder.blocks.0.mlp.0", "decoder.blocks.0.attn.value"):
            mean = made[input_of(f"{layer}.weight")].mean.astype(np.float64)
            before = model.array(f"{layer}.weight") @ mean + model.array(f"{layer}.bias")
            after = result.array(f"{layer}.weight") @ mean + result.array(f"{layer}.bias")
            np.testing.assert_allclose(after, before, atol=1e-5)
        norm = "encoder.blocks.0.attn_ln.bias"
        assert np.array_equal(result.array(norm), model.array(norm))


def test_moments_are_about_the_mean_only_where_a_shift_of_the_output_is_taken_up() -> None:
    """By a bias, or by the softmax over keys; the token embedding as the output layer has neither."""
    moments = moments_of(64, seed=3)
    assert moments.second_moment is not None
    assert moments.mean is not None
    centred = moments.second_moment - np.outer(moments.mean, moments.mean)
    off = ~np.eye(64, dtype=bool)  # the diagonal is damped
    for source, expected in (
        ("encoder.blocks.0.attn.query", centred),
        ("decoder.blocks.0.cross_attn.key", moments.second_moment),
        ("decoder.token_embedding", moments.second_moment),
    ):
        np.testing.assert_allclose(factor_for(source, moments).second_moment[off], expected[off], rtol=1e-5, atol=1e-7)


def test_moments_of_little_audio_are_damped_more() -> None:
    few, many = (replace(moments_of(64, seed=3), n_rows=n_rows) for n_rows in (64, 6400))
    source = "decoder.token_embedding"
    for moments in (few, many):
        damping = damping_for(64, moments.n_rows)
        added = np.diag(factor_for(source, moments).second_moment) - moments.squares
        np.testing.assert_allclose(added, damping * moments.squares.mean(), rtol=1e-4)
    assert damping_for(64, 64) > damping_for(64, 6400)


def test_a_column_that_never_varied_can_be_rounded_with_feedback() -> None:
    moments = moments_of(64, seed=3)
    mean, second = moments.mean.copy(), moments.second_moment.copy()
    # Always 0.3, which f32 rounds: its variance comes out as -1e-8, not 0.
    mean[5] = 0.3
    second[5] = second[:, 5] = mean * mean[5]
    second[5, 5] = np.nextafter(np.float32(0.09), np.float32(0))
    assert float(second[5, 5]) < float(mean[5]) ** 2
    still = replace(moments, mean=mean, second_moment=second, squares=np.diag(second).copy())
    assert reason_against("encoder.blocks.0.attn.query", still) == ""


def test_a_layer_that_is_not_covered_is_named_in_the_plan(model, tmp_path: Path) -> None:
    write(tmp_path / "a.calib", leave_out=("encoder.blocks.0.mlp.2",), idle=("decoder.blocks.0.mlp.0",))
    calibration = read_calibration(tmp_path / "a.calib")
    plan = quantized(model, tmp_path / "q.bin", "q4_0", "feedback", calibration)
    uncovered, idle = plan["encoder.blocks.0.mlp.2.weight"], plan["decoder.blocks.0.mlp.0.weight"]
    assert (uncovered.method, idle.method) == (GGML, GGML)
    assert "does not cover" in uncovered.note
    assert "never active" in idle.note
    with whisq.open_model(tmp_path / "q.bin") as result:
        for name in ("encoder.blocks.0.mlp.2.weight", "decoder.blocks.0.mlp.0.weight"):
            expected = kernels.quantize(model.array(name), "q4_0").tobytes()
            assert bytes(result.rows(result[name])) == expected


def test_a_singular_second_moment_is_named_in_the_plan(model, tmp_path: Path) -> None:
    made = write(tmp_path / "whole.calib")
    whole = read_calibration(tmp_path / "whole.calib")
    bad = "encoder.blocks.0.mlp.0"
    second = made[bad].second_moment.copy()
    second[0, 1] = second[1, 0] = 9 * second[0, 0]  # no moments of any inputs
    made[bad] = replace(made[bad], second_moment=second)
    listed = [(name, len(moments.squares), 500) for name, moments in made.items()]
    write_calibration(tmp_path / "a.calib", dict(whole.audio), listed, made.__getitem__, None)
    plan = quantized(model, tmp_path / "q.bin", "q4_0", "feedback", read_calibration(tmp_path / "a.calib"))
    assert plan[f"{bad}.weight"].method is GGML
    assert "singular" in plan[f"{bad}.weight"].note
    others = [a for a in plan.assignments if a.is_quantized_here and a.tensor.name != f"{bad}.weight"]
    assert {a.method for a in others} == {FEEDBACK}
    with whisq.open_model(tmp_path / "q.bin") as result:
        expected = kernels.quantize(model.array(f"{bad}.weight"), "q4_0").tobytes()
        assert bytes(result.rows(result[f"{bad}.weight"])) == expected


@pytest.mark.slow
@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_columns_that_were_never_active_leave_finite_weights(model, tmp_path: Path, type_name: str) -> None:
    # llama.cpp #8661: with importance 0 over a sub-block, q2_K, q4_K and q5_K wrote NaN scales.
    made = {name: moments_of(width, 3, idle=slice(0, 64)) for name, width in inputs_of(WIDE).items()}
    listed = [(name, width, 500) for name, width in inputs_of(WIDE).items()]
    write_calibration(tmp_path / "a.calib", {}, listed, made.__getitem__, None)
    calibration = read_calibration(tmp_path / "a.calib")
    assert calibration.audio["inactive"]["encoder.blocks.0.mlp.2"] == 64
    for method in ("importance", "feedback"):
        quantized(model, tmp_path / "q.bin", type_name, method, calibration)
        with whisq.open_model(tmp_path / "q.bin") as result:
            for tensor in result.tensors:
                assert np.isfinite(result.array(tensor)).all(), (method, tensor.name)


def test_importance_of_a_column_that_was_never_active_is_a_thousandth_of_the_smallest_that_was(tmp_path: Path) -> None:
    made = {name: moments_of(width, 3, idle=slice(0, 64)) for name, width in inputs_of(WIDE).items()}
    listed = [(name, width, 500) for name, width in inputs_of(WIDE).items()]
    write_calibration(tmp_path / "a.calib", {}, listed, made.__getitem__, None)
    squares = made["encoder.blocks.0.mlp.2"].squares
    found = LayerInputs(read_calibration(tmp_path / "a.calib")).importance("encoder.blocks.0.mlp.2.weight")
    assert np.array_equal(found[64:], squares[64:])
    np.testing.assert_allclose(found[:64], squares[64:].min() / 1000, rtol=1e-6)


def test_methods_ask_for_what_they_need(model, tmp_path: Path) -> None:
    write(tmp_path / "a.calib")
    recipe = whisq.Recipe(parse_type("q4_0"))
    with pytest.raises(PlanError, match="needs to know"):
        whisq.make_plan(model, recipe, method="feedback")
    write_imatrix(tmp_path / "a.gguf", read_calibration(tmp_path / "a.calib"), WIDE)
    with pytest.raises(PlanError, match="importance only"):
        whisq.make_plan(model, recipe, method="feedback", calibration=read_calibration(tmp_path / "a.gguf"))
    with pytest.raises(PlanError, match="unknown method"):
        parse_method("magic")


def test_importance_of_an_input_without_any_activity_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.calib", idle=("encoder.blocks.0.mlp.2",))
    inputs = LayerInputs(read_calibration(tmp_path / "a.calib"))
    with pytest.raises(CalibrationError, match="never active"):
        inputs.importance("encoder.blocks.0.mlp.2.weight")
