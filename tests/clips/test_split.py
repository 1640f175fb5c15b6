"""What is judged by was not calibrated on: by speaker, by language, the same for the same seed."""

from dataclasses import replace
from pathlib import Path

import pytest

from whisq.clips.clip import Clip, ClipSet, Problem
from whisq.clips.split import split_clips
from whisq.errors import DataError


def clip_set(*clips: tuple[str, str | None, str | None, float]) -> ClipSet:
    made = [
        Clip(name, Path(f"{name}.wav"), "words", language, None, name, seconds, speaker)
        for name, language, speaker, seconds in clips
    ]
    return ClipSet("clips.csv", "csv manifest", tuple(made))


def speakers(clips: ClipSet) -> set[str | None]:
    return {clip.speaker for clip in clips.clips}


@pytest.mark.parametrize("seed", range(20))
def test_no_speaker_is_on_both_sides_and_nothing_is_lost(seed: int) -> None:
    data = clip_set(*[(f"{who}{n}", "en", who, 3.0 + n) for who in "abcdef" for n in range(4)])
    heard, judged = split_clips(data, seed=seed)
    assert not speakers(heard) & speakers(judged)
    assert sorted(clip.id for clip in heard.clips + judged.clips) == sorted(clip.id for clip in data.clips)
    assert judged.duration_s == pytest.approx(data.duration_s / 3)
    assert (heard, judged) == split_clips(data, seed=seed)
    assert heard.sha256 != judged.sha256


def test_another_seed_holds_back_other_speakers() -> None:
    data = clip_set(*[(f"{who}{n}", "en", who, 3.0) for who in "abcdef" for n in range(4)])
    assert len({frozenset(speakers(split_clips(data, seed=seed)[1])) for seed in range(20)}) > 5


def test_one_speaker_or_unnamed_speakers_are_split_by_clip() -> None:
    for data in (
        clip_set(*[(f"c{n}", None, "x", 2.0) for n in range(9)]),
        clip_set(*[(f"c{n}", None, "x" if n else None, 2.0) for n in range(9)]),
    ):
        heard, judged = split_clips(data)
        assert (len(heard.clips), len(judged.clips)) == (6, 3)


def test_every_language_is_on_both_sides() -> None:
    data = clip_set(*[(f"{code}{n}", code, None, 2.0) for code in ("de", "en", "es") for n in range(4)])
    for part in split_clips(data):
        assert {clip.language for clip in part.clips} == {"de", "en", "es"}


@pytest.mark.parametrize("seed", range(8))
def test_a_speaker_with_most_of_the_audio_is_calibrated_on(seed: int) -> None:
    data = clip_set(("long", "en", "a", 80.0), ("short", "en", "b", 5.0), ("other", "en", "c", 9.0))
    heard, judged = split_clips(data, seed=seed)
    assert "a" in speakers(heard)
    assert judged.clips


def test_where_every_speaker_is_too_much_the_one_of_least_audio_is_held_out() -> None:
    data = clip_set(("long", "en", "a", 70.0), ("short", "en", "b", 30.0))
    for seed in range(8):
        assert speakers(split_clips(data, judged=0.1, seed=seed)[1]) == {"b"}


def test_what_is_wrong_with_the_clips_is_told_once() -> None:
    lost = Problem("c9.wav", "is not audio")
    data = replace(clip_set(*[(f"c{n}", None, None, 2.0) for n in range(3)]), problems=(lost,))
    heard, judged = split_clips(data)
    assert (heard.problems, judged.problems) == ((), (lost,))


def test_a_single_clip_cannot_be_split() -> None:
    with pytest.raises(DataError, match="none can be held out"):
        split_clips(clip_set(("one", "en", None, 3.0)))
