"""``whisq quantize`` with a method that needs a calibration, and none named: it is made on the built-in speech."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.calibration import read_calibration
from whisq.cli import main
from whisq.clips.builtin import speech_version
from whisq.formats import open_model
from whisq.hashing import file_sha256


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Where commands run: a model of three languages, and a cache that is theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISQ_CACHE", str(tmp_path / "cache"))
    write_huggingface(tmp_path / "hf", tiny_weights(replace(TINY, n_audio_ctx=1500, n_text_ctx=64)))
    return tmp_path


def kept() -> list[Path]:
    return list(Path("cache").rglob("*.calib"))


@pytest.mark.parametrize("method", ["feedback", "importance"])
def test_the_built_in_speech_is_used_and_said_to_be(method: str, capsys) -> None:
    words = ["quantize", "--method", method, "--sidecar", "hf", "out.bin", "q4_0"]
    assert main(words) == 0
    told = capsys.readouterr().err
    assert f"calibrated on the built-in speech (version {speech_version()})" in told
    assert "MB of memory" in told
    (path,) = kept()
    stated = json.loads(Path("out.bin.json").read_text())["calibration"]
    assert stated["speech"] == speech_version()
    assert stated["sha256"] == file_sha256(path)
    with open_model("hf") as model:
        assert read_calibration(path).is_of(model)
        assert read_calibration(path).audio["model_fingerprint"] == model.fingerprint
    first = Path("out.bin").read_bytes()
    # The file itself, named, gives the same bytes.
    assert main(["quantize", "--method", method, "--calibration", str(path), "hf", "again.bin", "q4_0"]) == 0
    assert Path("again.bin").read_bytes() == first
    assert "built-in speech" not in capsys.readouterr().err
    assert main(["quantize", "hf", "plain.bin", "q4_0"]) == 0
    assert Path("plain.bin").read_bytes() != first


def test_what_can_be_refused_is_refused_before_calibrating(capsys) -> None:
    assert main(["quantize", "--method", "feedback", "hf", "no/such/out.bin", "q4_0"]) == 1
    assert main(["quantize", "--method", "feedback", "--target", "whisper.cpp", "hf", "out.gguf", "q4_0"]) == 1
    assert main(["quantize", "--method", "feedback", "--data", "none.csv", "hf", "out.bin", "q4_0"]) == 1
    assert main(["quantize", "--method", "ggml", "--data", "none.csv", "hf", "out.bin", "q4_0"]) == 1
    assert "--method ggml takes no --data" in capsys.readouterr().err
    assert main(["quantize", "--method", "feedback", "--dry-run", "hf", "out.bin", "q4_0"]) == 0
    assert kept() == []


def test_nothing_is_kept_where_that_is_asked_for(folder: Path) -> None:
    assert main(["quantize", "--method", "feedback", "--no-cache", "hf", "a.bin", "q4_0"]) == 0
    assert kept() == []
    assert main(["quantize", "--method", "feedback", "--cache", "mine", "hf", "b.bin", "q4_0"]) == 0
    assert Path("a.bin").read_bytes() == Path("b.bin").read_bytes()
    assert len(list((folder / "mine").rglob("*.calib"))) == 1


def test_clips_of_ones_own_are_calibrated_on(sentence_folder: Path, capsys) -> None:
    assert main(["quantize", "--data", str(sentence_folder), "hf", "out.bin", "q4_0"]) == 0
    assert f"calibrated on {sentence_folder.name}: en" in capsys.readouterr().err
    assert len(kept()) == 1


def test_calibrate_writes_it_out(capsys) -> None:
    assert main(["calibrate", "hf", "-o", "out.calib", "--no-cache"]) == 0
    told = capsys.readouterr()
    assert "MB of memory" in told.err
    assert "wrote out.calib" in told.out
    assert main(["quantize", "--calibration", "out.calib", "hf", "a.bin", "q4_0"]) == 0
    assert main(["quantize", "--method", "feedback", "hf", "b.bin", "q4_0"]) == 0
    assert Path("a.bin").read_bytes() == Path("b.bin").read_bytes()
