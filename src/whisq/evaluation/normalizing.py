"""Texts as they are compared: what says the same in a language becomes the same text.

English has the rules of Whisper's paper. All other languages have its basic rules (PyPI: whisper-normalizer), whose
combining marks are kept, as the multilingual normalizer of the Open ASR leaderboard keeps them; what those rules leave
apart although nobody hears it is joined here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})
"""Languages written without spaces between words: every character counts as a word, as in Whisper's paper, and a space
counts as nothing."""

_TURKIC = frozenset({"tr", "az"})
"""Languages in which I without a dot and İ with one are two letters, in both cases."""

_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew accents and vowel points
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08d3-\u08e1\u08e3-\u08ff"
    "\u0640]"  # the stroke that only makes an Arabic word longer
)
"""What Hebrew and Arabic script may show and mostly does not: vowels, doubling, signs of recitation."""

_UNHEARD = re.compile("[\ufe00-\ufe0f\u20e3\u034f\u115f\u1160\u17b4\u17b5\u3164]")
"""Marks and fillers that choose how a character looks."""

_DECOMPOSED_AM = (("\u0e4d\u0e32", "\u0e33"), ("\u0ecd\u0eb2", "\u0eb3"))
"""The vowel am of Thai and Lao, one letter to whoever writes, which Unicode's compatibility form takes apart."""

_GROUPED = re.compile(r"(?<!\d)(\d{1,3})((?: \d{3})+)(?!\d)")
"""A number in groups of three digits, its commas, points or thin spaces already spaces."""


@lru_cache(maxsize=4096)  # what is said is compared with what each of several models wrote
def normalize(text: str, language: str | None) -> str:
    """Return the text as it is compared, with one space between words; English where no language is told.

    Beyond Whisper's rules, in all languages but English: vowel signs and other combining marks stay; points of Hebrew
    and Arabic script, joiners and other characters without a sound go; every script's digits become 0 to 9, and digits
    in groups of three one number; Turkish and Azerbaijani keep both of their letters I.
    """
    language = language or "en"
    if language == "en":
        return " ".join(str(_english()(_silent(text))).split())
    if language in _TURKIC:
        text = text.replace("I", "ı")
    # Lower case by Unicode makes two characters of it, a mark among them.
    found = str(_basic()(_silent(text.replace("İ", "i"))))
    found = _POINTS.sub("", found)
    for apart, together in _DECOMPOSED_AM:
        found = found.replace(apart, together)
    found = " ".join(_western_digits(found).split())
    if language in SPACELESS:
        return " ".join(_graphemes(found))
    return _GROUPED.sub(lambda number: number[1] + number[2].replace(" ", ""), found)


def characters(normalized: str, language: str | None) -> str:
    """Return the text whose characters are counted: a normalized one, without spaces where the language has none."""
    return normalized.replace(" ", "") if language in SPACELESS else normalized


def _silent(text: str) -> str:
    """Return the text without characters that have no sound and no width: joiners, directions, soft hyphens."""
    kept = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return _UNHEARD.sub("", kept)


def _western_digits(text: str) -> str:
    return "".join(
        str(unicodedata.decimal(character)) if unicodedata.category(character) == "Nd" else character
        for character in text
    )


def _graphemes(text: str) -> list[str]:
    import regex

    return [found for found in regex.findall(r"\X", text) if not found.isspace()]


@cache
def _english() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


@cache
def _basic() -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=True)
