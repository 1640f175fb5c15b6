"""A calibration in numpy against the same in torch."""

from pathlib import Path

import numpy as np

import whisq
from whisq.calibration import Calibration
from whisq.calibration.run import CalibrationSettings, calibrate

BOUND = 1e-3
"""Of √(E x² E y²) for the moment of x and y; 0.00025 was seen. Both are float32, whose sums each takes in its own order
through four layers of the encoder and of the decoder. A column counts as no quieter than a hundredth of its input's
root mean square: after a GELU some hold nothing but rounding."""


def test_moments_of_tiny_en_are_torchs(
    torch, tiny_en_calibration: Calibration, tiny_en_bin: Path, sentence_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    from whisq.network.torch_operations import TorchOperations

    monkeypatch.setattr(
        "whisq.calibration.run.operations_for", lambda device, threads: TorchOperations(device, threads)
    )
    with whisq.open_model(tiny_en_bin) as model:
        theirs = calibrate(model, sentence_folder, tmp_path / "torch.calib", settings=CalibrationSettings(cache=None))
    assert theirs.counts == tiny_en_calibration.counts
    apart = {}
    for name in theirs.counts:
        mine, other = tiny_en_calibration.moments(name), theirs.moments(name)
        size = np.sqrt(np.maximum(other.squares, 1e-4 * other.squares.mean()))
        second = np.abs(mine.second_moment - other.second_moment) / np.outer(size, size)
        apart[name] = max(float(second.max()), float((np.abs(mine.mean - other.mean) / size).max()))
    assert max(apart.values()) <= BOUND, apart
