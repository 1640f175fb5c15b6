"""A clip: some audio and what is said in it. What can be wrong with one, and how it is told."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from whisq.clips.arrow import arrow_audio
from whisq.clips.audio import SAMPLE_RATE, SHORTEST_S, SILENT_PEAK, Samples, decode_audio, open_audio
from whisq.errors import DataError

_SEGMENT_SLACK_S = 0.1
"""A manifest may round its times up by so much."""

_SHOWN_OF_A_KIND = 5
"""Problems of one kind that are told in full."""
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\d+")

BAD_HINT = "fix these, or leave them out of the measurement with --skip-bad (they are listed all the same)"


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is said in a part of a clip. ``translation`` is into English, empty where there is none."""

    start_s: float
    end_s: float
    language: str
    text: str
    translation: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a file: where it starts, and how long it is, None for all that follows. Seconds.

    ``or_whole``: a file as long as the part is that part, cut out before, and the start is where it was.
    """

    start_s: float
    duration_s: float | None = None
    or_whole: bool = field(default=False, repr=False)

    def cut(self, samples: Samples) -> Samples:
        """Return this part of 16 kHz samples; raises ``DataError`` where they end before it does."""
        if self.or_whole and self.duration_s is not None:
            longer_s = samples.size / SAMPLE_RATE - self.duration_s
            if abs(longer_s) <= _SEGMENT_SLACK_S:
                return samples
        start = round(self.start_s * SAMPLE_RATE)
        stop = samples.size if self.duration_s is None else start + round(self.duration_s * SAMPLE_RATE)
        if start >= samples.size or stop > samples.size + round(_SEGMENT_SLACK_S * SAMPLE_RATE):
            whole, first, last = (count / SAMPLE_RATE for count in (samples.size, start, stop))
            raise DataError(f"is {whole:.2f} s long, its part from {first:.2f} to {last:.2f} s is not in it")
        return samples[start:stop]


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance. ``row`` is set when ``path`` is a table and the audio is in that row of it.

    ``segment`` is the part of the audio that is meant, None for all of it. ``sha256`` (of the audio's bytes, and of the
    segment) and ``duration_s`` are filled in by ``check_clips``. ``sentences`` are there where
    it is known when what is said; they may be of several languages.
    """

    id: str
    path: Path
    text: str
    language: str | None = None
    row: int | None = None
    sha256: str = ""
    duration_s: float = 0.0
    speaker: str | None = None
    sentences: tuple[Sentence, ...] = ()
    segment: Segment | None = None

    def samples(self) -> Samples:
        """Return 16 kHz mono samples; raises ``DataError`` or ``OSError``."""
        return self.cut(read_samples(self.path, self.row))

    def cut(self, samples: Samples) -> Samples:
        """Return this clip's part of its audio's samples."""
        return samples if self.segment is None else self.segment.cut(samples)

    def place(self) -> dict[str, Any]:
        """Return where the audio is, for another process: what ``samples_at`` takes."""
        part = self.segment
        segment = None if part is None else (part.start_s, part.duration_s, part.or_whole)
        return {"path": str(self.path), "row": self.row, "segment": segment}


def samples_at(path: str, row: int | None, segment: Sequence[Any] | None) -> Samples:
    """Return the samples of a clip that another process has placed there. Raises as ``read_samples`` does."""
    samples = read_samples(Path(path), row)
    return samples if segment is None else Segment(*segment).cut(samples)


def read_samples(path: Path, row: int | None = None) -> Samples:
    """Return 16 kHz mono samples of an audio file or, with ``row``, of that row of a table.

    Raises ``DataError`` for what is not audio, ``OSError`` for what is not there.
    """
    with _opened(path, row) as stream:
        return decode_audio(stream)


def _opened(path: Path, row: int | None) -> BufferedIOBase:
    return open_audio(path) if row is None else arrow_audio(path, row)


@dataclass(frozen=True, slots=True)
class Problem:
    """One clip, line or file that cannot be used, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    @property
    def kind(self) -> str:
        """The reason without what differs from clip to clip: names, figures, what follows a colon."""
        return _PARTICULAR.sub("", self.reason.partition(":")[0])


@dataclass(frozen=True, slots=True)
class ClipSet:
    """The clips of some data in order, and all that was wrong with the rest."""

    source: str
    kind: str
    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds of audio together."""
        return sum(clip.duration_s for clip in self.clips)

    @property
    def sha256(self) -> str:
        """Return one hash for audio, texts and languages of all clips in order."""
        digest = hashlib.sha256()
        for clip in self.clips:
            digest.update(repr((clip.sha256, clip.text, clip.language)).encode())
            if clip.sentences:
                digest.update(repr(clip.sentences).encode())
        return digest.hexdigest()


def data_error(source: str | Path, problems: Sequence[Problem], *, hint: str = BAD_HINT) -> DataError:
    """Return the one error that lists all problems."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = "".join(f"\n  {line}" for line in problem_lines(problems))
    return DataError(f"{source}: {count} in the data:{lines}", hint=hint)


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each problem, and for many of one kind the first few and how many more there are."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    lines = []
    for alike in kinds.values():
        lines += [str(problem) for problem in alike[:_SHOWN_OF_A_KIND]]
        more = len(alike) - _SHOWN_OF_A_KIND
        if more > 0:
            lines.append(f"and {more} more like these")
    return lines


def check_clips(
    clips: Iterable[Clip], *, on_clip: Callable[[Clip], None] = lambda clip: None
) -> tuple[list[Clip], list[Problem]]:
    """Return the usable clips, with hash and duration, and what is wrong with the others."""
    good: list[Clip] = []
    problems: list[Problem] = []
    for clip in clips:
        checked, reason = _check(clip)
        on_clip(clip)
        if reason:
            problems.append(Problem(clip.id, reason))
        else:
            good.append(checked)
    return good, problems


def _check(clip: Clip) -> tuple[Clip, str]:
    try:
        with _opened(clip.path, clip.row) as stream:
            digest = hashlib.file_digest(stream, "sha256")
            stream.seek(0)
            samples = clip.cut(decode_audio(stream))
    except OSError as error:
        return clip, f"audio missing: {error.strerror or error} ({clip.path})"
    except DataError as error:
        return clip, str(error)
    duration_s = samples.size / SAMPLE_RATE
    if duration_s < SHORTEST_S:
        return clip, f"{1000 * duration_s:.0f} ms of audio, too short to transcribe"
    peak = float(abs(samples).max())
    if clip.text and peak < SILENT_PEAK:
        return clip, f"silent: no sample above {peak:.1g} of full scale"
    if clip.segment is not None:
        digest.update(repr(clip.segment).encode())
    return replace(clip, sha256=digest.hexdigest(), duration_s=duration_s), ""
