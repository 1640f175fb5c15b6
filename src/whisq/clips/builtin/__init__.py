"""Speech that comes with whisq: to calibrate on, and as much again, of other sentences and voices, to judge by.

The recordings and ``speech.json``, which says who says what when, were made by ``speech/make.py`` from free
synthesizers and sentences of our own (CC0-1.0); speech/README.md has the measurements behind them.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whisq.clips.clip import Clip, ClipSet, Sentence

if TYPE_CHECKING:
    from whisq.formats.special_tokens import SpecialTokens

FOLDER = Path(__file__).parent
SOURCE = "built-in speech"

Part = Literal["calibrate", "judge"]


@lru_cache(maxsize=1)
def _manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "speech.json").read_text("utf-8"))
    return found


def speech_version() -> str:
    """Return the version of the built-in speech: it changes with any byte of it."""
    return str(_manifest()["version"])


def builtin_clips(part: Part, special: SpecialTokens) -> ClipSet:
    """Return a half of the built-in speech, as far as a model knows its languages: English alone if it is English-only.

    A clip is a recording of up to 30 s with its ``sentences``; where they are of several languages, it has no language.
    """
    clips = []
    for recording in _manifest()["recordings"]:
        if recording["part"] != part:
            continue
        sentences = tuple(
            Sentence(said["start_s"], said["end_s"], said["language"], said["text"], said.get("translation", ""))
            for said in recording["sentences"]
            if knows(special, said["language"])
        )
        if not sentences:
            continue
        path = FOLDER / recording["file"]
        languages = {sentence.language for sentence in sentences}
        clips.append(
            Clip(
                id=path.stem,
                path=path,
                text=" ".join(sentence.text for sentence in sentences),
                language=languages.pop() if len(languages) == 1 else None,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                duration_s=recording["seconds"],
                sentences=sentences,
            )
        )
    return ClipSet(SOURCE, f"{SOURCE} {speech_version()}, {part}", tuple(clips))


def builtin_texts(special: SpecialTokens) -> list[tuple[str, str]]:
    """Return language and text of sentences that nobody speaks, as far as a model knows the languages."""
    return [(language, text) for language, text in _manifest()["texts"] if knows(special, language)]


def knows(special: SpecialTokens, language: str) -> bool:
    """Return whether a model transcribes a language."""
    return language in special.languages if special.languages else language == "en"
