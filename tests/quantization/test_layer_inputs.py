"""What methods ask of a layer's inputs, where a file of theirs is damaged or says what no input can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import whisq
from tests.support.calibrations import moments_of
from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq.calibration import Calibration, Moments, inputs_of, read_calibration
from whisq.calibration import write_calibration as write_calibration_of
from whisq.errors import CalibrationError
from whisq.model import Model
from whisq.quantization.write import quantize
from whisq.types import TYPES

INPUT = "encoder.blocks.0.attn.query"


@pytest.fixture
def model(tmp_path: Path):
    """A model whose rows fit every type."""
    with whisq.open_model(write_model(tmp_path / "wide.bin", WIDE)) as opened:
        yield opened


def damaged(folder: Path, array: str, index: int, value: float) -> Calibration:
    """Return a calibration that had one number changed after it was written."""
    write_calibration(folder / "a.calib")
    with safe_open(folder / "a.calib", "np") as file:
        metadata = file.metadata()
    arrays = load_file(folder / "a.calib")
    arrays[f"{INPUT}.{array}"][index] = value
    save_file(arrays, folder / "a.calib", metadata)
    return read_calibration(folder / "a.calib")


def planned(model: Model, calibration: Calibration, method: str, kind: str = "q4_0") -> whisq.Plan:
    return whisq.make_plan(model, whisq.Recipe(TYPES[kind]), calibration=calibration, method=method)


@pytest.mark.parametrize("method", ["importance", "feedback"])
@pytest.mark.parametrize(("array", "value"), [("mean", 50.0), ("mean", -50.0), ("second_moment", -1.0)])
def test_a_mean_that_its_squares_do_not_allow_is_damage(
    model: Model, tmp_path: Path, method: str, array: str, value: float
) -> None:
    # What the file says of itself is enough for a plan.
    plan = planned(model, damaged(tmp_path, array, 0, value), method)
    with pytest.raises(CalibrationError, match=rf"a\.calib: the moments of {INPUT} are damaged: a mean") as caught:
        quantize(plan, tmp_path / "out.bin")
    assert "whisq calibrate" in caught.value.hint
    assert not (tmp_path / "out.bin").exists()


def test_a_moment_that_no_inputs_have_is_damage(model: Model, tmp_path: Path) -> None:
    plan = planned(model, damaged(tmp_path, "second_moment", 1, 1e4), "feedback")
    with pytest.raises(CalibrationError, match=rf"a\.calib: the moments of {INPUT} are damaged: a second moment is"):
        quantize(plan, tmp_path / "out.bin")
    assert not (tmp_path / "out.bin").exists()


def importance_of(squares: dict[str, np.ndarray]) -> Calibration:
    counts = dict.fromkeys(squares, 1)
    made = {name: Moments(1, values) for name, values in squares.items()}
    return Calibration(Path("made.gguf"), {}, counts, made.__getitem__, has_second_moments=False, singular={})


@pytest.mark.parametrize("largest", [1e10, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("kind", ["q4_0", "q4_K", "q2_K", "iq4_nl"])
def test_importance_too_large_for_sums_in_f32_counts_by_its_ratios(
    model: Model, tmp_path: Path, largest: float, kind: str
) -> None:
    random = np.random.default_rng(3)
    large = {n: (random.random(width) * largest).astype(np.float32) for n, width in inputs_of(WIDE).items()}
    small = {name: values / values.max() for name, values in large.items()}
    quantize(planned(model, importance_of(large), "importance", kind), tmp_path / "large.bin")
    quantize(planned(model, importance_of(small), "importance", kind), tmp_path / "small.bin")
    assert (tmp_path / "large.bin").read_bytes() == (tmp_path / "small.bin").read_bytes()
    with whisq.open_model(tmp_path / "large.bin") as made:
        assert all(np.isfinite(made.array(tensor)).all() for tensor in made.tensors)


def calibration_times(folder: Path, scale: float) -> Calibration:
    """Return a calibration on inputs the square of whose length is so many times as large."""
    widths = inputs_of(WIDE)

    def load(name: str) -> Moments:
        found, factor = moments_of(widths[name], 3), np.float32(scale)
        return Moments(500, found.squares * factor, found.mean * np.sqrt(factor), found.second_moment * factor)

    path = folder / f"{scale}.calib"
    write_calibration_of(path, {}, [(name, width, 500) for name, width in widths.items()], load, None)
    return read_calibration(path)


def test_moments_too_large_for_sums_in_f32_count_by_their_ratios(model: Model, tmp_path: Path) -> None:
    matrices = []
    for scale in (2.0**40, 2.0**100, 2.0**120):
        path = tmp_path / f"{scale}.bin"
        quantize(planned(model, calibration_times(tmp_path, scale), "feedback"), path)
        with whisq.open_model(path) as made:
            matrices.append([bytes(made.rows(t)) for t in made.tensors if t.type is TYPES["q4_0"]])
    assert matrices[0]
    assert matrices[0] == matrices[1] == matrices[2]
