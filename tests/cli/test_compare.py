"""``whisq compare``: the worst tensor first, and the figures are those of the arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import run
from tests.support.containers import WRITERS, write_model
from tests.support.models import NARROW, TINY, tiny_weights
from whisq.formats import open_model
from whisq.whisper import expected_tensors


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
    assert document["tensors"][0]["relative_error"] == pytest.approx(error, rel=1e-6)
    assert document["tensors"][0]["snr_db"] == pytest.approx(-20 * np.log10(error), rel=1e-6)
    assert document["tensors"][0]["largest_error"] == pytest.approx(np.abs(x - y).max(), rel=1e-9)


def test_compare_of_two_models(capsys, tmp_path: Path) -> None:
    one = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "compare", one, write_model(tmp_path / "other.bin", NARROW))
    assert code == 1
    assert "are different models: n_vocab is 300 and 16" in err


def test_a_pattern_that_matches_nothing(capsys, tmp_path: Path) -> None:
    one = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "compare", one, one, "--match", "foo")
    assert code == 1
    assert "'foo' matches no tensor" in err


def test_compare_of_fewer_than_one(capsys, tmp_path: Path) -> None:
    source = WRITERS["bin"](tmp_path, tiny_weights())
    code, _, err = run(capsys, "compare", source, source, "--top", "-1")
    assert code == 1
    assert "--top" in err
