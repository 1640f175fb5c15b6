"""What calibrating needs is known before, and refused before where it is not there."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.support.models import released
from whisq.calibration.needs import Needs, available_memory, check_room, needs_of
from whisq.errors import CalibrationError, OutputError

Usage = namedtuple("Usage", "total used free")


def test_a_larger_model_needs_more_and_what_is_said_is_of_the_right_size() -> None:
    tiny, turbo = (
        needs_of(released(name), 4, 2000, spills=True, writes=False) for name in ("tiny.en", "large-v3-turbo")
    )
    assert 45e6 < tiny.file_bytes < 60e6
    assert 2.0e9 < turbo.file_bytes < 2.6e9
    assert 0.25e9 < tiny.memory_bytes < 0.5e9
    weighing = needs_of(released("tiny.en"), 4, 2000, spills=True, writes=False, weighs=True)
    assert weighing.memory_bytes > tiny.memory_bytes + 0.3e9  # the way back takes the most
    assert weighing.file_bytes > tiny.file_bytes
    assert turbo.memory_bytes < 4e9
    assert str(tiny).startswith(f"{tiny.memory_bytes / 1e6:.0f} MB of memory")
    more = needs_of(released("tiny.en"), 40, 2000, spills=True, writes=False)
    assert more.memory_bytes > tiny.memory_bytes
    assert more.spill_bytes > tiny.spill_bytes
    writing = needs_of(released("large-v3"), 4, 2000, spills=True, writes=True)
    assert writing.memory_bytes > needs_of(released("large-v3"), 4, 2000, spills=True, writes=False).memory_bytes
    kept_in_memory = needs_of(released("tiny.en"), 4, 2000, spills=False, writes=False)
    assert kept_in_memory.spill_bytes == 0
    assert kept_in_memory.memory_bytes > tiny.memory_bytes + tiny.file_bytes


def test_too_little_disk_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 5, 150_000_000))
    check_room(Needs(1, 100_000_000, 50_000_000), tmp_path / "a.calib", tmp_path)
    # What is not there yet is made in the folder above.
    with pytest.raises(OutputError, match="needs 160 MB of disk, 150 MB are free") as caught:
        check_room(Needs(1, 110_000_000, 50_000_000), tmp_path / "a.calib", tmp_path / "not" / "yet" / "..")
    assert "--cache" in caught.value.hint
    check_room(Needs(1, 110_000_000, 40_000_000), tmp_path / "a.calib", None)


def test_too_little_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whisq.calibration.needs.available_memory", lambda: 100_000_000)
    check_room(Needs(100_000_000, 0, 1), tmp_path / "a.calib", None)
    with pytest.raises(CalibrationError, match="needs 101 MB of memory, 100 MB are available") as caught:
        check_room(Needs(101_000_000, 0, 1), tmp_path / "a.calib", None)
    assert "--calibration FILE" in caught.value.hint
    monkeypatch.setattr("whisq.calibration.needs.available_memory", lambda: None)
    check_room(Needs(1 << 60, 0, 1), tmp_path / "a.calib", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:  24 kB\nMemAvailable:      12 kB\n", 12288),
        ("MemTotal:  24 kB\n", None),
        ("MemAvailable:\n", None),
        ("MemAvailable: much\n", None),
        ("", None),
    ],
)
def test_memory_is_what_the_system_says(tmp_path: Path, text: str, expected: int | None) -> None:
    source = tmp_path / "meminfo"
    source.write_text(text)
    assert available_memory(source) == expected
    assert available_memory(tmp_path / "none") is None
