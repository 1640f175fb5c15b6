"""Edits between what was said and what a model wrote, in words and in characters.

Counted by jiwer after Whisper's own text normalizer (PyPI: whisper-normalizer). Only counts leave this
module: rates are made of sums of them, never of means of rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

LONGEST_PERIOD = 24
"""Words in the longest repeated phrase looked for: loops of Whisper repeat a word, a phrase or a sentence."""
FEWEST_COPIES = 3
FEWEST_WORDS = 6
"""Speech rarely says one thing three times running over six words or more; a loop does."""

_SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})
"""Languages written without spaces: every character counts as a word, as in Whisper's paper."""


@dataclass(frozen=True, slots=True)
class Edits:
    """Counts of one utterance. ``runaway`` insertions (loops) are not among ``insertions``.

    ``words`` and ``characters`` are the reference's; ``character_edits`` is all edits of characters together.
    """

    words: int
    substitutions: int
    deletions: int
    insertions: int
    runaway: int
    characters: int
    character_edits: int

    @property
    def word_edits(self) -> int:
        """All edits of words together, runaway repetition included."""
        return self.substitutions + self.deletions + self.insertions + self.runaway


@cache
def _normalizer(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    if language == "en":
        return EnglishTextNormalizer()
    return BasicTextNormalizer(split_letters=language in _SPACELESS)


def normalize(text: str, language: str | None) -> str:
    """Return the text as Whisper's normalizer leaves it: its English rules for English, else the basic."""
    return " ".join(str(_normalizer(language or "en")(text)).split())


def count_edits(said: str, written: str, language: str | None) -> Edits:
    """Return the edits that turn what was said into what a model wrote, both normalized here."""
    import jiwer

    reference, hypothesis = normalize(said, language), normalize(written, language)
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    inserted = [
        index
        for chunk in words.alignments[0]
        if chunk.type == "insert"
        for index in range(chunk.hyp_start_idx, chunk.hyp_end_idx)
    ]
    repeated = repeated_words(hypothesis.split())
    runaway = sum(index in repeated for index in inserted)
    return Edits(
        words=words.hits + words.substitutions + words.deletions,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions - runaway,
        runaway=runaway,
        characters=characters.hits + characters.substitutions + characters.deletions,
        character_edits=characters.substitutions + characters.deletions + characters.insertions,
    )


def repeated_words(words: list[str]) -> set[int]:
    """Return the positions of words that repeat a phrase over and over, its first copy left out.

    A phrase of up to ``LONGEST_PERIOD`` words counts when it stands at least ``FEWEST_COPIES`` times in a row
    and at least ``FEWEST_WORDS`` words long. Only inserted words among them are runaway: a chant that was
    really said is matched by the reference.
    """
    repeated: set[int] = set()
    for period in range(1, min(LONGEST_PERIOD, len(words) // FEWEST_COPIES) + 1):
        start = 0
        while start < len(words) - period:
            stop = start + period
            while stop < len(words) and words[stop] == words[stop - period]:
                stop += 1
            if stop - start >= max(FEWEST_COPIES * period, FEWEST_WORDS):
                repeated.update(range(start + period, stop))
            start = max(start + 1, stop - period + 1)
    return repeated
