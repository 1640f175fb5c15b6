"""What was measured on other weights of the same shape: told by the weights, wherever they are stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_bin, write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.calibration import merge, read_calibration
from whisq.cli import main
from whisq.errors import CalibrationError
from whisq.quantization.rounding import IMPORTANCE
from whisq.search import Sensitivity, Space, write_sensitivity

TYPE = "q4_0"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A model in f16, other weights of its shape, and a calibration of the first that names its weights."""
    monkeypatch.chdir(tmp_path)
    weights = tiny_weights(seed=4).as_type(np.float16)
    write_bin(tmp_path / "mine.bin", weights)
    write_huggingface(tmp_path / "mine", weights.as_type(np.float32))
    write_bin(tmp_path / "other.bin", tiny_weights(seed=5).as_type(np.float16))
    with whisq.open_model("mine.bin") as model:
        named = {"model": "mine.bin", "model_fingerprint": model.fingerprint, "model_sha256": model.sha256}
    write_calibration(tmp_path / "named.calib", TINY, **named)
    write_calibration(tmp_path / "unnamed.calib", TINY)
    return tmp_path


def quantize(source: str, calibration: str, *more: str, output: str = "out.bin") -> int:
    words = ["quantize", source, output, TYPE, "--method", "importance", "--calibration", calibration]
    return main([*words, *more])


@pytest.mark.parametrize("source", ["mine.bin", "mine"])
def test_the_same_weights_in_any_container_are_the_same_model(source: str, capsys) -> None:
    assert quantize(source, "named.calib", "--sidecar") == 0
    assert "weights" not in capsys.readouterr().err
    assert "other_model" not in json.loads(Path("out.bin.json").read_text())["calibration"]


def test_other_weights_are_an_error_that_names_both(capsys) -> None:
    assert quantize("other.bin", "named.calib") == 1
    told = capsys.readouterr().err
    assert "named.calib: was made with other weights (mine.bin) than those of other.bin" in told
    assert "--other-model" in told
    assert not Path("out.bin").exists()
    # What the file says of itself is enough to say so of a plan.
    assert quantize("other.bin", "named.calib", "--dry-run") == 1


def test_other_model_takes_them_and_what_is_written_says_so(capsys) -> None:
    assert quantize("other.bin", "named.calib", "--other-model", "--sidecar") == 0
    assert "named.calib: was made with other weights (mine.bin), taken for --other-model" in capsys.readouterr().err
    assert json.loads(Path("out.bin.json").read_text())["calibration"]["other_model"] == "mine.bin"
    assert quantize("other.bin", "named.calib", "--other-model", output="out.gguf") == 0
    with whisq.open_model("out.gguf") as made:
        assert made.metadata["gguf"]["whisq.calibration.other_model"] == "mine.bin"
    # The switch alone is no claim.
    assert quantize("mine.bin", "named.calib", "--other-model", "--sidecar", output="same.bin") == 0
    assert "other_model" not in json.loads(Path("same.bin.json").read_text())["calibration"]


def test_what_names_no_weights_is_said_not_to_be_checked(capsys) -> None:
    assert quantize("mine.bin", "unnamed.calib", "--quiet") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be checked" in line]
    assert line.startswith("note: unnamed.calib: does not say of which weights it is")
    assert main(["quantize", "mine.bin", "plain.bin", TYPE]) == 0
    assert "cannot be checked" not in capsys.readouterr().err


def test_a_calibration_of_0_1_is_known_by_its_models_file(capsys) -> None:
    with whisq.open_model("mine.bin") as model:
        write_calibration(Path("old.calib"), TINY, model_sha256=model.sha256)
    assert quantize("mine.bin", "old.calib") == 0
    assert "cannot be checked" not in capsys.readouterr().err
    assert quantize("mine", "old.calib") == 0
    assert "cannot be checked" in capsys.readouterr().err


def test_a_calibration_of_other_weights_is_not_merged(capsys) -> None:
    assert main(["calibrate", "other.bin", "--merge", "named.calib", "-o", "both.calib"]) == 1
    told = capsys.readouterr().err
    assert "named.calib: was made with other weights (mine.bin) than those of other.bin" in told
    assert "--other-model" not in told
    assert not Path("both.calib").exists()


def test_calibrations_of_the_same_weights_in_two_containers_are_merged() -> None:
    with whisq.open_model("mine") as model:
        named = {"model": "mine", "model_fingerprint": model.fingerprint, "model_sha256": model.sha256}
    write_calibration(Path("again.calib"), TINY, seed=9, **named)
    merge(Path("both.calib"), [read_calibration("named.calib"), read_calibration("again.calib")])
    assert read_calibration("both.calib").audio["model_fingerprint"] == named["model_fingerprint"]


def test_a_search_wants_a_calibration_of_its_model(capsys) -> None:
    words = ["search", "other.bin", "--calibration", "named.calib", "--bits", "9", "-o", "mix.toml"]
    assert main(words) == 1
    assert "was made with other weights (mine.bin)" in capsys.readouterr().err


def measured(path: str, **provenance: str | None) -> None:
    """Write a sensitivity that says so much of the model that it was measured on."""
    with whisq.open_model("mine.bin") as model:
        space = Space.of(model, (TYPE, "q8_0"), "transcribe.cpp", (), ())
    harms = {t.name: {k.name: 4.0**-k.bits_per_weight for k in space.types[t.name]} for t in space.tensors}
    known = {"method": "ggml", "tokens": 1, "calibration_data_sha256": None, **provenance}
    write_sensitivity(path, Sensitivity(harms, 1.0, 1.0, (), known, {}))


def reuse(source: str, *more: str) -> int:
    words = ["search", source, "--calibration", "unnamed.calib", "--reuse", "s.json", "--types", f"{TYPE},q8_0"]
    return main([*words, "--bits", "12", "-o", "mix.toml", *more])


def test_what_was_measured_is_known_by_its_weights(capsys) -> None:
    with whisq.open_model("mine.bin") as model:
        fingerprint, sha256 = model.fingerprint, model.sha256
    measured("s.json", model_fingerprint=fingerprint, model_sha256=sha256)
    assert reuse("mine.bin") == 0
    assert reuse("mine") == 0
    assert "s.json" not in capsys.readouterr().err
    assert reuse("other.bin") == 1
    assert "s.json: was measured on another model" in capsys.readouterr().err
    assert reuse("other.bin", "--other-model") == 0
    assert "s.json: was measured on another model, taken for --other-model" in capsys.readouterr().err


def test_what_was_measured_by_0_1_is_known_by_its_models_file(capsys) -> None:
    with whisq.open_model("mine.bin") as model:
        measured("s.json", model_sha256=model.sha256)
    assert reuse("mine.bin") == 0
    assert reuse("other.bin") == 1
    measured("s.json")
    assert reuse("other.bin") == 0
    assert "s.json: does not say of which weights it is" in capsys.readouterr().err


def test_the_same_holds_of_plans_in_python() -> None:
    calibration, recipe = read_calibration("named.calib"), whisq.Recipe(whisq.parse_type(TYPE))
    with whisq.open_model("other.bin") as model:
        assert calibration.is_of(model) is False
        with pytest.raises(CalibrationError, match="other weights"):
            whisq.make_plan(model, recipe, calibration=calibration, method=IMPORTANCE)
