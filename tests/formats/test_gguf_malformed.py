"""GGUF files that are wrong: one test for each way, on a file put together by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.gguf_parts import STRING, U32, Parts, refused, string
from tests.support.models import TINY
from whisq.formats import open_model


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def test_the_parts_are_a_model(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "again.gguf").write_bytes(parts.content())
    assert parts.content() == (tmp_path / "whole.gguf").read_bytes()
    with open_model(tmp_path / "again.gguf") as model:
        assert model.dims == TINY


EMBEDDING = "dec.token_embd.weight"


def test_offset_beyond_the_file(parts: Parts, tmp_path: Path) -> None:
    parts.tensor(EMBEDDING)[3] = 1 << 40
    assert f"truncated in the data of tensor {EMBEDDING}" in refused(tmp_path, parts.content())


def test_offset_beyond_any_file(parts: Parts, tmp_path: Path) -> None:
    parts.tensor(EMBEDDING)[3] = (1 << 64) - 32
    assert EMBEDDING in refused(tmp_path, parts.content())


def test_offsets_that_overlap(parts: Parts, tmp_path: Path) -> None:
    parts.tensor("enc.final_norm.bias")[3] = parts.tensor(EMBEDDING)[3] + 32
    message = refused(tmp_path, parts.content())
    assert f"the data of tensors {EMBEDDING} and enc.final_norm.bias overlap" in message


def test_two_tensors_at_one_offset(parts: Parts, tmp_path: Path) -> None:
    parts.tensor("frontend.window")[3] = parts.tensor("frontend.mel_filterbank")[3]
    assert "overlap" in refused(tmp_path, parts.content())


def test_offset_that_is_not_aligned(parts: Parts, tmp_path: Path) -> None:
    parts.tensor(EMBEDDING)[3] += 8
    assert f"tensor {EMBEDDING} is at offset" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("alignment", [0, 3, 1 << 20, 48])
def test_alignment_that_is_no_power_of_two(parts: Parts, tmp_path: Path, alignment: int) -> None:
    parts.keys["general.alignment"] = struct.pack("<2I", U32, alignment)
    assert "general.alignment" in refused(tmp_path, parts.content())


def test_alignment_that_is_text(parts: Parts, tmp_path: Path) -> None:
    parts.keys["general.alignment"] = struct.pack("<I", STRING) + string("32")
    assert "general.alignment is '32'" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("count", [1 << 17, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize("what", ["n_tensors", "n_keys"])
def test_count_that_cannot_be(parts: Parts, tmp_path: Path, what: str, count: int) -> None:
    setattr(parts, what, count)
    assert f"claims {count}, at most" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("off", [-1, 1])
@pytest.mark.parametrize("what", ["n_tensors", "n_keys"])
def test_count_that_is_off_by_one(parts: Parts, tmp_path: Path, what: str, off: int) -> None:
    setattr(parts, what, len(parts.tensors if what == "n_tensors" else parts.keys) + off)
    refused(tmp_path, parts.content())


def test_no_tensors(parts: Parts, tmp_path: Path) -> None:
    parts.tensors = []
    assert "tensors are missing" in refused(tmp_path, parts.content())


def test_no_keys(parts: Parts, tmp_path: Path) -> None:
    parts.keys = {}
    assert "a GGUF of no architecture" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("rank", [0, 5, 1 << 31])
def test_dimensions_that_cannot_be(parts: Parts, tmp_path: Path, rank: int) -> None:
    content = bytearray(parts.content())
    at = content.index(EMBEDDING.encode()) + len(EMBEDDING)
    struct.pack_into("<I", content, at, rank)
    assert f"{EMBEDDING} has {rank} dimensions, expected 1 to 4" in refused(tmp_path, bytes(content))


@pytest.mark.parametrize("sizes", [[300, 32], [32, 301], [0, 300], [1 << 62, 1 << 62], [9600], [32, 300, 1, 1]])
def test_wrong_shape(parts: Parts, tmp_path: Path, sizes: list[int]) -> None:
    parts.tensor(EMBEDDING)[1] = sizes
    assert f"tensor {EMBEDDING} has sizes {sizes}, expected [32, 300]" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("kind", [4, 31, 99, 0xFFFFFFFF])
def test_type_that_is_none(parts: Parts, tmp_path: Path, kind: int) -> None:
    parts.tensor(EMBEDDING)[2] = kind
    assert f"has ggml type {kind}, which whisq does not know" in refused(tmp_path, parts.content())


def test_blocks_that_do_not_fit_the_rows(parts: Parts, tmp_path: Path) -> None:
    parts.tensor(EMBEDDING)[2] = 12
    assert "its rows have 32" in refused(tmp_path, parts.content())


def test_missing_tensor(parts: Parts, tmp_path: Path) -> None:
    parts.tensors.remove(parts.tensor(EMBEDDING))
    assert f"1 tensors are missing, the first is {EMBEDDING}" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("name", ["enc.blocks.9.ffn.fc1.weight", "enc.\xe9", "x" * 1024])
def test_unknown_tensor(parts: Parts, tmp_path: Path, name: str) -> None:
    parts.tensors.append([name[:1000], [4], 0, 0])
    assert "unknown tensor" in refused(tmp_path, parts.content())


def test_a_name_that_is_too_long(parts: Parts, tmp_path: Path) -> None:
    parts.tensor(EMBEDDING)[0] = "x" * 2000
    assert "claims a name of 2000 bytes" in refused(tmp_path, parts.content())


def test_tensor_twice(parts: Parts, tmp_path: Path) -> None:
    parts.tensors.append(parts.tensor(EMBEDDING))
    assert f"tensor {EMBEDDING} occurs twice" in refused(tmp_path, parts.content())


def test_key_twice(parts: Parts, tmp_path: Path) -> None:
    content = parts.content()
    content = content.replace(string("stt.frontend.center"), string("stt.frontend.dither"), 1)
    assert "key stt.frontend.dither occurs twice" in refused(tmp_path, content)


def test_the_filters_are_missing(parts: Parts, tmp_path: Path) -> None:
    parts.tensors.remove(parts.tensor("frontend.mel_filterbank"))
    assert "the first is frontend.mel_filterbank" in refused(tmp_path, parts.content())


def test_filters_of_another_size(parts: Parts, tmp_path: Path) -> None:
    parts.tensor("frontend.mel_filterbank")[1] = [201, 80]
    assert "sizes [201, 80], expected f32 and [201, 2]" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_other_versions(parts: Parts, tmp_path: Path, version: int) -> None:
    parts.version = version
    assert f"GGUF version {version}, expected 2 or 3" in refused(tmp_path, parts.content())


@pytest.mark.parametrize("architecture", ["llama", "", "Whisper"])
def test_another_architecture(parts: Parts, tmp_path: Path, architecture: str) -> None:
    parts.keys["general.architecture"] = struct.pack("<I", STRING) + string(architecture)
    assert f"architecture '{architecture}', expected 'whisper'" in refused(tmp_path, parts.content())


@pytest.mark.parametrize(
    "raw", [struct.pack("<2I", U32, 0), struct.pack("<2I", U32, 1 << 30), struct.pack("<Ib", 7, 1)]
)
def test_sizes_that_cannot_be(parts: Parts, tmp_path: Path, raw: bytes) -> None:
    parts.keys["stt.whisper.encoder.n_layers"] = raw
    assert "impossible dimensions: stt.whisper.encoder.n_layers" in refused(tmp_path, parts.content())


def test_sizes_that_are_missing(parts: Parts, tmp_path: Path) -> None:
    del parts.keys["stt.whisper.decoder.d_model"]
    assert "the metadata lack stt.whisper.decoder.d_model" in refused(tmp_path, parts.content())
