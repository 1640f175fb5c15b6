"""Audio that libsndfile does not read, m4a and aac above all: through an installed ffmpeg."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from whisq.errors import DataError

_SIGNATURES = (
    (4, b"ftyp"),  # MPEG-4: m4a, mp4
    (0, b"\xff\xf1"), (0, b"\xff\xf9"),  # AAC in ADTS
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"\x30\x26\xb2\x75"),  # ASF: wma
    (0, b"#!AMR"),
)  # fmt: skip
"""Where and how the files begin that are given to ffmpeg; no others are."""

_PIECE_BYTES = 1 << 20


def is_for_ffmpeg(content: bytes | IO[bytes] | io.BufferedIOBase) -> bool:
    """Return whether a file begins like one that ffmpeg reads and libsndfile does not."""
    if isinstance(content, bytes):
        start = content[:16]
    else:
        content.seek(0)
        start = content.read(16)
        content.seek(0)
    return any(start[at : at + len(magic)] == magic for at, magic in _SIGNATURES)


def ffmpeg_samples(content: bytes | io.BufferedIOBase, rate: int, longest_s: int) -> npt.NDArray[np.float32]:
    """Return the first audio stream as mono float32 samples at a rate.

    Raises ``DataError`` without ffmpeg, for what it cannot decode, and for more than ``longest_s`` seconds.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise DataError(
            "needs ffmpeg to be decoded: not installed", hint="install ffmpeg, or use wav, flac, ogg or mp3"
        )
    with tempfile.TemporaryFile() as copy:
        # A file of its own: ffmpeg seeks in it, and MPEG-4 often has what comes first at its end.
        shutil.copyfileobj(io.BytesIO(content) if isinstance(content, bytes) else content, copy)
        copy.seek(0)
        return _decoded(program, copy, rate, longest_s)


def _decoded(program: str, file: Any, rate: int, longest_s: int) -> npt.NDArray[np.float32]:
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-i", "file:/dev/fd/0"]
    command += ["-map", "0:a:0", "-t", str(longest_s + 1), "-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=errors) as running:
            assert running.stdout is not None
            content = bytearray()
            while piece := running.stdout.read(_PIECE_BYTES):
                content += piece
        errors.seek(0)
        told = errors.read(2000).decode(errors="replace").strip().splitlines()
    if running.returncode != 0 or not content:
        reason = told[-1].removeprefix("file:/dev/fd/0: ") if told else "it holds no samples"
        raise DataError(f"not audio that ffmpeg reads ({reason})", hint="use wav, flac, ogg or mp3")
    samples = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
    if samples.size > longest_s * rate:
        raise DataError(f"is longer than {longest_s // 3600} hours", hint="cut it into clips")
    return samples
