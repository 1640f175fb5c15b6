"""What a model says of itself that cannot be, and the numbers of its front end: errors when it is opened."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.containers import write_bin, write_huggingface, write_openai
from tests.support.models import TINY, tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.01, 1e6])
@pytest.mark.parametrize("place", [0, 201 + 7])
def test_mel_filters_that_hear_nothing(tmp_path: Path, value: float, place: int) -> None:
    weights = tiny_weights()
    filters = np.frombuffer(weights.filters, "<f4").copy()
    filters[place] = value
    path = write_bin(tmp_path / "a.bin", replace(weights, filters=filters.tobytes()))
    assert f"a.bin: mel filter {place // 201} holds {filters[place]}" in refused(path)


def test_a_zip_entry_that_occurs_twice(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/3", b"other")
    assert "a.pt: entry archive/data/3 occurs twice" in refused(path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    write_huggingface(tmp_path, tiny_weights(), shards=3)
    first, second = (tmp_path / f"model-0000{number}-of-00003.safetensors" for number in (1, 2))
    arrays = load_file(first)
    name = sorted(arrays)[0]
    save_file({**load_file(second), name: arrays[name]}, second)
    told = refused(tmp_path)
    assert f"{second.name}: holds {name}, which model.safetensors.index.json places in {first.name}" in told


@pytest.mark.parametrize("ftype", [5, 6, 99, -1, 3002, 2005])
def test_an_ftype_that_no_type_has(tmp_path: Path, ftype: int) -> None:
    content = bytearray(write_bin(tmp_path / "a.bin", tiny_weights()).read_bytes())
    struct.pack_into("<i", content, 4 + 4 * 10, ftype)
    (tmp_path / "a.bin").write_bytes(content)
    assert f"a.bin: the header's ftype is {ftype}, which no type of ggml has" in refused(tmp_path / "a.bin")


def test_heads_that_no_whisper_of_a_width_has_are_a_warning(tmp_path: Path) -> None:
    wide = replace(TINY, n_audio_state=384, n_text_state=384, n_audio_head=6, n_text_head=6)
    right, wrong = (tiny_weights(replace(wide, n_text_head=heads)) for heads in (6, 8))
    with open_model(write_bin(tmp_path / "right.bin", right)) as model:
        assert not any("heads" in warning for warning in model.warnings)
    with open_model(write_bin(tmp_path / "wrong.bin", wrong)) as model:
        (told,) = [warning for warning in model.warnings if "heads" in warning]
    assert "wrong.bin: the decoder of width 384 has 8 heads, every Whisper of that width has 6" in told
