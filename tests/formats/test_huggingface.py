"""Hugging Face folders: one test for each way to be wrong, and vocabularies that a fine-tune changed."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import (
    copy_model,
    hf_config,
    safetensors_header,
    tokenizer_json,
    write_bin,
    write_huggingface,
    write_safetensors,
    write_torch,
)
from tests.support.models import TINY, tiny_tokenizer, tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.formats.special_tokens import special_tokens
from whisq.whisper import name_in_dialect


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert caught.value.hint
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_huggingface(tmp_path / "hf", tiny_weights())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_huggingface(tmp_path / "sharded", tiny_weights(), shards=3)


def arrays() -> dict[str, np.ndarray]:
    return {name_in_dialect(name, "huggingface"): array for name, array in tiny_weights().arrays.items()}


def changed_json(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: v for key, v in {**document, **changes}.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "wav2vec2"}, "model_type 'wav2vec2', expected 'whisper'"),
        ({"model_type": None}, "model_type None"),
        ({"d_model": None}, "d_model is missing"),
        ({"encoder_layers": 0}, "encoder_layers is 0"),
        ({"decoder_layers": "4"}, "decoder_layers is '4'"),
        ({"vocab_size": 1 << 40}, "vocab_size is 1099511627776"),
        ({"num_mel_bins": True}, "num_mel_bins is True"),
        ({"activation_function": "relu"}, "activation_function is 'relu', expected 'gelu'"),
        ({"encoder_ffn_dim": 100}, "encoder_ffn_dim is 100, expected 4 × d_model"),
    ],
)
def test_config_that_is_no_whispers(folder: Path, changes: dict[str, Any], said: str) -> None:
    changed_json(folder / "config.json", **changes)
    assert said in refused(folder)


def test_heads_that_do_not_divide_the_width(folder: Path) -> None:
    changed_json(folder / "config.json", decoder_attention_heads=7)
    assert "has a decoder of width 32 in 7 heads" in refused(folder)


def test_an_encoder_and_a_decoder_of_different_widths(tmp_path: Path) -> None:
    dims = replace(TINY, n_text_state=64)
    path = write_bin(tmp_path / "a.bin", tiny_weights(dims))
    assert "an encoder of width 32 and a decoder of 64" in refused(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\udcff", "[" * 100_000])
def test_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in refused(folder)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match="the shapes are not those of a Whisper with heads of 64") as caught:
        open_model(folder)
    assert "put config.json of the model that this one was trained from" in str(caught.value.hint)


def test_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter (LoRA), not a model" in refused(tmp_path)


def test_missing_tensors_are_counted_and_named(folder: Path) -> None:
    kept = {name: array for name, array in arrays().items() if "encoder.layers.1.fc" not in name}
    write_safetensors(folder / "model.safetensors", kept)
    message = refused(folder)
    assert "model.encoder.layers.1.fc1.weight is missing" in message
    assert "(and 1 more)" in message


def test_wrong_shape(folder: Path) -> None:
    write_safetensors(
        folder / "model.safetensors", {**arrays(), "model.decoder.layer_norm.bias": np.zeros(33, np.float32)}
    )
    assert "model.decoder.layer_norm.bias has shape [33], expected [32]" in refused(folder)


def test_element_type_that_is_not_read(folder: Path) -> None:
    bias = np.zeros(32, "int8")
    write_safetensors(folder / "model.safetensors", {**arrays(), "model.decoder.layer_norm.bias": bias})
    assert "model.decoder.layer_norm.bias is i8, expected f32, f16, bf16 or f64" in refused(folder)


def test_truncated_at_many_bytes(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    head = 8 + struct.unpack_from("<Q", content)[0]
    for size in [*range(1, 40), *range(head - 20, head + 20), *range(head, len(content), 9973), len(content) - 1]:
        weights.write_bytes(content[:size])
        assert "model.safetensors" in refused(folder)
    weights.write_bytes(b"")
    assert "empty" in refused(folder)


def changed_header(folder: Path, change: Any) -> str:
    header = safetensors_header(arrays())
    change(header)
    write_safetensors(folder / "model.safetensors", arrays(), header)
    return refused(folder)


def test_offsets_that_overlap(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        first, second = list(header)[:2]
        header[second]["data_offsets"] = header[first]["data_offsets"]

    assert "not a valid safetensors file" in changed_header(folder, change)


@pytest.mark.parametrize("offsets", [[0, 1 << 60], [-8, 0], [64, 0], ["a", "b"], [0], None, [1 << 70, 1 << 71]])
def test_offsets_that_cannot_be(folder: Path, offsets: Any) -> None:
    def change(header: dict[str, Any]) -> None:
        next(iter(header.values()))["data_offsets"] = offsets

    assert "model.safetensors" in changed_header(folder, change)


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [-1, 32], "ab", [[3]], [0.5]])
def test_shape_that_cannot_be(folder: Path, shape: Any) -> None:
    def change(header: dict[str, Any]) -> None:
        next(iter(header.values()))["shape"] = shape

    assert "model.safetensors" in changed_header(folder, change)


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff\xfe", b"[" * 4096, b'{"a":' * 1000, b'"x"'])
def test_header_that_is_no_object(folder: Path, raw: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(64))
    assert "model.safetensors" in refused(folder)


def test_header_longer_than_the_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    assert f"claims a header of {1 << 62} bytes" in refused(folder)


def test_index_that_names_an_absent_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "names 3 shards, 1 are not there: model-00002-of-00003.safetensors" in refused(sharded)


def test_half_a_shard(sharded: Path) -> None:
    shard = sharded / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert "model-00003-of-00003.safetensors: not a valid safetensors file" in refused(sharded)


def test_shard_without_what_the_index_places_there(sharded: Path) -> None:
    write_safetensors(sharded / "model-00001-of-00003.safetensors", {"a": np.zeros(4, np.float32)})
    assert "tensors that model.safetensors.index.json places there" in refused(sharded)


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [], "x", {"a": "../../secret"}, {"a": "/etc/passwd"}, {"a": ["x"]}, {"a": 5}, {"a": "x\0y"}, {"a": ""}],
)
def test_index_that_cannot_be(sharded: Path, weight_map: Any) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "model.safetensors.index.json" in refused(sharded)


def test_untied_projection(folder: Path) -> None:
    other = arrays()["model.decoder.embed_tokens.weight"] + np.float16(1)
    write_safetensors(folder / "model.safetensors", {**arrays(), "proj_out.weight": other})
    assert "proj_out.weight differs from model.decoder.embed_tokens.weight" in refused(folder)


def test_tensors_of_others_are_left_out_with_a_warning(tmp_path: Path) -> None:
    extra = {"classifier.weight": np.zeros((2, 2), np.float32)}
    with open_model(write_huggingface(tmp_path, tiny_weights(), extra=extra)) as model:
        assert "1 tensors are not Whisper's and are left out: classifier.weight" in model.warnings[0]


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json and no vocab.json" in refused(folder)


def test_tokenizer_of_a_larger_model(folder: Path) -> None:
    document = tokenizer_json(tiny_tokenizer())
    document["model"]["vocab"] |= {f"w{number}": 274 + number for number in range(100)}
    document["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in document["added_tokens"]}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert f"tokens, the model {TINY.n_vocab}" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {"vocab": []}},
        {"model": {"vocab": {"a": [0]}}},
        {"model": {"vocab": {"a": 1}}},
        {"added_tokens": 3},
        {"added_tokens": [{"content": ["x"], "id": 3}]},
        {"added_tokens": [{"id": 3}]},
        {"added_tokens": [{"content": "x", "id": float("inf")}]},
        {"added_tokens": [{"content": "\ud800", "id": 9}]},
    ],
)
def test_tokenizer_that_cannot_be(folder: Path, changes: dict[str, Any]) -> None:
    changed_json(folder / "tokenizer.json", **changes)
    assert "tokenizer.json" in refused(folder)


@pytest.mark.parametrize("filters", [5, [], [[1.0]], [["a"] * 201] * 2, [[1e300] * 201] * 2, {"a": 1}])
def test_mel_filters_that_cannot_be(folder: Path, filters: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"mel_filters": filters}))
    assert "mel_filters are not 2 × 201 numbers" in refused(folder)


@pytest.mark.parametrize("file", ["vocab.json", "added_tokens.json"])
def test_slow_tokenizer_with_half_a_character(folder: Path, file: str) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0}')
    document = {"a": 0, "<|\ud800|>": 1}
    (folder / file).write_text(json.dumps(document))
    assert "half a character" in refused(folder)


@pytest.mark.parametrize("content", ["{}", "[]", '{"a": "0"}', '{"a": 1}', "{"])
def test_slow_tokenizer_that_cannot_be(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(content)
    assert "vocab.json" in refused(folder)


def test_a_name_that_is_half_a_character(folder: Path, tmp_path: Path) -> None:
    changed_json(folder / "config.json", _name_or_path="me/whisper-\ud800")
    with open_model(folder) as model:
        path = copy_model(model, tmp_path / "a.gguf", "gguf")
    with open_model(path) as model:
        assert model.metadata["gguf"]["stt.variant"] == "whisper-?"


def test_torch_weights_that_are_no_state(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_torch(folder / "pytorch_model.bin", {"epoch": 3})
    assert "holds no state dictionary" in refused(folder)


def test_fine_tune_that_added_words(tmp_path: Path) -> None:
    """More rows than Whisper's vocabulary, words behind the timestamps: both containers keep all of it."""
    dims = replace(TINY, n_vocab=TINY.n_vocab + 7)
    tokenizer = tiny_tokenizer()
    words = {"zebra crossing": 290, "été": 299, "<|mine|>": 300}
    weights = replace(
        tiny_weights(dims),
        tokenizer=replace(tokenizer, special={**tokenizer.special, **words}),
    )
    with open_model(write_huggingface(tmp_path / "hf", weights)) as model:
        assert model.dims.n_vocab == 307
        assert special_tokens(model).start == tokenizer.special["<|startoftranscript|>"]
        gguf = copy_model(model, tmp_path / "a.gguf", "gguf")
        small = copy_model(model, tmp_path / "a.bin", "bin")
    for path in (gguf, small):
        with open_model(path) as model:
            assert model.dims.n_vocab == 307
            embedding = model["decoder.token_embedding.weight"]
            assert bytes(model.rows(embedding)) == weights.arrays[embedding.name].tobytes()
    with open_model(gguf) as model:
        assert special_tokens(model).start == tokenizer.special["<|startoftranscript|>"]
        assert model.tokenizer.special["<|mine|>"] == 300


def test_fine_tune_with_fewer_tokens(tmp_path: Path) -> None:
    config = hf_config(TINY)
    assert config["vocab_size"] == TINY.n_vocab
    dims = replace(TINY, n_vocab=280)
    with open_model(write_huggingface(tmp_path, tiny_weights(dims))) as model:
        assert model["decoder.token_embedding.weight"].shape == (280, 32)
