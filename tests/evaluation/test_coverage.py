"""What audio says nothing about: other languages than it is in, and longer recordings than it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.support.evaluations import made_evaluation
from whisq.clips.builtin import SOURCE
from whisq.clips.clip import Clip, ClipSet, Sentence
from whisq.evaluation.coverage import audio_lines, coverage_lines, lines_of_clips
from whisq.evaluation.long_form import LongForm
from whisq.evaluation.results_json import from_json, to_json
from whisq.report.texts import markdown_text, terminal_lines

SHORT = "No clip is longer than 30 s: it says nothing of long recordings, heard window by window."


def with_model(evaluation, index, **changed):
    models = list(evaluation.models)
    models[index] = replace(models[index], **changed)
    return replace(evaluation, models=tuple(models))


def test_an_evaluation_says_it_everywhere() -> None:
    asked = replace(made_evaluation(), settings={**made_evaluation().settings, "language": "German"})
    told = audio_lines(asked)
    assert told == ["No clip is in the language asked for (de): the data says en.", SHORT]
    assert set(told) <= set(terminal_lines(asked))
    assert told[1] in markdown_text(asked)
    assert json.loads(to_json(asked))["audio"] == told
    assert audio_lines(from_json(to_json(asked))) == told


def test_languages_that_were_not_heard() -> None:
    many = with_model(made_evaluation(), 0, n_languages=99)
    assert audio_lines(many)[0].startswith("Heard in en only, of 99 languages that the model knows")
    assert coverage_lines([("de", 60.0), (None, 5.0)], 99)[0].startswith("Heard in de, en only, of 99")
    assert coverage_lines([("de", 60.0), (None, 5.0)], 2) == []
    assert coverage_lines([], 99, asked="fi") == [], "nothing was heard"


def test_speech_in_another_language_than_it_was_taken_for() -> None:
    made = made_evaluation()
    as_german = [replace(one, heard="de") for one in made.models[1].inside]
    german = with_model(made, 1, inside=tuple(as_german))
    (told,) = [line for line in audio_lines(german) if "Taken for" in line]
    assert told.startswith(f"Taken for en, but the model hears de in {len(as_german)} of {len(as_german)} pieces")
    mixed = [("en", "de"), ("en", "de"), ("en", "de"), ("en", "en"), ("en", "en"), ("en", "en"), ("es", "es")]
    assert coverage_lines([("en", 60.0)], 1, heard=mixed) == [], "half of the pieces or less is chance"
    (told,) = coverage_lines([("en", 60.0)], 1, heard=[*mixed, ("en", "de")])
    assert "hears de in 4 of 7 pieces" in told
    assert coverage_lines([("en", 60.0)], 1, heard=[("en", "th")] * 2) == [], "so few are chance, too"
    # In three other languages each, no single one is the speech's.
    assert coverage_lines([("en", 60.0)], 1, heard=[("en", "de"), ("en", "fr"), ("en", "nl")]) == []


def test_lengths() -> None:
    made = made_evaluation()
    longer = tuple(replace(clip, duration_s=60.0) for clip in made.data.clips)
    assert audio_lines(replace(made, data=replace(made.data, clips=longer))) == []
    built = with_model(made, 0, long_form=LongForm(300.0, 700, 0, 1.0, "many words"))
    (told,) = audio_lines(built)
    assert told.startswith("The recording of 5 min was built of clips of ")
    assert "again and again" in told
    assert coverage_lines([("en", 400.0)], 1, long_form_s=400.0) == []
    assert "again" not in coverage_lines([("en", 25.0)] * 20, 1, long_form_s=300.0)[0]


def test_clips_are_in_the_languages_of_their_sentences() -> None:
    said = (Sentence(0.0, 5.0, "de", "eins"), Sentence(6.0, 20.0, "en", "two"))
    clips = ClipSet("mine", "folder", (Clip("a", Path("a.wav"), "eins two", duration_s=60.0, sentences=said),))
    assert lines_of_clips(clips, 2, asked="de") == []
    assert lines_of_clips(clips, 3)[0].startswith("Heard in de, en only, of 3 languages")
    heard = [("de", "la")] * 5
    assert "hears la in 5 of 5 pieces" in lines_of_clips(clips, 2, heard=heard)[0]
    assert lines_of_clips(replace(clips, source=SOURCE), 2, heard=heard) == [], "what is built in is what it says"
