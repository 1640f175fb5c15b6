"""What every method of rounding must keep to, what a plan asks of one, and a made-up one through the whole way."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.calibrations import moments_of, write
from tests.support.containers import model_bytes, write_model
from tests.support.models import WIDE
from whisq import kernels
from whisq.calibration import inputs_of, merge, read_calibration, write_calibration
from whisq.calibration.factors import check_factors
from whisq.calibration.imatrix import write_imatrix
from whisq.cli import main
from whisq.errors import CalibrationError, PlanError, WeightError
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.method import GGML, UnfitWeightsError, Weights
from whisq.quantization.rounding import (
    FEEDBACK,
    FIT,
    IMPORTANCE,
    METHODS,
    best_method,
    exchanged,
    method_names,
    parse_method,
    rounded,
)
from whisq.types import F16, F32, TYPES
from whisq.whisper import expected_tensors

QUERY, VALUE = "encoder.blocks.0.attn.query.weight", "encoder.blocks.0.attn.value.weight"
DOCS = Path(__file__).parents[2] / "docs"
CALIBRATED = [method for method in METHODS if method.needs != "nothing"]


@pytest.fixture
def model(tmp_path: Path):
    with whisq.open_model(write_model(tmp_path / "wide.bin", WIDE)) as opened:
        yield opened


@pytest.fixture
def calibration(tmp_path: Path):
    write(tmp_path / "a.calib")
    return read_calibration(tmp_path / "a.calib")


def recipe(type_name: str) -> whisq.Recipe:
    return whisq.Recipe(TYPES[type_name])


def test_every_method_has_a_name_of_its_own() -> None:
    assert len(set(method_names())) == len(METHODS)
    for method in METHODS:
        assert parse_method(f" {method.name.upper()} ") is method
        assert parse_method(method) is method


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("type_name", ["q4_0", "q3_K"])
def test_bytes_do_not_depend_on_threads_or_pieces(model, calibration, tmp_path: Path, method, type_name) -> None:
    plan = whisq.make_plan(model, recipe(type_name), method=method, calibration=calibration)
    assert {a.method for a in plan.assignments if a.is_quantized_here} == {method}
    whisq.quantize(plan, tmp_path / "whole.bin", threads=1)
    whisq.quantize(plan, tmp_path / "cut.bin", threads=3, piece_weights=9999)
    assert (tmp_path / "whole.bin").read_bytes() == (tmp_path / "cut.bin").read_bytes()
    with whisq.open_model(tmp_path / "whole.bin") as result:
        for tensor in result.tensors:
            assert np.isfinite(result.array(tensor)).all(), tensor.name


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_one_rounded_matrix_is_what_the_file_holds(model, calibration, tmp_path: Path, method) -> None:
    whisq.quantize(whisq.make_plan(model, recipe("q4_1"), method=method, calibration=calibration), tmp_path / "q.bin")
    inputs = LayerInputs(calibration)
    with whisq.open_model(tmp_path / "q.bin") as result:
        for tensor in (model[VALUE], model["decoder.blocks.0.attn.key.weight"]):
            found = rounded(model, tensor, TYPES["q4_1"], method, inputs, threads=2)
            changed = exchanged(model, tensor, TYPES["q4_1"], found)
            shifts = method.shifts_bias and tensor.spec.bias is not None
            assert set(changed) == ({tensor.name, tensor.spec.bias} if shifts else {tensor.name})
            for name, array in changed.items():
                assert np.array_equal(result.array(name), array), name


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize(("value", "said"), [(np.nan, "2 NaN"), (-np.inf, "2 infinite"), (7e4, "2 beyond f16's range")])
def test_weights_that_no_block_holds_are_counted_not_rounded(calibration, tmp_path: Path, method, value, said) -> None:
    array = np.ones((256, 256), np.float32)
    array[3, 4:6] = value
    with whisq.open_model(write_model(tmp_path / "bad.bin", WIDE, 0, {QUERY: array})) as bad:
        with pytest.raises(UnfitWeightsError, match=said):
            method.round(bad[QUERY].spec, Weights.of(array), TYPES["q4_0"], LayerInputs(calibration))
        with pytest.raises(WeightError, match=f"{QUERY}: {said}"):
            rounded(bad, bad[QUERY], TYPES["q4_0"], method, LayerInputs(calibration))
        only = replace(recipe("q4_0"), protect=(rf"(?!{re.escape(QUERY)}$).*",))
        plan = whisq.make_plan(bad, only, method=method, calibration=calibration)
        with pytest.raises(WeightError, match=f"{QUERY}: {said}"):
            whisq.quantize(plan, tmp_path / "q.bin", piece_weights=20_000)


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.is_quantized], ids=str)
def test_a_row_says_whether_its_type_uses_importance(kind) -> None:
    weights = np.random.default_rng(4).normal(size=(4, 256)).astype(np.float32)
    importance = np.linspace(0.01, 9, 256, dtype=np.float32)
    same = np.array_equal(kernels.quantize(weights, kind), kernels.quantize(weights, kind, importance=importance))
    assert same == (not kind.uses_importance)


def test_a_type_that_does_not_look_at_importance_is_named_in_the_plan(model, calibration) -> None:
    plan = whisq.make_plan(model, recipe("q8_0"), method="importance", calibration=calibration)
    assert (plan[QUERY].method, plan[QUERY].note) == (GGML, "q8_0 does not use importance")
    assert whisq.make_plan(model, recipe("q8_0"), method="feedback", calibration=calibration)[QUERY].method is FEEDBACK


def test_the_best_method_is_the_last_that_a_calibration_allows(calibration, tmp_path: Path) -> None:
    write_imatrix(tmp_path / "a.gguf", calibration, WIDE)
    assert best_method(None) is GGML
    assert best_method(read_calibration(tmp_path / "a.gguf")) is IMPORTANCE
    assert best_method(calibration) is FEEDBACK


@pytest.mark.parametrize("method", CALIBRATED, ids=str)
def test_a_plan_that_cannot_be_obeyed_cannot_be_built(model, calibration, tmp_path: Path, method) -> None:
    """With feedback and no calibration a file was all zero blocks; with importance it was ggml's plain rounding."""
    plan = whisq.make_plan(model, recipe("q4_0"), method=method, calibration=calibration)
    with pytest.raises(PlanError, match=f"{QUERY}: .*needs to know the layers' inputs"):
        replace(plan, calibration=None)
    write(tmp_path / "other.calib", leave_out=("encoder.blocks.0.attn.query",))
    with pytest.raises(PlanError, match=f"{QUERY}: cannot be rounded with {method}: other.calib does not cover it"):
        replace(plan, calibration=read_calibration(tmp_path / "other.calib"))
    stored = [
        replace(a, type=TYPES["q8_0"], method=IMPORTANCE) if a.tensor.name == QUERY else a for a in plan.assignments
    ]
    with pytest.raises(PlanError, match=f"{QUERY}: cannot be rounded with importance: q8_0 does not use importance"):
        replace(plan, assignments=tuple(stored))
    with pytest.raises(CalibrationError, match=f"{QUERY}: is to be rounded with a calibration, and there is none"):
        method.round(model[QUERY].spec, Weights.of(model.array(QUERY)), TYPES["q4_0"], None)


