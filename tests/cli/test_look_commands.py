"""``convert``, ``inspect`` and ``compare`` as people type them, on every container."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import TINY, WRITERS, Weights, tiny_weights, write_huggingface, write_torch
from tests.support.models import TINY as OTHER
from tests.support.models import write_model
from whisq.cli import main
from whisq.formats import open_model
from whisq.whisper import expected_tensors


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def plain() -> Weights:
    """A model whose special tokens are not where Whisper's are, nor named: nothing to warn of."""
    weights = tiny_weights()
    return replace(weights, tokenizer=replace(weights.tokenizer, special={}))


@pytest.fixture(params=[*WRITERS, "gguf"])
def model(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """One model in every container that is read."""
    if request.param != "gguf":
        return WRITERS[request.param](tmp_path, plain())
    source = WRITERS["huggingface"](tmp_path, plain())
    assert run(capsys, "convert", source, tmp_path / "model.gguf")[0] == 0
    return tmp_path / "model.gguf"


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


def test_inspect(capsys, model: Path) -> None:
    code, out, err = run(capsys, "inspect", model)
    assert (code, err) == (0, "")
    assert "encoder: 2 layers, width 32, 1 heads, 2 mels, 6 positions" in out
    assert "vocabulary: 300 tokens (264 listed, " in out
    assert re.search(r"\n  decoder  token_embedding +1 +0\.02  f16 1\n", out)
    assert "bits per weight" in out
    assert "loads in:" in out
    assert "provenance:" in out


def test_inspect_lists_tensors_with_the_files_own_names(capsys, model: Path) -> None:
    _, out, _ = run(capsys, "inspect", model, "--tensors")
    (line,) = re.findall(r"\n  (decoder\.blocks\.0\.mlp\.0\.weight .*)\n", out)
    with open_model(model) as opened:
        own = opened["decoder.blocks.0.mlp.0.weight"].source_name
    assert "f16     128 × 32" in line
    assert "8192 bytes" in line
    assert (f"({own})" in line) == (own != "decoder.blocks.0.mlp.0.weight")


def test_inspect_as_json(capsys, model: Path) -> None:
    code, out, _ = run(capsys, "inspect", model, "--json", "--tensors")
    document = json.loads(out)
    assert code == 0
    assert document["dimensions"]["n_vocab"] == 300
    assert sum(role["size_bytes"] for role in document["roles"]) == sum(t["size_bytes"] for t in document["tensors"])
    assert {tensor["name"] for tensor in document["tensors"]} == set(expected_tensors(TINY))
    assert {runtime["runtime"] for runtime in document["runtimes"]} >= {"whisper.cpp", "transcribe.cpp"}
    assert "tensors" not in json.loads(run(capsys, "inspect", model, "--json")[1])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"decoder\.blocks\.0\.cross_attn\.query\.weight", None),
        (r"dec\.blocks\.0\.cross_attn\.q\.weight", "transcribe.cpp"),
        (r"model\.decoder\.layers\.0\.encoder_attn\.q_proj\.weight", "huggingface"),
    ],
)
def test_a_rule_in_any_dialect_on_any_container(capsys, model: Path, tmp_path: Path, pattern: str, said) -> None:
    words = ["--tensor-type", f"{pattern}=q4_0", model, tmp_path / "out.bin", "q8_0"]
    code, out, err = run(capsys, "quantize", *words)
    assert code == 0
    assert "matches no tensor" not in err
    (line,) = [line for line in out.splitlines() if "decoder.blocks.0.cross_attn.query.weight - " in line]
    assert "matched pattern -> q4_0" in line
    assert (f"(as {pattern.replace(chr(92), '')})" in line) == (said is not None)
    code, out, err = run(capsys, "compare", model, tmp_path / "out.bin", "--match", pattern)
    assert code == 0
    assert "f16 -> q4_0" in out
    assert (f"was taken as {said} names" in err) == (said is not None)


def test_compare_puts_the_worst_first(capsys, model: Path, tmp_path: Path) -> None:
    rule = r"encoder\.blocks\.1\.mlp\.2\.weight=q4_0"
    run(capsys, "quantize", "--quiet", "--tensor-type", rule, model, tmp_path / "out.gguf", "q8_0")
    code, out, err = run(capsys, "compare", model, tmp_path / "out.gguf", "--top", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[3].startswith("encoder.blocks.1.mlp.2.weight")
    assert lines[5] == f"… and {len(expected_tensors(TINY)) - 2} more"
    document = json.loads(run(capsys, "compare", model, tmp_path / "out.gguf", "--json")[1])
    errors = [tensor["relative_error"] for tensor in document["tensors"]]
    assert errors == sorted(errors, reverse=True)
    with open_model(model) as a, open_model(tmp_path / "out.gguf") as b:
        x = a.array(document["tensors"][0]["name"]).astype(np.float64)
        y = b.array(document["tensors"][0]["name"]).astype(np.float64)
    error = np.linalg.norm(x - y) / np.linalg.norm(x)
    assert document["tensors"][0]["relative_error"] == pytest.approx(error, rel=1e-9)
    assert document["tensors"][0]["snr_db"] == pytest.approx(-20 * np.log10(error), rel=1e-9)
    assert document["tensors"][0]["largest_error"] == pytest.approx(np.abs(x - y).max(), rel=1e-9)


# --- what is wrong


def test_compare_of_two_models(capsys, tmp_path: Path) -> None:
    one = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "compare", one, write_model(tmp_path / "other.bin", OTHER))
    assert code == 1
    assert "are different models: n_vocab is 300 and 16" in err


def test_a_pattern_that_matches_nothing(capsys, tmp_path: Path) -> None:
    one = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "compare", one, one, "--match", "foo")
    assert code == 1
    assert "'foo' matches no tensor" in err


@pytest.mark.parametrize("command", [["inspect"], ["compare", "model.bin"], ["convert"]])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.gguf", "absent.gguf: no such file or directory"),
        ("empty", "it is empty"),
        ("folder", "the folder holds notes.txt"),
        ("text.gguf", "it begins with the bytes 68 65 6c 6c"),
        ("weights.pt", "found epoch"),
    ],
)
def test_what_is_no_model(capsys, tmp_path: Path, monkeypatch, command: list[str], name: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    WRITERS["bin"](tmp_path, tiny_weights())
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    (tmp_path / "text.gguf").write_text("hello")
    write_torch(tmp_path / "weights.pt", {"epoch": 3})
    words = [*command, name] if command != ["convert"] else ["convert", name, "out.gguf"]
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert said in err
    assert "hint: " in err
    assert not (tmp_path / "out.gguf").exists()


def test_a_container_that_is_only_read_is_not_written_under_its_name(capsys, tmp_path: Path) -> None:
    source = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "convert", source, tmp_path / "a.safetensors")
    assert code == 1
    assert ".safetensors is not written" in err
    assert not (tmp_path / "a.safetensors").exists()


def test_compare_of_fewer_than_one(capsys, tmp_path: Path) -> None:
    source = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "compare", source, source, "--top", "-1")
    assert code == 1
    assert "--top" in err


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
