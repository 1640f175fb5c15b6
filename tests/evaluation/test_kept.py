"""What an evaluation keeps of files beside their transcripts: hashes, and how far tensors are apart."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.support.containers import write_model
from tests.support.models import NARROW, values_of
from whisq.evaluation import known_hashes, tensors
from whisq.evaluation.known_hashes import known_sha256
from whisq.evaluation.model_files import describe
from whisq.evaluation.tensors import known_tensor_errors, tensor_errors
from whisq.formats import open_model
from whisq.model import Model
from whisq.whisper import expected_tensors


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed."""
    found: list[Path] = []
    read = Model.sha256.fget
    assert read is not None
    monkeypatch.setattr(Model, "sha256", property(lambda model: (found.append(model.path), read(model))[1]))
    return found


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all files have been there for a while."""
    later = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(known_hashes.time, "time_ns", lambda: later)


@pytest.mark.skipif(sys.platform == "win32", reason="every file is read on Windows")
def test_a_file_is_hashed_again_only_where_it_was_written(tmp_path: Path, hashed: list[Path], monkeypatch) -> None:
    path, cache = write_model(tmp_path / "a.bin"), tmp_path / "cache"
    settle(monkeypatch)
    first, again = (describe(path, "a", cache).sha256 for _ in range(2))
    with open_model(path) as model:
        assert first == again == known_sha256(model, None)
    assert hashed == [path, path]  # once for the cache, once without one
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    # As large and as old as before: the time of the change, which nobody sets, tells.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    settle(monkeypatch)
    assert describe(path, "a", cache).sha256 != first


def test_a_file_that_has_just_changed_is_hashed_each_time(tmp_path: Path, hashed: list[Path]) -> None:
    path = write_model(tmp_path / "a.bin")
    for _ in range(2):
        describe(path, "a", tmp_path / "cache")
    assert hashed == [path, path]


def test_errors_of_tensors_are_those_found_the_first_time(tmp_path: Path, monkeypatch) -> None:
    others = {spec.name: values_of(spec, seed=1) for spec in expected_tensors(NARROW).values() if spec.is_matrix}
    paths = [write_model(tmp_path / "a.bin"), write_model(tmp_path / "b.bin", change=others)]
    files = [describe(path, path.stem) for path in paths]
    runs: list[Path] = []
    monkeypatch.setattr(tensors, "tensor_errors", lambda a, b: (runs.append(b), tensor_errors(a, b))[1])
    first, again = (known_tensor_errors(*files, tmp_path / "cache") for _ in range(2))
    assert first == again == tensor_errors(*paths)
    assert runs == [paths[1]]
    (kept,) = (tmp_path / "cache" / "tensors").iterdir()
    kept.write_text(kept.read_text().replace('"noise"', '"silence"'))
    assert known_tensor_errors(*files, tmp_path / "cache") == first
    assert len(runs) == 2
    known_tensor_errors(*files, None)
    assert len(runs) == 3
