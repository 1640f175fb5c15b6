"""Audio files to what Whisper takes: float32 samples, 16 kHz, one channel."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from whisq.errors import DataError

SAMPLE_RATE = 16_000
SUFFIXES = (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3")
"""What a folder is searched for; libsndfile decides by content what it can read."""

SILENT_PEAK = 1e-3
"""Peak below which a clip counts as silent: -60 dBFS, 33 steps of 16-bit audio; a room's noise is above."""
SHORTEST_S = 0.1
"""whisper.cpp refuses audio shorter than this."""

Samples = npt.NDArray[np.float32]


def decode_audio(content: bytes) -> Samples:
    """Return 16 kHz mono float32 samples of a wav, flac, ogg or mp3 file's content.

    Channels are averaged, other rates resampled by soxr at its high quality. Raises ``DataError`` when it
    is not audio, holds no samples, or holds NaN or infinity.
    """
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).rpartition(": ")[2].rstrip(". ")
        raise DataError(f"not audio that libsndfile reads ({reason})", hint="use wav, flac, ogg or mp3") from None
    mono = samples.mean(axis=1, dtype=np.float32)
    if mono.size == 0:
        raise DataError("holds no samples")
    if not np.isfinite(mono).all():
        raise DataError("holds samples that are NaN or infinite")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)
