"""Reading the audio of a clip, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from whisq.clips.clip import Clip, read_samples
from whisq.errors import DataError

soundfile = pytest.importorskip("soundfile", reason="needs the extra 'evaluate'")
pytest.importorskip("soxr", reason="needs the extra 'evaluate'")


def test_samples_are_those_of_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    wave = np.sin(np.arange(8000) / 20).astype(np.float32) / 2
    soundfile.write(path, wave, 16_000, subtype="FLOAT")
    assert np.array_equal(read_samples(path), wave)
    assert np.array_equal(read_samples(path), Clip("a", path, "text").samples())


def test_samples_of_a_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = []
    for level in (0.25, 0.5):
        soundfile.write(tmp_path / "row.wav", np.full(1600, level, np.float32), 16_000, subtype="FLOAT")
        rows.append({"bytes": (tmp_path / "row.wav").read_bytes(), "path": None})
    table = pyarrow.table({"audio": rows})
    with pyarrow.OSFile(str(tmp_path / "data.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    assert (read_samples(tmp_path / "data.arrow", 1) == 0.5).all()
    assert np.array_equal(
        read_samples(tmp_path / "data.arrow", 0), Clip("0", tmp_path / "data.arrow", "", row=0).samples()
    )


def test_what_is_not_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF but not audio")
    with pytest.raises(DataError, match="not audio"):
        read_samples(tmp_path / "a.wav")
    with pytest.raises(FileNotFoundError):
        read_samples(tmp_path / "b.wav")