def test_a_plan_with_feedback_and_an_importance_file_cannot_be_built(model, calibration, tmp_path: Path) -> None:
    plan = whisq.make_plan(model, recipe("q4_0"), method="feedback", calibration=calibration)
    write_imatrix(tmp_path / "a.gguf", calibration, WIDE)
    with pytest.raises(PlanError, match=f"{QUERY}: .*holds importance only"):
        replace(plan, calibration=read_calibration(tmp_path / "a.gguf"))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_plan_reads_and_computes_nothing(model, calibration, method) -> None:
    def load(name: str):
        raise AssertionError(f"{name} was read")

    plan = whisq.make_plan(model, recipe("q4_0"), method=method, calibration=replace(calibration, load=load))
    assert plan[QUERY].method is method
    assert method.decide(model[QUERY].spec, F16, calibration).method is GGML


def singular_at(path: Path, *names: str, seed: int = 0) -> Path:
    made = {name: moments_of(width, seed + i) for i, (name, width) in enumerate(inputs_of(WIDE).items())}
    for name in names:
        second = made[name].second_moment.copy()
        second[0, 1] = second[1, 0] = 1.5 * second[0, 0]  # no moments of any inputs
        made[name] = replace(made[name], second_moment=second)
    listed = [(name, len(moments.squares), 500) for name, moments in made.items()]
    write_calibration(path, {"model_sha256": "x"}, listed, made.__getitem__, None)
    return path


def test_a_calibration_says_which_second_moments_are_singular(tmp_path: Path) -> None:
    bad = ("encoder.blocks.0.mlp.0", "decoder.token_embedding")
    found = read_calibration(singular_at(tmp_path / "a.calib", *bad)).singular
    assert set(found) == set(bad)
    assert all("singular" in reason for reason in found.values())


def test_so_does_a_merged_one_of_its_own_moments(tmp_path: Path) -> None:
    one, both = "encoder.blocks.0.mlp.0", "decoder.blocks.0.attn.out"
    first = read_calibration(singular_at(tmp_path / "a.calib", one, both))
    second = read_calibration(singular_at(tmp_path / "b.calib", both, seed=99))
    merge(tmp_path / "c.calib", [first, second, second])
    assert set(read_calibration(tmp_path / "c.calib").singular) == {both}


