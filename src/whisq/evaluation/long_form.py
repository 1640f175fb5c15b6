"""One long recording in every model: what clips of a few seconds do not show.

A file can be fine for eleven seconds and collapse after two minutes: it repeats itself, falls silent, or stops. Where
the reference does not, that is no error of words but a class of its own, and told apart from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from whisq.clips.audio import SAMPLE_RATE
from whisq.clips.clip import Clip
from whisq.evaluation.scoring import FEWEST_WORDS, repeated_marks, repeated_words

LONG_S = 300.0
"""Five minutes: damage was seen to show after two."""
PAUSE_S = 0.5
"""Silence between clips that are joined."""
HALF_WINDOW_S = 15.0
"""Whisper hears 30 s at a time and goes on from its last timestamp: what it drops is half a window on average."""
LENGTH = 1.5
"""Times as many words, or that part of them, as the reference writes."""


@dataclass(frozen=True, slots=True)
class LongForm:
    """What a model wrote of one long recording.

    ``looping`` counts words of phrases, and marks, that it repeats over and over, ``longest_gap_s`` is the longest
    stretch of audio for which it wrote nothing, None where the runtime tells no times.
    """

    duration_s: float
    words: int
    looping: int
    longest_gap_s: float | None
    text: str

    @classmethod
    def of(cls, reply: dict[str, Any]) -> LongForm:
        """Return what a worker's reply says."""
        written = reply["text"].split()
        spans, duration_s = reply.get("spans") or [], float(reply["audio_s"])
        gap_s = _longest_gap_s(spans, duration_s) if spans or not written else None
        words = [word for word in written if any(map(str.isalnum, word))]
        looping = len(repeated_words(words)) + repeated_marks(reply["text"])
        return cls(duration_s, len(written), looping, gap_s, reply["text"])

    def unlike(self, reference: LongForm) -> Iterator[str]:
        """Yield what this model does and the reference does not."""
        if self.looping >= reference.looping + FEWEST_WORDS:
            yield f"repeats itself ({self.looping} words, the reference {reference.looping})"
        mine, theirs = self.longest_gap_s, reference.longest_gap_s
        if mine is not None and theirs is not None and mine > theirs + HALF_WINDOW_S:
            yield f"writes nothing for {mine:.0f} s (the reference for {theirs:.0f} s at most)"
        if not reference.words / LENGTH <= self.words <= reference.words * LENGTH:
            yield f"writes {self.words} words, the reference {reference.words}"


def _longest_gap_s(spans: Sequence[Sequence[float]], duration_s: float) -> float:
    longest, heard = 0.0, 0.0
    for start, end in sorted((float(one[0]), float(one[1])) for one in spans):
        longest, heard = max(longest, start - heard), max(heard, end)
    return max(longest, duration_s - heard)


def long_clip(clips: Sequence[Clip], folder: Path, least_s: float = LONG_S) -> Clip:
    """Return a clip of ``least_s`` at least: the first that is, or one built of the others, written in ``folder``.

    Clips of the language that most of them are in are joined in order, again from the first where they are too few.
    """
    for clip in clips:
        if clip.duration_s >= least_s:
            return clip
    import numpy as np
    import soundfile

    languages = [clip.language for clip in clips]
    language = max(dict.fromkeys(languages), key=languages.count)
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    parts, size = [], 0
    for clip in cycle([clip for clip in clips if clip.language == language]):
        parts += [clip.samples(), pause]
        size += len(parts[-2]) + len(pause)
        if size >= least_s * SAMPLE_RATE:
            break
    samples = np.concatenate(parts)
    path = folder / "long.wav"
    soundfile.write(path, samples, SAMPLE_RATE)
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    built = replace(clips[0], id="a long recording", path=path, text="", language=language, sha256=digest)
    return replace(built, row=None, segment=None, duration_s=size / SAMPLE_RATE)
