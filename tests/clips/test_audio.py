"""Audio is read in pieces until it ends, whatever its header claims."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from whisq.clips import audio
from whisq.clips.audio import SAMPLE_RATE, decode_audio, open_audio
from whisq.clips.clip import Clip, check_clips
from whisq.errors import DataError

TONE = (np.sin(np.arange(20_000) * 0.3) * 0.3).astype(np.float32)


def encoded(samples: np.ndarray = TONE, rate: int = SAMPLE_RATE, format: str = "FLAC", **more: str) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, **more)
    return bytearray(buffer.getvalue())


def flac_that_counts(samples: int) -> bytes:
    """Return a flac whose header counts so many samples, 0 for a length that is not known."""
    content = encoded()
    rest = content[18 + 3] & 0xF0
    content[18 + 3 : 18 + 8] = bytes([rest | samples >> 32]) + struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(content)


def wav(rate: int, body: bytes, claimed: int | None = None, channels: int = 1) -> bytes:
    size = len(body) if claimed is None else claimed
    head = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate & 0xFFFFFFFF, 2 * channels, 16)
    riff = b"RIFF" + struct.pack("<I", min(36 + size, 0xFFFFFFFF)) + b"WAVEfmt "
    return riff + head + b"data" + struct.pack("<I", size) + body


def test_a_flac_that_was_streamed_says_nothing_of_its_length() -> None:
    assert np.array_equal(decode_audio(flac_that_counts(0)), decode_audio(bytes(encoded())))


@pytest.mark.parametrize("samples", [20_001, 1 << 33, (1 << 36) - 1])
def test_a_flac_that_lies_is_refused(samples: int) -> None:
    with pytest.raises(DataError, match=f"counts {samples} samples, 20000 are there"):
        decode_audio(flac_that_counts(samples))


@pytest.mark.parametrize("behind", [b"\0", b"TAG" + bytes(125), b"x" * 5000])
@pytest.mark.parametrize("piece", [700, 1 << 18])
def test_what_stands_behind_a_flac_is_no_part_of_it(behind: bytes, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tag editors put ID3 there, and copies of streams a few bytes."""
    monkeypatch.setattr(audio, "_PIECE_SAMPLES", piece)
    assert np.array_equal(decode_audio(bytes(encoded()) + behind), decode_audio(bytes(encoded())))


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFF0, 0xFFFFFF00])
def test_a_wav_that_was_streamed_has_what_is_there(claimed: int) -> None:
    body = (TONE * 32767).astype("<i2").tobytes()
    assert len(decode_audio(wav(SAMPLE_RATE, body, claimed))) == len(TONE)


@pytest.mark.parametrize("rate", [1, 100, 3999, 1_000_000])
def test_rates_that_no_speech_has(rate: int) -> None:
    with pytest.raises(DataError, match="samples a second, expected 4000 to 768000"):
        decode_audio(wav(rate, bytes(18_000)))


def test_what_is_too_long_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "LONGEST_S", 3600)
    monkeypatch.setattr(audio, "_PIECE_SAMPLES", 1 << 22)
    with pytest.raises(DataError, match="is longer than 1 hours"):
        decode_audio(wav(4000, bytes(2 * 4000 * 3601)))


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("format", ["WAV", "OGG", "FLAC"])
def test_pieces_make_what_the_whole_makes(rate: int, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(encoded(np.stack([TONE, -0.5 * TONE], 1), rate, format))
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    whole = soxr.resample(samples.mean(axis=1, dtype=np.float32), rate, SAMPLE_RATE, quality="HQ")
    assert np.array_equal(decode_audio(content), whole)
    monkeypatch.setattr(audio, "_PIECE_SAMPLES", 700)
    assert np.array_equal(decode_audio(content), whole)


def test_many_channels_are_one_piece_of_the_same_size() -> None:
    assert len(decode_audio(wav(16_000, bytes(2 * 255 * 20_000), channels=255))) == 20_000


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    clips = [Clip(str(path), path, "x") for path in (tmp_path / "pipe.wav", Path("/dev/zero"), tmp_path / "folder.wav")]
    clips += [Clip("gone", tmp_path / "gone.wav", "x"), Clip("nul", Path("a\0b"), "x")]
    good, problems = check_clips(clips)
    assert not good
    told = [problem.reason for problem in problems]
    assert all("is not a regular file" in reason for reason in told[:3])
    assert "No such file" in told[3]
    assert told[4] == "its name holds NUL"


def test_a_sparse_file_costs_no_memory(tmp_path: Path) -> None:
    """A terabyte of silence; the figure is at least that of the process which started this one."""
    path = tmp_path / "sparse.wav"
    path.write_bytes(wav(768_000, b"", 0xFFFFFFFF))
    os.truncate(path, 1 << 40)
    script = (
        "import resource, sys; from whisq.clips import audio; from pathlib import Path\n"
        "audio.LONGEST_S = 60\n"
        "try: audio.decode_audio(audio.open_audio(Path(sys.argv[1])))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("DataError is longer than"), run.stdout
    assert int(run.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024) < 1 << 31


def test_headers_at_random_are_errors_or_audio() -> None:
    random = np.random.default_rng(3)
    for format, more in (("FLAC", {}), ("WAV", {}), ("MP3", {}), ("OGG", {}), ("WAV", {"subtype": "FLOAT"})):
        content = encoded(format=format, **more)
        for _ in range(60):
            changed = bytearray(content)
            for at in random.integers(0, 80, random.integers(1, 4)):
                changed[at] = random.integers(0, 256)
            try:
                assert np.isfinite(decode_audio(bytes(changed))).all()
            except DataError:
                continue


def test_open_audio_reads() -> None:
    with open_audio(Path(__file__)) as stream:
        assert stream.read(3) == b'"""'
