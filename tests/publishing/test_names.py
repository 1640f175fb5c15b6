"""What files are called, and which names are refused since people know them as another model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.containers import write_bin, write_huggingface
from tests.support.models import tiny_weights
from whisq.errors import PlanError
from whisq.formats import open_model
from whisq.publishing.names import file_name, model_name


def named(path: Path, asked: str | None = None) -> str:
    with open_model(path) as model:
        return model_name(model, asked)


def refused(path: Path, asked: str | None = None) -> tuple[str, str]:
    with pytest.raises(PlanError) as caught:
        named(path, asked)
    return str(caught.value), str(caught.value.hint)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("ggml-small-hi.bin", "small-hi"),
        ("ggml-small-hi-f16.bin", "small-hi"),
        ("whisper-small-hi.bin", "small-hi"),
        ("Kutty Whisper_fp32.bin", "kutty-whisper"),
    ],
)
def test_a_file_gives_its_name(tmp_path: Path, source: str, name: str) -> None:
    assert named(write_bin(tmp_path / source, tiny_weights())) == name


def test_a_folder_gives_its_name(tmp_path: Path) -> None:
    assert named(write_huggingface(tmp_path / "whisper-small-hi", tiny_weights())) == "small-hi"


@pytest.mark.parametrize("source", ["ggml-model.bin", "model-f16.bin", "checkpoint-4000.bin", "final.bin"])
def test_a_name_that_says_nothing_is_asked_for(tmp_path: Path, source: str) -> None:
    message, hint = refused(write_bin(tmp_path / source, tiny_weights()))
    assert source in message
    assert "--name" in hint


@pytest.mark.parametrize("name", ["tiny", "whisper-base.en", "large-v3", "turbo", "distil-large-v3"])
def test_no_file_reads_as_a_released_whisper_of_other_sizes(tmp_path: Path, name: str) -> None:
    message, hint = refused(write_bin(tmp_path / "small-hi.bin", tiny_weights()), name)
    assert "released Whisper of other sizes" in message
    assert "--name" in hint


def test_a_name_that_is_none_for_a_file_is_refused(tmp_path: Path) -> None:
    message, _ = refused(write_bin(tmp_path / "small-hi.bin", tiny_weights()), "../small")
    assert "no name for a file" in message


def test_released_weights_have_their_own_names(tiny_en_bin: Path) -> None:
    with open_model(tiny_en_bin) as model:
        assert model_name(model, "tiny.en") == "tiny.en"
        model.metadata["hub"] = {"name": "openai/whisper-tiny.en"}
        assert model_name(model) == "tiny.en"
        model.metadata["hub"] = {"name": "somebody/whisper-tiny.en"}
        with pytest.raises(PlanError, match="somebody") as caught:
            model_name(model)
    assert "--name tiny.en-somebody" in str(caught.value.hint)


def test_each_runtime_finds_the_name_that_its_users_look_for() -> None:
    assert file_name("small-hi", "q5_1", "bin") == "ggml-small-hi-q5_1.bin"
    assert file_name("small-hi", "mix-balanced", "bin") == "ggml-small-hi-mix-balanced.bin"
    assert file_name("small-hi", "q5_K", "gguf") == "whisper-small-hi-Q5_K.gguf"
    assert file_name("small-hi", "mix-balanced", "gguf") == "whisper-small-hi-mix-balanced.gguf"
