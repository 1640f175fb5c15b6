"""Edits between what was said and what a model wrote, in words and in characters.

Counted by jiwer in normalized texts. Only counts leave this module: rates are made of sums of them, never of means of
rates.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from whisq.evaluation.normalizing import characters, normalize

LONGEST_PERIOD = 24
"""Words in the longest repeated phrase looked for: loops of Whisper repeat a word, a phrase or a sentence."""
FEWEST_COPIES = 3
FEWEST_WORDS = 6
"""Speech rarely says one thing three times running over six words or more; a loop does."""


@dataclass(frozen=True, slots=True)
class Edits:
    """Counts of one utterance. ``runaway`` insertions (loops) are not among ``insertions``.

    ``words`` and ``characters`` are the reference's; ``character_edits`` is all edits of characters together. Spaces
    count as characters in languages that have them between words. ``invented`` are the words written of a clip in which
    nothing is said; they are in no other count.
    """

    words: int
    substitutions: int
    deletions: int
    insertions: int
    runaway: int
    characters: int
    character_edits: int
    invented: int = 0

    @property
    def word_edits(self) -> int:
        """All edits of words together, runaway repetition included."""
        return self.substitutions + self.deletions + self.insertions + self.runaway


@lru_cache(maxsize=4096)  # models of one evaluation often write the same
def count_edits(said: str, written: str, language: str | None) -> Edits:
    """Return the edits that turn what was said into what a model wrote, both normalized here.

    Where nothing was said all counts are 0 but that of invented words.
    """
    import jiwer

    reference, hypothesis = normalize(said, language), normalize(written, language)
    if not reference:
        return Edits(0, 0, 0, 0, 0, 0, 0, invented=len(hypothesis.split()))
    words = jiwer.process_words(reference, hypothesis)
    letters = jiwer.process_characters(characters(reference, language), characters(hypothesis, language))
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
        characters=letters.hits + letters.substitutions + letters.deletions,
        character_edits=letters.substitutions + letters.deletions + letters.insertions,
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


def repeated_marks(text: str) -> int:
    """Return how many marks of a text as it was written repeat others over and over: a loop may be of points alone.

    Marks are what is neither a letter nor a digit, whether spaces stand between them or not. The rule is that of words:
    ``...`` is none, ``. . . . . .`` and ``?!?!?!`` are. Normalizing drops marks, so no error rate counts them.
    """
    return sum(len(repeated_words(list(run.replace(" ", "")))) for run in _runs_of_marks(text))


def _runs_of_marks(text: str) -> list[str]:
    # Vowel signs of some scripts are no letters by themselves, and belong to words.
    return "".join(c if c.isspace() or unicodedata.category(c)[0] in "PS" else "\0" for c in text).split("\0")
