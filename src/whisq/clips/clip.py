"""A clip: some audio and what is said in it. What can be wrong with one, and how it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path

from whisq.clips.arrow import arrow_audio
from whisq.clips.audio import SAMPLE_RATE, SHORTEST_S, SILENT_PEAK, Samples, decode_audio, open_audio
from whisq.errors import DataError

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
class Clip:
    """One utterance. ``row`` is set when ``path`` is an Arrow file and the audio is in that row of it.

    ``sha256`` (of the audio's bytes) and ``duration_s`` are filled in by ``check_clips``. ``sentences`` are there where
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

    def samples(self) -> Samples:
        """Return 16 kHz mono samples; raises ``DataError`` or ``OSError``."""
        return read_samples(self.path, self.row)


def read_samples(path: Path, row: int | None = None) -> Samples:
    """Return 16 kHz mono samples of an audio file or, with ``row``, of that row of an Arrow file.

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
    lines = "".join(f"\n  {problem}" for problem in problems)
    return DataError(f"{source}: {count} in the data:{lines}", hint=hint)


def check_clips(
    clips: Iterable[Clip], *, need_text: bool = True, on_clip: Callable[[Clip], None] = lambda clip: None
) -> tuple[list[Clip], list[Problem]]:
    """Return the usable clips, with hash and duration, and what is wrong with the others.

    A clip without a text is usable where ``need_text`` is false.
    """
    good: list[Clip] = []
    problems: list[Problem] = []
    for clip in clips:
        checked, reason = _check(clip, need_text)
        on_clip(clip)
        if reason:
            problems.append(Problem(clip.id, reason))
        else:
            good.append(checked)
    return good, problems


def _check(clip: Clip, need_text: bool) -> tuple[Clip, str]:
    if need_text and not clip.text.strip():
        return clip, "its text is empty"
    try:
        with _opened(clip.path, clip.row) as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            samples = decode_audio(stream)
    except OSError as error:
        return clip, f"audio missing: {error.strerror or error} ({clip.path})"
    except DataError as error:
        return clip, str(error)
    duration_s = samples.size / SAMPLE_RATE
    if duration_s < SHORTEST_S:
        return clip, f"{1000 * duration_s:.0f} ms of audio, too short to transcribe"
    peak = float(abs(samples).max())
    if peak < SILENT_PEAK:
        return clip, f"silent: no sample above {peak:.1g} of full scale"
    return replace(clip, sha256=sha256, duration_s=duration_s), ""
