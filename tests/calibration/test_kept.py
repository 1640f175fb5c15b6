"""Calibrations that are made when they are needed: kept, found again, made again, and never half made."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import whisq
from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.calibration import inputs_of
from whisq.calibration.calibration import foreseen_calibration
from whisq.calibration.kept import FOLDER, calibration_on
from whisq.calibration.run import BUILT_IN_TEXT_TOKENS, CalibrationSettings
from whisq.clips.builtin import speech_version
from whisq.errors import CalibrationError, DataError, OutputError
from whisq.formats.special_tokens import special_tokens
from whisq.model import Model

DIMS = replace(TINY, n_audio_ctx=1500, n_text_ctx=64)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with whisq.open_model(write_huggingface(tmp_path / "hf", tiny_weights(DIMS))) as opened:
        yield opened


def made(model: Model, cache: Path | None, data=None, **settings) -> tuple[whisq.calibration.Calibration, list[str]]:
    said: list[str] = []
    with calibration_on(model, data, CalibrationSettings(cache=cache, **settings), say=said.append) as found:
        assert found.path.is_file()
        found.moments(next(iter(found.counts)))
    return found, said


def files(cache: Path) -> list[Path]:
    return sorted((cache / FOLDER).glob("*"))


def test_it_is_made_once_and_found_again(model: Model, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, said = made(model, cache)
    assert list(first.counts) == list(inputs_of(DIMS))
    assert set(first.audio["languages"]) == {"en", "de", "fr"}
    assert first.audio["speech"] == speech_version()
    assert any("MB of memory" in line for line in said)
    assert any(f"the built-in speech (version {speech_version()})" in line for line in said)
    (path,) = files(cache)
    assert path == first.path
    assert model.fingerprint[:32] in path.name
    changed = path.stat().st_mtime_ns
    _, said = made(model, cache)
    assert path.stat().st_mtime_ns == changed
    assert len(said) == 1
    assert "kept in" in said[0]
    assert not list((cache / "calibrate").glob("*"))


def test_another_setting_takes_the_place_of_what_was_kept(model: Model, tmp_path: Path) -> None:
    first, _ = made(model, tmp_path / "cache")
    other, _ = made(model, tmp_path / "cache", text_tokens=3000)
    assert first.audio["own_text"]
    assert BUILT_IN_TEXT_TOKENS <= first.audio["text_tokens"] < 3000 <= other.audio["text_tokens"]
    assert other.audio["tokens"] > first.audio["tokens"]
    assert files(tmp_path / "cache") == [other.path]


def test_one_of_another_version_is_made_again(model: Model, tmp_path: Path, monkeypatch) -> None:
    for version in ("0.0.1", "0.0.2"):
        monkeypatch.setattr("whisq.calibration.run.__version__", version)
        monkeypatch.setattr("whisq.calibration.kept.__version__", version)
        found, _ = made(model, tmp_path / "cache")
        assert files(tmp_path / "cache") == [found.path]
        assert found.audio["whisq"] == version
    # The same name, but the file says another version: someone copied it.
    monkeypatch.setattr("whisq.calibration.run.__version__", "0.0.3")
    found.path.write_bytes(found.path.read_bytes().replace(b'\\"whisq\\": \\"0.0.2\\"', b'\\"whisq\\": \\"0.0.1\\"'))
    again, _ = made(model, tmp_path / "cache")
    assert again.audio["whisq"] == "0.0.3"


@pytest.mark.parametrize("damage", [b"", b"not a calibration", None])
def test_a_damaged_one_is_made_again(model: Model, tmp_path: Path, damage: bytes | None) -> None:
    found, _ = made(model, tmp_path / "cache")
    whole = found.path.read_bytes()
    found.path.write_bytes(whole[:-100] if damage is None else damage)
    _, said = made(model, tmp_path / "cache")
    assert any(line.startswith("made again: ") and str(found.path) in line for line in said)
    assert found.path.read_bytes() == whole


def test_without_a_cache_nothing_is_left(model: Model, tmp_path: Path) -> None:
    found, said = made(model, None)
    assert not found.path.exists()
    assert said[-1].endswith("not kept")


def test_clips_of_ones_own_have_a_file_of_their_own(model: Model, tmp_path: Path, sentence_folder: Path) -> None:
    mine, said = made(model, tmp_path / "cache", sentence_folder)
    assert "speech" not in mine.audio
    assert not mine.audio["own_text"]
    assert mine.audio["text_tokens"] == 0
    assert "calibrated on sentence" in said[-1]
    built_in, _ = made(model, tmp_path / "cache")
    assert files(tmp_path / "cache") == sorted([mine.path, built_in.path])


def test_no_room_is_refused_before_the_work(model: Model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whisq.calibration.needs.available_memory", lambda: 1000)
    with pytest.raises(CalibrationError, match="MB of memory"):
        made(model, tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_cache_that_is_no_folder_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match="the cache cannot be used") as caught:
        made(model, tmp_path / "cache")
    assert "--no-cache" in caught.value.hint


def test_a_model_of_other_languages_is_told_to_bring_clips(model: Model, tmp_path: Path, monkeypatch) -> None:
    strange = replace(special_tokens(model), languages={"xx": 5})
    monkeypatch.setattr("whisq.calibration.run.special_tokens", lambda _: strange)
    with pytest.raises(DataError, match="none of its languages") as caught:
        made(model, tmp_path / "cache")
    assert "--data" in caught.value.hint


def test_what_is_foreseen_covers_all_and_holds_nothing(model: Model) -> None:
    foreseen = foreseen_calibration(model)
    foreseen.check_fits(model)
    plan = whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q4_0")), calibration=foreseen, method="feedback")
    assert {str(a.method) for a in plan.assignments if a.type.is_quantized} == {"feedback"}
    assert foreseen.sha256 == ""
    with pytest.raises(CalibrationError, match="not calibrated yet"):
        foreseen.moments("decoder.token_embedding")
