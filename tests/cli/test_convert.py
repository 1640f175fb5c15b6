"""``whisq convert``: every weight survives, and what cannot be written is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.containers import WRITERS, write_huggingface, write_model
from tests.support.models import TINY, tiny_weights
from whisq.formats import open_model
from whisq.whisper import expected_tensors


@pytest.mark.parametrize("suffix", ["bin", "gguf"])
def test_convert_keeps_every_weight(capsys, model: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    code, out, err = run(capsys, "convert", model, output)
    assert (code, err) == (0, "")
    assert re.search(rf" -> {suffix}: {len(expected_tensors(TINY))} tensors, types kept\n", out)
    assert "loads in: " in out
    assert f"({output.stat().st_size} bytes)" in out
    code, out, _ = run(capsys, "compare", model, output, "--json")
    document = json.loads(out)
    assert code == 0
    assert all(tensor["equal"] for tensor in document["tensors"])
    assert len(document["tensors"]) == len(expected_tensors(TINY))


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_convert_to_a_type(capsys, model: Path, tmp_path: Path, kind: str) -> None:
    assert run(capsys, "convert", model, tmp_path / "out.gguf", "--type", kind)[0] == 0
    with open_model(tmp_path / "out.gguf") as written:
        assert {tensor.type.name for tensor in written.tensors if tensor.spec.is_matrix} == {kind}


def test_format_goes_before_the_suffix(capsys, model: Path, tmp_path: Path) -> None:
    assert run(capsys, "convert", model, tmp_path / "out.bin", "--format", "gguf")[0] == 0
    assert (tmp_path / "out.bin").read_bytes()[:4] == b"GGUF"


def test_sidecar(capsys, model: Path, tmp_path: Path) -> None:
    assert run(capsys, "convert", model, tmp_path / "out.bin", "--sidecar", "--quiet") == (0, "", "")
    document = json.loads((tmp_path / "out.bin.json").read_text())
    assert len(document["source"]["sha256"]) == 64
    assert document["tensors"]["encoder.conv1.bias"] == "f32"
    assert document["source"]["sha256"] in run(capsys, "inspect", tmp_path / "out.bin")[1]


def test_a_container_that_is_only_read_is_not_written_under_its_name(capsys, tmp_path: Path) -> None:
    source = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "convert", source, tmp_path / "a.safetensors")
    assert code == 1
    assert ".safetensors is not written" in err
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("suffix", ["bin", "gguf"])
def test_convert_warns_of_tokens_that_a_bin_cannot_name(capsys, tmp_path: Path, suffix: str) -> None:
    source = write_huggingface(tmp_path / "hf", tiny_weights())
    _, _, err = run(capsys, "convert", source, tmp_path / f"a.{suffix}")
    assert ("count the special tokens off" in err) == (suffix == "bin")
    assert ("hint: write a .gguf" in err) == (suffix == "bin")


@pytest.mark.parametrize("words", [["--type", "q4_0"], ["--format", "onnx"], ["--threads", "x"], ["--threads", "0"]])
def test_options_that_are_none(capsys, tmp_path: Path, words: list[str]) -> None:
    code, _, err = run(capsys, "convert", WRITERS["bin"](tmp_path, tiny_weights()), tmp_path / "a.bin", *words)
    assert code == 1
    assert words[0] in err


def test_a_conversion_that_nothing_loads_is_warned_of(capsys, tmp_path: Path) -> None:
    source = write_model(tmp_path / "f16.bin")
    assert run(capsys, "quantize", source, tmp_path / "a.bin", "iq4_nl", "--quiet")[0] == 0
    code, _, err = run(capsys, "convert", tmp_path / "a.bin", tmp_path / "a.gguf", "--quiet")
    assert code == 0
    assert err.startswith("warning: no runtime that whisq knows loads this file (whisper.cpp: it reads .bin files")
    assert err.endswith("hint: write a .bin file\n")
    assert run(capsys, "convert", tmp_path / "a.bin", tmp_path / "b.bin", "--quiet") == (0, "", "")
