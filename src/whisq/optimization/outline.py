"""How long the stages of optimizing take compared with each other: the time left for all of them follows from it.

The figures are seconds of processor time for tiny.en with the built-in speech, on one core with AVX2 (AMD EPYC, Zen 2).
With a larger model or more speech all of them grow together, and only their ratios are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whisq.clips.clip import Clip
from whisq.optimization.choices import Choices, evenly
from whisq.quantization.rounding import METHODS

_CALIBRATING = {"calibrating": 35.0}
_ROUNDING = "rounding"
_SEARCHING = {
    _ROUNDING: 12.0,
    "measuring matrices": 39.0,
    "measuring mixes": 10.0,
    "measuring searched mixes": 2.0,
}
_TYPES = 7
"""So many took part in that search."""
_LISTENING_PER_S = 0.25
_MEASURING_PER_FILE, _MEASURING_PER_S = 1.5, 0.02
"""Rounding a file, of which a third have feedback, which takes most of this; and hearing a second with it."""
_WRITING, _CHECKING = 2.0, 8.0
_TRANSCRIBING_PER_S = 0.15
_TRANSCRIBED_FILES = 4


def stages_of(
    choices: Choices, clips: Sequence[Clip], most_clips: int, name: str, *, evaluates: bool
) -> Mapping[str, float]:
    """Return the stages of optimizing by name, in order, with how long each takes compared with the others.

    ``clips`` judge, ``most_clips`` of them at most are measured inside; the file is called ``name``.
    """
    stages = dict(_CALIBRATING)
    n_files = len(choices.recipes) * len(METHODS)
    heard_s = sum(clip.duration_s for clip in evenly(clips, most_clips))
    if choices.space is not None:
        stages |= _SEARCHING
        stages[_ROUNDING] *= len(choices.space.block_types) / _TYPES
        n_files += 1
    stages["listening to the source"] = _LISTENING_PER_S * heard_s
    stages["measuring files"] = n_files * (_MEASURING_PER_FILE + _MEASURING_PER_S * heard_s)
    stages[f"writing {name}"] = _WRITING
    stages["checking the file"] = _CHECKING
    if evaluates:
        spoken_s = sum(clip.duration_s for clip in clips)
        stages["transcribing"] = _TRANSCRIBING_PER_S * spoken_s * _TRANSCRIBED_FILES
    return stages
