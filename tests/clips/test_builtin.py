"""The built-in speech: there, small, readable, in the languages it says, and two halves that share nothing."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.containers import write_huggingface
from tests.support.models import tiny_weights
from whisq.clips import builtin
from whisq.clips.audio import SAMPLE_RATE
from whisq.clips.builtin import builtin_clips, builtin_texts, speech_version
from whisq.formats.special_tokens import LANGUAGES, SpecialTokens, special_tokens

SENTENCES = Path(__file__).parents[2] / "speech" / "sentences.tsv"
MOST_BYTES = 400_000
PARTS = ("calibrate", "judge")
WORDS = {
    "en": "the a is of and you what please", "de": "mir ich mein am immer", "es": "vamos con dónde para el",
    "fr": "le nous ma dans une", "it": "ho il per dal", "pt": "o que ontem na", "nl": "de het een mijn",
    "pl": "proszę w od jest", "tr": "bu istiyorum saat hafta", "sv": "och på vi min om",
}  # fmt: skip
"""Some words of each language that is written in Latin letters."""
SCRIPTS = {"ru": "а-яё", "hi": "\u0900-\u097f", "zh": "\u4e00-\u9fff"}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> SpecialTokens:
    """The special tokens of a model that knows every language."""
    with whisq.open_model(write_huggingface(tmp_path_factory.mktemp("hf") / "hf", tiny_weights())) as model:
        return replace(special_tokens(model), languages={code: number for number, code in enumerate(LANGUAGES)})


def said(known: SpecialTokens, part: builtin.Part) -> list[tuple[str, str]]:
    return [(one.language, one.text) for clip in builtin_clips(part, known).clips for one in clip.sentences]


def test_all_of_it_is_small() -> None:
    files = [path for path in builtin.FOLDER.iterdir() if path.suffix not in (".py", ".pyc") and path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    listed = {entry["file"] for entry in builtin._manifest()["recordings"]}
    assert {path.name for path in files} == {*listed, "speech.json"}


@pytest.mark.parametrize("part", PARTS)
def test_every_recording_can_be_read_and_is_as_long_as_it_says(known: SpecialTokens, part: builtin.Part) -> None:
    clips = builtin_clips(part, known)
    assert 60 <= clips.duration_s <= 120
    for clip in clips.clips:
        samples = clip.samples()
        assert samples.size / SAMPLE_RATE == pytest.approx(clip.duration_s, abs=0.01)
        assert clip.duration_s <= 30
        ends = [0.0, *(one.end_s for one in clip.sentences)]
        assert [one.start_s for one in clip.sentences] == ends[:-1]
        assert ends[-1] == pytest.approx(clip.duration_s, abs=0.02)
        for one in clip.sentences:
            piece = samples[int(one.start_s * SAMPLE_RATE) : int(one.end_s * SAMPLE_RATE)]
            assert 0.03 < np.abs(piece).max() < 1.1
            assert 5 <= len(one.text) / (one.end_s - one.start_s) * (3 if one.language == "zh" else 1) <= 25


def test_the_two_halves_share_no_sentence_and_no_voice(known: SpecialTokens) -> None:
    texts = {part: {text for _, text in said(known, part)} for part in PARTS}
    read = {text for _, text in builtin_texts(known)}
    assert not texts["calibrate"] & texts["judge"]
    assert not read & texts["judge"]
    voices = {
        part: {
            one["voice"]
            for recording in builtin._manifest()["recordings"]
            if recording["part"] == part
            for one in recording["sentences"]
        }
        for part in PARTS
    }
    assert len(voices["calibrate"]) >= 10
    # Not a synthesizer's variant either, whatever the language.
    speakers = {part: {re.split(r"[:+]", voice)[-1] for voice in found} for part, found in voices.items()}
    assert not speakers["calibrate"] & speakers["judge"]


@pytest.mark.parametrize("part", PARTS)
def test_transcripts_are_in_their_languages_and_most_is_english(known: SpecialTokens, part: builtin.Part) -> None:
    found = said(known, part)
    languages = [language for language, _ in found]
    assert len(set(languages)) >= 13
    assert 0.4 <= languages.count("en") / len(languages) <= 0.6
    for language, text in found:
        if language in SCRIPTS:
            assert re.search(f"[{SCRIPTS[language]}]{{2}}", text), text
        else:
            assert {*WORDS[language].split()} & {*re.findall(r"\w+", text.lower())} or language == "en", text
            assert re.fullmatch(r"[^\u0370-\uffff]+", text.replace("’", "'")), text


def test_an_english_only_model_gets_english_only(known: SpecialTokens) -> None:
    english = replace(known, languages={})
    for part in PARTS:
        clips = builtin_clips(part, english).clips
        assert clips
        assert {clip.language for clip in clips} == {"en"}
        assert {one.language for clip in clips for one in clip.sentences} == {"en"}
    assert {language for language, _ in builtin_texts(english)} == {"en"}


def test_a_model_gets_the_languages_that_it_knows(known: SpecialTokens) -> None:
    some = replace(known, languages={"de": 1, "hi": 2})
    assert {language for language, _ in said(some, "calibrate")} == {"de", "hi"}
    assert {language for language, _ in builtin_texts(some)} == {"de", "hi"}
    assert not builtin_clips("calibrate", replace(known, languages={"xx": 1})).clips


def test_it_is_made_of_our_sentences(known: SpecialTokens) -> None:
    with SENTENCES.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    for part in PARTS:
        assert sorted(said(known, part)) == sorted((r["language"], r["text"]) for r in rows if r["part"] == part)
    assert builtin_texts(known) == [(r["language"], r["text"]) for r in rows if r["part"] == "text"]
    assert len({row["text"] for row in rows}) == len(rows)


def test_it_is_the_same_each_time_and_its_hash_knows_its_sentences(known: SpecialTokens) -> None:
    first, again = builtin_clips("calibrate", known), builtin_clips("calibrate", known)
    assert first.sha256 == again.sha256
    assert first.sha256 != builtin_clips("judge", known).sha256
    clip = first.clips[0]
    other = replace(clip, sentences=(replace(clip.sentences[0], end_s=1.0), *clip.sentences[1:]))
    assert replace(first, clips=(other, *first.clips[1:])).sha256 != first.sha256
    assert speech_version() in first.kind
