"""Split clips into those to calibrate on and those held out for evaluation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from whisq.clips.clip import Clip, ClipSet
from whisq.errors import DataError

JUDGED_SHARE = 1 / 3


def split_clips(clips: ClipSet, *, judged: float = JUDGED_SHARE, seed: int = 0) -> tuple[ClipSet, ClipSet]:
    """Return the clips to calibrate on, and those to judge by: about that share of the audio, at least one clip each.

    Each language is split on its own: by speaker where all its clips name one and there are several, else by clip.
    The same clips and seed give the same split. A language of one clip is calibrated on only.
    Raises ``DataError`` when nothing can be held out.
    """
    by_language: dict[str, list[Clip]] = {}
    for clip in clips.clips:
        by_language.setdefault(clip.language or "en", []).append(clip)
    held: set[str] = set()
    generator = random.Random(seed)
    for language in sorted(by_language):
        held |= _held_out(by_language[language], judged, generator)
    if not held:
        raise DataError(
            f"{clips.source}: {len(clips.clips)} clips, of which none can be held out for evaluation",
            hint="give two clips or more of a language; about 60, of several speakers, are good",
        )
    parts = (
        (f"{clips.kind}, the part to calibrate on", [clip for clip in clips.clips if clip.id not in held]),
        (f"{clips.kind}, the part held out", [clip for clip in clips.clips if clip.id in held]),
    )
    first, second = (replace(clips, kind=kind, clips=tuple(part)) for kind, part in parts)
    return replace(first, problems=()), second


def _held_out(clips: Sequence[Clip], share: float, generator: random.Random) -> set[str]:
    speakers = {clip.speaker for clip in clips}
    by_speaker = None not in speakers and len(speakers) > 1
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(str(clip.speaker) if by_speaker else clip.id, []).append(clip)
    names = sorted(groups)
    generator.shuffle(names)
    wanted = share * sum(clip.duration_s for clip in clips)
    seconds = {name: sum(clip.duration_s for clip in groups[name]) for name in names}
    held: list[str] = []
    for name in names:
        # The group that crosses the line is taken only if that is nearer.
        missing = wanted - sum(seconds[taken] for taken in held)
        if seconds[name] < 2 * missing:
            held.append(name)
    if not held and len(names) > 1:
        held = [min(names, key=lambda name: seconds[name])]
    return {clip.id for name in held for clip in groups[name]}
