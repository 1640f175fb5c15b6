"""Audio files to what Whisper takes: float32 samples, 16 kHz, one channel."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from whisq.clips.ffmpeg import ffmpeg_samples, is_for_ffmpeg
from whisq.errors import DataError
from whisq.system import READING

SAMPLE_RATE = 16_000
SUFFIXES = (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr")
"""What a folder is searched for; libsndfile decides by content what it can read, an installed ffmpeg reads the rest."""

SILENT_PEAK = 1e-3
"""Peak below which a clip counts as silent: -60 dBFS, 33 steps of 16-bit audio; a room's noise is above."""
SHORTEST_S = 0.1
"""whisper.cpp refuses audio shorter than this."""

LONGEST_S = 2 * 60 * 60
"""A clip is an utterance, or a recording: what claims to be longer is damaged, or should be cut into clips."""
_LOWEST_RATE, _HIGHEST_RATE = 4_000, 768_000
_PIECE_SAMPLES = 1 << 18
"""Of all channels together: what a header claims is never allocated."""
_UNKNOWN_LENGTH = 1 << 62

Samples = npt.NDArray[np.float32]


def open_audio(path: Path) -> io.BufferedIOBase:
    """Return an audio file, opened; raises ``OSError``, and ``DataError`` for what is not a regular file."""
    try:
        descriptor = os.open(path, READING)
    except ValueError:
        raise DataError("its name holds NUL") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"is not a regular file ({path})")
    return os.fdopen(descriptor, "rb")


def decode_audio(content: bytes | io.BufferedIOBase) -> Samples:
    """Return 16 kHz mono float32 samples of a wav, flac, ogg or mp3 file's content, or of one for ffmpeg.

    Channels are averaged, other rates resampled by soxr at its high quality. It is read in pieces until it ends,
    whatever its header says. Raises ``DataError`` when it is not audio, holds no samples, or holds NaN or infinity,
    when it is longer than ``LONGEST_S``, and when fewer samples are there than a flac counts.
    """
    try:
        with _forward_only(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
            pieces = list(_mono_pieces(file))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        if is_for_ffmpeg(content):
            return ffmpeg_samples(content, SAMPLE_RATE, LONGEST_S)
        reason = str(error).rpartition(": ")[2].rstrip(". ")
        raise DataError(f"not audio that libsndfile reads ({reason})", hint="use wav, flac, ogg or mp3") from None
    if not pieces:
        raise DataError("holds no samples")
    return np.concatenate(pieces)


def _forward_only(stream: io.BufferedIOBase) -> Any:
    """Return a file that libsndfile decodes, not to be sought in: after each read soundfile seeks to where it is.

    That fails where a flac says nothing, or nothing true, of its length.
    """

    class Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
        def seekable(self) -> bool:
            return False

    return Forward(stream)


def _piece(file: Any, channels: int, left: int) -> npt.NDArray[np.float32]:
    """Return the next samples ``[n, channels]``, none at the end; ``left`` are those that the file counts."""
    most = max(1, _PIECE_SAMPLES // channels)
    try:
        found: npt.NDArray[np.float32] = file.read(
            min(most, left) if left > 0 else most, dtype="float32", always_2d=True
        )
    except soundfile.LibsndfileError:
        if left != 0:
            raise
        # All are read; an ID3 tag, say, is behind them.
        return np.zeros((0, channels), np.float32)
    return found


def _mono_pieces(file: Any) -> Iterator[Samples]:
    """Yield what is left of a file as 16 kHz mono samples."""
    rate, channels, claimed = file.samplerate, file.channels, file.frames
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise DataError(f"has {rate} samples a second, expected {_LOWEST_RATE} to {_HIGHEST_RATE}")
    resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
    count, counts = 0, file.format == "FLAC" and claimed < _UNKNOWN_LENGTH
    while len(samples := _piece(file, channels, claimed - count if counts else _UNKNOWN_LENGTH)):
        count += len(samples)
        if count > LONGEST_S * rate:
            raise DataError(f"is longer than {LONGEST_S // 3600} hours", hint="cut it into clips")
        mono = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
        if not np.isfinite(mono).all():
            raise DataError("holds samples that are NaN or infinite")
        yield mono if resampler is None else resampler.resample_chunk(mono)
    if counts and count != claimed:
        raise DataError(f"is a flac that counts {claimed} samples, {count} are there: it was cut off, or is damaged")
    if resampler is not None and count:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
