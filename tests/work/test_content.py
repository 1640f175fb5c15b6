"""Files by content: found under a path or in the cache, taken in pieces, and what goes when there is no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whisq.errors import ClusterError
from whisq.work import Source
from whisq.work.content import ContentCache

MOST = 1000


def sent(cache: ContentCache, source: Source) -> Path:
    cache.begin(source)
    for part, offset, piece in source.pieces():
        cache.put(source, part, offset, piece)
    return cache.end(source)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights" * 10)
    return path


def test_a_file_under_the_senders_path_is_taken_where_it_is_the_same(tmp_path: Path, file: Path) -> None:
    source = Source.of(file)
    assert ContentCache(tmp_path / "cache", MOST).find(source) == file
    file.write_bytes(b"WEIGHTS" * 10)
    assert ContentCache(tmp_path / "cache", MOST).find(source) is None
    file.unlink()
    assert ContentCache(tmp_path / "cache", MOST).find(source) is None


def test_what_was_sent_is_kept_under_its_name(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisq.work.content.PIECE_BYTES", 16)
    source = Source.of(file)
    place = sent(ContentCache(tmp_path / "cache", MOST, looks_at_paths=False), source)
    assert place.name == "model.bin"
    assert place.read_bytes() == file.read_bytes()
    assert ContentCache(tmp_path / "cache", MOST, looks_at_paths=False).find(source) == place
    assert not list((tmp_path / "cache" / "content").glob("coming-*"))


def test_a_folder_is_sent_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    source = Source.of(folder, ["model.safetensors", "config.json"])
    place = sent(ContentCache(tmp_path / "cache", MOST, looks_at_paths=False), source)
    assert {path.name: path.read_bytes() for path in place.glob("*.*s*")} == {
        "config.json": b"{}",
        "model.safetensors": b"",
    }


def test_a_kept_file_that_was_changed_is_not_taken(tmp_path: Path, file: Path) -> None:
    source = Source.of(file)
    place = sent(ContentCache(tmp_path / "cache", MOST, looks_at_paths=False), source)
    place.write_bytes(b"other" * 14)
    assert ContentCache(tmp_path / "cache", MOST, looks_at_paths=False).find(source) is None


def test_what_comes_as_another_content_is_refused(tmp_path: Path, file: Path) -> None:
    source = Source.of(file)
    cache = ContentCache(tmp_path / "cache", MOST)
    cache.begin(source)
    cache.put(source, source.parts[0], 0, b"x" * source.size_bytes)
    with pytest.raises(ClusterError, match=r"model\.bin: came as another content"):
        cache.end(source)
    assert not list((tmp_path / "cache" / "content").iterdir())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    places = []
    for number in range(4):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes([number]) * 400)
        source = Source.of(path)
        places.append(sent(ContentCache(tmp_path / "cache", MOST, looks_at_paths=False), source))
        os.utime(places[-1].parent / ".kept", (number, number))
    assert [place.exists() for place in places] == [False, False, True, True]


def test_what_does_not_fit_is_said_with_its_size(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ClusterError, match="0 MB do not fit"):
        ContentCache(tmp_path / "cache", 10).begin(Source.of(file))