def as_of_0_1(path: Path) -> Path:
    """Take out of a calibration what whisq 0.1 did not write."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    document = json.loads(header["__metadata__"]["whisq.calibration"])
    del document["singular"]
    header["__metadata__"]["whisq.calibration"] = json.dumps(document)
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + size :])
    return path


def test_a_calibration_of_0_1_is_looked_at_in_a_step_of_its_own(model, tmp_path: Path) -> None:
    bad = "encoder.blocks.0.mlp.0"
    new = read_calibration(singular_at(tmp_path / "new.calib", bad))
    old = read_calibration(as_of_0_1(singular_at(tmp_path / "old.calib", bad)))
    assert old.singular is None
    with pytest.raises(PlanError, match=r"old\.calib: does not say which second moments are singular") as caught:
        whisq.make_plan(model, recipe("q4_0"), method="feedback", calibration=old)
    assert "check_factors(calibration)" in caught.value.hint
    whisq.make_plan(model, recipe("q4_0"), method="importance", calibration=old)
    checked = check_factors(old)
    assert checked.singular == new.singular
    assert check_factors(new) is new
    assert (
        whisq.make_plan(model, recipe("q4_0"), method="feedback", calibration=checked)[f"{bad}.weight"].method is GGML
    )


def test_the_command_line_takes_a_calibration_of_0_1(model, tmp_path: Path, capsys) -> None:
    for name in ("new", "old"):
        singular_at(tmp_path / f"{name}.calib", "encoder.blocks.0.mlp.0")
        if name == "old":
            as_of_0_1(tmp_path / "old.calib")
        words = ["quantize", "--calibration", str(tmp_path / f"{name}.calib"), str(model.path)]
        assert main([*words, str(tmp_path / f"{name}.bin"), "q4_0"]) == 0
        assert f"ggml: 1 tensors (of its input in {name}.calib, a second moment is singular" in capsys.readouterr().out
    assert (tmp_path / "new.bin").read_bytes() == (tmp_path / "old.bin").read_bytes()


def test_only_a_method_that_uses_second_moments_has_them_factored(model, tmp_path: Path, monkeypatch) -> None:
    calibration = as_of_0_1(singular_at(tmp_path / "old.calib", "encoder.blocks.0.mlp.0"))
    factored = []
    monkeypatch.setattr("whisq.calibration.factors.check_factors", lambda found: factored.append(found) or found)
    words = ["quantize", "--calibration", str(calibration), str(model.path), str(tmp_path / "out.bin"), "q4_0"]
    for method, times in (("ggml", 0), ("importance", 0), ("feedback", 1)):
        factored.clear()
        main([*words, "--method", method, "--dry-run"])
        assert len(factored) == times, method


def example_of_the_docs(folder: Path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text("utf-8"), re.DOTALL)
    (folder / "scaled.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(folder)
    import scaled

    monkeypatch.setattr("whisq.quantization.rounding.METHODS", (GGML, FIT, scaled.Scaled(), IMPORTANCE, FEEDBACK))
    return scaled.Scaled()


def test_a_made_up_method_is_one_file_and_one_value(model, calibration, tmp_path: Path, monkeypatch, capsys) -> None:
    scaled = example_of_the_docs(tmp_path, monkeypatch)
    words = ["quantize", "--verbose", "--method", "scaled", str(model.path), str(tmp_path / "q.gguf"), "q4_0"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"{QUERY} - [  256,   256,     1], type =    f16 default -> q4_0 with scaled size =" in out
    assert "method scaled:\n  scaled: " in out
    assert main([*words, "--json", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "scaled"
    better = 0
    with whisq.open_model(tmp_path / "q.gguf") as result:
        assert result.metadata["gguf"]["whisq.method"] == "scaled"
        for tensor in model.tensors:
            if result[tensor.name].type is TYPES["q4_0"]:
                weights = model.array(tensor)
                plain = kernels.dequantize(kernels.quantize(weights, "q4_0").data, "q4_0", weights.shape)
                mine, ggmls = (np.square(x - weights).sum(1) for x in (result.array(tensor.name), plain))
                assert (mine <= ggmls * (1 + 1e-5)).all()
                better += (mine < ggmls).sum()
    assert better > 500
    # A calibration allows better ones, and it takes a value as well as a name.
    assert best_method(calibration) is FEEDBACK
    assert whisq.make_plan(model, recipe("q4_0"), method=scaled)[QUERY].method is scaled


def test_ggmls_rounding_does_without_numpy(tmp_path: Path) -> None:
    """Importing it takes as long as quantizing a small model."""
    (tmp_path / "m.bin").write_bytes(model_bytes(WIDE))
    code = (
        "import sys; from whisq.cli import main; "
        f"assert main(['quantize', {str(tmp_path / 'm.bin')!r}, {str(tmp_path / 'q.bin')!r}, 'q5_0']) == 0; "
        "sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "q.bin").is_file()


def test_f32_of_any_size_may_stay_f32() -> None:
    array = np.full((1, 32), 1e30, np.float32)
    spec = expected_tensors(WIDE)[QUERY]
    assert bytes(GGML.round(spec, Weights.of(array), F32, None).blocks) == array.tobytes()
