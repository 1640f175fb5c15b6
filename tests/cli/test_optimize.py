"""``whisq optimize``: what one command says of the file it made."""

from __future__ import annotations

import json

import pytest

from tests.support.optimized import FEW
from tests.support.schema import checked
from whisq.cli import main
from whisq.cli.optimize import _document


def test_the_command_says_sizes_divergences_and_a_verdict(
    optimized, tiny_en_bin, speakers, optimized_size, capsys
) -> None:
    words = ["optimize", tiny_en_bin, optimized.output, "--data", speakers, "--size", f"{optimized_size}B"]
    words += ["--types", "q4_0,q8_0"]
    words += [word for pattern in FEW for word in ("--protect", pattern)]
    assert main([str(word) for word in [*words, "--probes", 1]]) == 0
    captured = capsys.readouterr()
    assert "from an earlier run: model.calib" in captured.err
    assert f"{optimized.output.stat().st_size / 1e6:.2f}" in captured.out
    assert "than uniform q4_0: diverges" in captured.out
    assert "WER %" in captured.out
    document = {"schema": "whisq-optimize", "schema_version": 1, **_document(optimized)}
    found = checked(json.dumps(document), "optimize")
    assert found["size_bytes"] == optimized.output.stat().st_size
    assert found["chosen"] in [one["file"] for one in found["judged"]["files"]]


def test_help_names_the_goals(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["optimize", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--size", "--bits", "--divergence", "--data", "--folder"))
