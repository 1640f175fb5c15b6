"""Fixtures: tiny.en evaluated on the shipped sentence with two of its files, once a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import whisq
from whisq.demo import SENTENCE

if TYPE_CHECKING:
    from whisq.evaluation import Evaluation, EvaluationSettings


@pytest.fixture(scope="session")
def q4_bin(tiny_en_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.en-q4_0.bin"
    with whisq.open_model(tiny_en_bin) as model:
        whisq.quantize(whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q4_0"))), path, threads=1)
    return path


@pytest.fixture(scope="session")
def iq4_bin(tiny_en_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.en-iq4_nl.bin"
    with whisq.open_model(tiny_en_bin) as model:
        whisq.quantize(whisq.make_plan(model, whisq.Recipe(whisq.parse_type("iq4_nl"))), path, threads=1)
    return path


@pytest.fixture(scope="session")
def clips(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sentence as it is, at another rate in stereo, and cut off in the middle."""
    import soundfile

    folder = tmp_path_factory.mktemp("clips")
    samples, rate = soundfile.read(speech_wav, dtype="float32")
    soundfile.write(folder / "a.wav", samples, rate)
    soundfile.write(folder / "b.flac", np.repeat(np.repeat(samples, 3)[:, None], 2, axis=1), 3 * rate)
    soundfile.write(folder / "c.wav", samples[: samples.size // 2], rate)
    for name in "abc":
        (folder / f"{name}.txt").write_text(SENTENCE)
    return folder


@pytest.fixture(scope="session")
def measured(
    transcribe_cpp,
    tiny_en_bin: Path,
    q4_bin: Path,
    iq4_bin: Path,
    clips: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Evaluation, EvaluationSettings]:
    from whisq.evaluation import EvaluationSettings

    settings = EvaluationSettings(threads=1, jobs=2, cache=tmp_path_factory.mktemp("cache"))
    return whisq.evaluate(tiny_en_bin, [q4_bin, iq4_bin], clips, settings=settings), settings
