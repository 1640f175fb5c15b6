"""What audio says nothing about: told beside the figures that were measured on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from whisq.clips.builtin import SOURCE
from whisq.clips.clip import ClipSet
from whisq.clips.languages import whisper_language
from whisq.evaluation.results import Evaluation
from whisq.units import duration

WINDOW_S = 30.0
"""Whisper hears that much at once; longer recordings are taken window by window."""

FEWEST = 3
"""Pieces that are heard in one other language, to be told: base hears Latin or Thai in single sentences of Spanish and
French from a synthesizer."""


def coverage_lines(
    spoken: Iterable[tuple[str | None, float]],
    n_languages: int,
    *,
    asked: str | None = None,
    heard: Sequence[tuple[str, str]] = (),
    long_form_s: float | None = None,
) -> list[str]:
    """Return what some audio says nothing about: the language that was asked for, other languages, long recordings.

    ``spoken`` are the language of each clip and its length in seconds, ``n_languages`` how many the model knows.
    ``heard`` are pairs of the language that a piece was taken for and the one that the model hears in it. Where a long
    recording was heard, ``long_form_s`` is its length.
    """
    clips = list(spoken)
    if not clips:
        return []
    return [
        *_taken_for_another(heard),
        *_languages({language or "en" for language, _ in clips}, n_languages, asked),
        *_length([seconds for _, seconds in clips], long_form_s),
    ]


def audio_lines(evaluation: Evaluation) -> list[str]:
    """Return what the audio of an evaluation says nothing about."""
    language_of = {clip.id: clip.language or "en" for clip in evaluation.data.clips}
    inside = next((model.inside for model in evaluation.candidates if model.inside), ())
    long_form, asked = evaluation.reference.long_form, evaluation.settings.get("language")
    return coverage_lines(
        [(clip.language, clip.duration_s) for clip in evaluation.data.clips if clip.text],
        evaluation.reference.n_languages,
        asked=whisper_language(asked) or asked if asked else None,
        heard=[(language_of[one.clip], one.heard) for one in inside if one.heard and one.clip in language_of],
        long_form_s=long_form.duration_s if long_form else None,
    )


def lines_of_clips(
    clips: ClipSet, n_languages: int, *, asked: str | None = None, heard: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """Return what clips say nothing about, each in the languages of its sentences where those are known.

    The built-in speech is in the languages that it says: what a model hears in it is the model's.
    """
    spoken: list[tuple[str | None, float]] = []
    for clip in clips.clips:
        languages: set[str | None] = {said.language for said in clip.sentences}
        spoken += [(language, clip.duration_s) for language in languages or {clip.language}]
    return coverage_lines(spoken, n_languages, asked=asked, heard=() if clips.source == SOURCE else heard)


def _languages(spoken: set[str], n_languages: int, asked: str | None) -> list[str]:
    told = ", ".join(sorted(spoken))
    if asked and asked not in spoken:
        return [f"No clip is in the language asked for ({asked}): the data says {told}."]
    if n_languages > len(spoken):
        return [f"Heard in {told} only, of {n_languages} languages that the model knows: others may lose more."]
    return []


def _taken_for_another(heard: Sequence[tuple[str, str]]) -> list[str]:
    """Return the languages that most of the pieces taken for them are not in, as the model hears it.

    A few pieces say nothing: a word or two, a name or an accent are heard as another language.
    """
    told = []
    for language, all_of_it in sorted(Counter(taken for taken, _ in heard).items()):
        others = Counter(other for taken, other in heard if taken == language and other != language)
        for other, count in others.most_common(1):
            if count >= FEWEST and 2 * count > all_of_it:
                told.append(
                    f"Taken for {language}, but the model hears {other} in {count} of {all_of_it} pieces: figures for"
                    " text in another language say little. Name the language in the data, or with --language."
                )
    return told


def _length(seconds: Sequence[float], long_form_s: float | None) -> list[str]:
    longest = max(seconds)
    if long_form_s is None:
        if longest > WINDOW_S:
            return []
        return [f"No clip is longer than {WINDOW_S:.0f} s: it says nothing of long recordings, heard window by window."]
    if longest >= long_form_s:
        return []
    again = ", again and again" if sum(seconds) < long_form_s else ""
    return [
        f"The recording of {duration(long_form_s)} was built of clips of {longest:.0f} s at most{again}: speech that"
        " goes on may behave otherwise."
    ]
