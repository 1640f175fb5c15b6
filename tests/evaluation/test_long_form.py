"""One long recording: what is built of clips, and what a model does there that the reference does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import whisq
from whisq.clips.datasets import load_clips
from whisq.evaluation import EvaluationSettings, from_json, to_json
from whisq.evaluation.long_form import LongForm, long_clip
from whisq.formats import open_model
from whisq.report.wording import remarks

SAID = "the man who never turned his face to the wind spoke of tea"
REFERENCE = {"text": f"{SAID} and then {SAID[::-1]}", "spans": [[0, 10], [11, 60]], "audio_s": 60.0}


def unlike(**changed: object) -> list[str]:
    return list(LongForm.of(REFERENCE | changed).unlike(LongForm.of(REFERENCE)))


def test_the_same_behaviour_is_no_error() -> None:
    assert unlike() == []
    assert unlike(text=REFERENCE["text"].upper(), spans=[[0, 10], [20, 60]]) == []


@pytest.mark.parametrize("loop", ["we are going to ", ". ", ".", "?!", "Thank you. "])
def test_a_loop_is_told_as_one(loop: str) -> None:
    assert unlike(text=f"{REFERENCE['text']} {8 * loop}")[0].startswith("repeats itself (")


@pytest.mark.parametrize("spans", [[[0, 10], [40, 60]], [[0, 35]], [[26, 60]], []])
def test_an_empty_stretch_is_told_with_its_length(spans: list[list[float]]) -> None:
    text = REFERENCE["text"] if spans else ""
    told = [one for one in unlike(text=text, spans=spans) if one.startswith("writes nothing for")]
    assert len(told) == 1
    assert "the reference for 1 s at most" in told[0]


def test_a_text_of_another_length_is_told() -> None:
    assert unlike(text=SAID) == ["writes 13 words, the reference 28"]
    assert unlike(text=f"{REFERENCE['text']} {' '.join(map(str, range(30)))}") == ["writes 58 words, the reference 28"]


def test_a_runtime_without_times_has_no_stretches() -> None:
    assert LongForm.of(REFERENCE | {"spans": []}).longest_gap_s is None
    assert unlike(spans=[]) == []


def test_clips_are_joined_until_they_are_long_enough(clips: Path, tmp_path: Path) -> None:
    found = load_clips(clips).clips
    built = long_clip(found, tmp_path)
    samples, rate = soundfile.read(built.path)
    assert len(samples) / rate == pytest.approx(built.duration_s)
    assert 300 <= built.duration_s < 330
    assert built.sha256 == long_clip(found, tmp_path).sha256 != long_clip(found[:1], tmp_path).sha256


def test_a_recording_that_is_long_enough_is_taken(clips: Path, tmp_path: Path) -> None:
    first, second, *_ = load_clips(clips).clips
    long = replace(second, duration_s=301.0)
    assert long_clip([first, long], tmp_path) is long
    assert list(tmp_path.iterdir()) == []
    assert 12 <= long_clip([first, second], tmp_path, 12.0).duration_s < 40
    assert long_clip([first, replace(second, duration_s=12.0)], tmp_path, 12.0).duration_s == 12.0


def test_a_file_whose_decoder_loops_is_told_apart_from_words(
    transcribe_cpp: object, tiny_en_bin: Path, clips: Path, tmp_path: Path
) -> None:
    """The end of a text is as unlikely as it was likely."""
    with open_model(tiny_en_bin) as model:
        embedding = model["decoder.token_embedding.weight"]
    content = bytearray(tiny_en_bin.read_bytes())
    place = embedding.location
    rows = np.frombuffer(content, np.uint8, place.size_bytes, place.offset).reshape(embedding.n_rows, -1)
    rows[50256, 1::2] ^= 0x80
    (tmp_path / "loops.bin").write_bytes(content)
    settings = EvaluationSettings(threads=1, cache=None, limit=1, inside=0, long_form=True, long_form_s=15.0)
    found = whisq.evaluate(tiny_en_bin, [tmp_path / "loops.bin"], clips, settings=settings)
    assert any("repeats itself" in said for said in found.models[1].long_form.unlike(found.reference.long_form))
    assert any("repeats itself" in said for said in remarks(found))
    assert from_json(to_json(found)) == found
