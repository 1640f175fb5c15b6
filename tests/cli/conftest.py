"""One model in every container, for the commands that take any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.containers import WRITERS, write_model
from tests.support.models import NARROW, tiny_weights


@pytest.fixture(params=[*WRITERS, "gguf"])
def model(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A model in every container that is read; its special tokens are not named: there is nothing to warn of."""
    weights = tiny_weights()
    plain = replace(weights, tokenizer=replace(weights.tokenizer, special={}))
    if request.param != "gguf":
        return WRITERS[request.param](tmp_path, plain)
    source = WRITERS["huggingface"](tmp_path, plain)
    assert run(capsys, "convert", source, tmp_path / "model.gguf")[0] == 0
    return tmp_path / "model.gguf"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A ``.bin`` with rows of 64."""
    return write_model(tmp_path / "in.bin", NARROW)
