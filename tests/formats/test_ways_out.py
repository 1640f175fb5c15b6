"""Hints that are commands: they name the folder that the tool wants, and copy what it does not write."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.formats.test_refusals import ONES, quantized, stubs
from tests.formats.test_state_names import described
from whisq.errors import FormatError
from whisq.formats import open_model


def commands(hint: str) -> list[list[str]]:
    """Return the words of the commands that a hint has after its colon."""
    return [shlex.split(command) for command in hint.partition(": ")[2].split(" && ")]


def test_shards_are_gathered_from_where_they_are(tmp_path: Path) -> None:
    """accelerate wants the folder with .metadata, and writes weights only: the rest is copied."""
    folder = described(tmp_path / "run")
    (folder / "pytorch_model_fsdp_0").mkdir()
    (folder / "pytorch_model_fsdp_0/__0_0.distcp").write_bytes(bytes(8))
    for given in (folder, folder / "pytorch_model_fsdp_0", folder / "pytorch_model_fsdp_0/__0_0.distcp"):
        with pytest.raises(FormatError) as caught:
            open_model(given)
        first, *others = commands(str(caught.value.hint))
        assert first[:3] == ["accelerate", "merge-weights", str(folder / "pytorch_model_fsdp_0")]
        if given == folder:
            (copy,) = others
            assert copy[0] == "cp"
            assert copy[-1] == first[3] == str(tmp_path / "run-whole")
            assert all(Path(name).is_file() for name in copy[1:-1])
            assert {"config.json", "tokenizer.json"} <= {Path(name).name for name in copy[1:-1]}


def test_deepspeeds_own_script_gathers_its_shards(tmp_path: Path) -> None:
    folder = stubs(tmp_path / "run")
    (folder / "zero_to_fp32.py").write_text("")
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    first, copy = commands(str(caught.value.hint))
    assert first == ["python", str(folder / "zero_to_fp32.py"), str(folder), str(tmp_path / "run-whole")]
    assert copy[-1] == first[-1]


def test_what_was_undone_has_a_tokenizer(tmp_path: Path) -> None:
    folder = quantized("bitsandbytes", {"weight.absmax": ONES})(tmp_path / "mine")
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    assert f"cp {folder / 'tokenizer.json'}" in str(caught.value.hint)
    assert str(caught.value.hint).endswith(str(tmp_path / "mine-f16"))
