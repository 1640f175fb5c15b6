"""``whisq inspect``: what a file holds, as text and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.command_line import run
from tests.support.models import TINY
from whisq.formats import open_model
from whisq.whisper import expected_tensors


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
