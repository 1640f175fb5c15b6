"""Fixtures: tiny.en calibrated on the shipped sentence, once a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from whisq.demo import SENTENCE

if TYPE_CHECKING:
    from whisq.calibration import Calibration


@pytest.fixture(scope="session")
def sentence_folder(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    """A folder of the shipped sentence and its transcript."""
    folder = tmp_path_factory.mktemp("sentence")
    (folder / "one.wav").write_bytes(speech_wav.read_bytes())
    (folder / "one.txt").write_text(SENTENCE)
    return folder


@pytest.fixture(scope="session")
def tiny_en_calibration(
    tiny_en_bin: Path, sentence_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Calibration:
    """What ``calibrate`` returned."""
    from whisq.calibration.run import CalibrationSettings, calibrate

    path = tmp_path_factory.mktemp("calibration") / "tiny.calib"
    return calibrate(tiny_en_bin, sentence_folder, path, settings=CalibrationSettings(cache=None))
