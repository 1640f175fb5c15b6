"""The same weights come out of every container, bit for bit."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import (
    WRITERS,
    copy_model,
    hf_config,
    write_bin,
    write_huggingface,
    write_openai,
    write_safetensors,
)
from tests.support.models import REAL_MODELS, TINY, Weights, tiny_weights, weights_of
from whisq.formats import layout_of, open_model
from whisq.formats.layout import Output
from whisq.formats.mel import mel_filters
from whisq.model import Model
from whisq.whisper import expected_tensors, name_in_dialect

_FORMATS = {"bin": "bin", "huggingface": "huggingface", "sharded": "huggingface", "openai": "openai"}


def assert_same_tensors(model: Model, weights: Weights) -> None:
    """Assert that a model holds exactly these weights, and nothing between reading and the file changed them."""
    assert {tensor.name for tensor in model.tensors} == set(weights.arrays)
    for name, expected in weights.arrays.items():
        tensor = model[name]
        kind = {"f32": np.float32, "f16": np.float16}[tensor.type.name]
        found = np.frombuffer(bytes(model.rows(tensor)), kind).reshape(tensor.shape)
        assert found.dtype == expected.dtype, name
        assert found.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("kind", WRITERS)
def test_reads_what_each_project_writes(kind: str, tmp_path: Path) -> None:
    weights = tiny_weights()
    with open_model(WRITERS[kind](tmp_path, weights)) as model:
        assert_same_tensors(model, weights)
        assert model.dims == TINY
        assert model.tokenizer.tokens == weights.tokenizer.tokens
        assert model.mel_filters == weights.filters
        assert model.format == _FORMATS.get(kind, kind)
        assert model.warnings == ()


def test_nothing_is_read_with_torch(tmp_path: Path) -> None:
    paths = [str(write(tmp_path, tiny_weights())) for write in WRITERS.values()]
    code = "import sys; sys.modules.update(torch=None, transformers=None); from whisq import open_model\n"
    code += f"for path in {paths!r}:\n  with open_model(path) as model: print(len(model.tensors))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(expected_tensors(TINY)))] * len(paths)


@pytest.mark.parametrize("kind", WRITERS)
def test_gguf_holds_what_its_source_held(kind: str, tmp_path: Path) -> None:
    weights = tiny_weights()
    with open_model(WRITERS[kind](tmp_path, weights)) as source:
        path = copy_model(source, tmp_path / "model.gguf", "gguf")
        special = source.tokenizer.special
    with open_model(path) as model:
        assert_same_tensors(model, weights)
        assert model.dims == TINY
        assert model.tokenizer.tokens == weights.tokenizer.tokens
        assert model.tokenizer.merges == weights.tokenizer.merges
        assert {text: number for text, number in model.tokenizer.special.items() if text in special} == special
        assert model.mel_filters == weights.filters


def test_bin_to_gguf_to_bin_is_the_same_file(tmp_path: Path) -> None:
    first = write_bin(tmp_path / "first.bin", tiny_weights())
    with open_model(first) as source:
        middle = copy_model(source, tmp_path / "middle.gguf", "gguf")
    with open_model(middle) as source:
        last = copy_model(source, tmp_path / "last.bin", "bin")
    assert last.read_bytes() == first.read_bytes()


def test_bin_keeps_tokens_that_look_like_markers(tmp_path: Path) -> None:
    weights = tiny_weights()
    odd = (*weights.tokenizer.tokens[:-2], b"<|\xe9", b"")
    first = write_bin(
        tmp_path / "a.bin", Weights(weights.dims, type(weights.tokenizer)(odd), weights.arrays, weights.filters)
    )
    with open_model(first) as source:
        middle = copy_model(source, tmp_path / "b.gguf", "gguf")
    with open_model(middle) as model:
        assert model.tokenizer.tokens == odd


def test_gguf_is_the_same_every_time(tmp_path: Path) -> None:
    with open_model(write_bin(tmp_path / "a.bin", tiny_weights())) as source:
        one = copy_model(source, tmp_path / "one.gguf", "gguf", {"source": {"sha256": "00"}})
        two = copy_model(source, tmp_path / "two.gguf", "gguf", {"source": {"sha256": "00"}})
    assert one.read_bytes() == two.read_bytes()


def test_bf16_is_read_as_it_is(tmp_path: Path) -> None:
    weights = tiny_weights().as_type(np.float32)
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in weights.arrays.items()}
    folder = write_huggingface(tmp_path / "hf", Weights(weights.dims, weights.tokenizer, halves, weights.filters))
    with open_model(folder) as model:
        for tensor in model.tensors:
            assert tensor.type.name == "bf16"
            assert bytes(model.rows(tensor)) == halves[tensor.name].tobytes()


def test_f32_is_read_as_it_is(tmp_path: Path) -> None:
    weights = tiny_weights().as_type(np.float32)
    for path in (write_huggingface(tmp_path / "hf", weights), write_openai(tmp_path / "a.pt", weights)):
        with open_model(path) as model:
            assert_same_tensors(model, weights)


def test_parts_of_a_tensor_are_read_by_rows(tmp_path: Path) -> None:
    weights = tiny_weights()
    with open_model(write_openai(tmp_path / "a.pt", weights)) as model:
        tensor = model["encoder.blocks.1.mlp.0.weight"]
        assert bytes(model.rows(tensor, 3, 7)) == weights.arrays[tensor.name][3:7].tobytes()
        assert bytes(model.rows(tensor, 3, 7)) == weights.arrays[tensor.name][3:7].tobytes()


def test_a_model_saved_without_its_head_is_read(tmp_path: Path) -> None:
    weights = tiny_weights()
    folder = write_huggingface(tmp_path, weights)
    bare = {name_in_dialect(n, "huggingface").removeprefix("model."): a for n, a in weights.arrays.items()}
    write_safetensors(folder / "model.safetensors", bare)
    with open_model(folder) as model:
        assert_same_tensors(model, weights)


def test_tied_projection_is_left_out(tmp_path: Path) -> None:
    weights = tiny_weights()
    embedding = weights.arrays["decoder.token_embedding.weight"]
    with open_model(write_huggingface(tmp_path, weights, extra={"proj_out.weight": embedding})) as model:
        assert_same_tensors(model, weights)
        assert model.warnings == ()


def test_projection_stands_in_for_an_embedding_that_was_not_saved(tmp_path: Path) -> None:
    weights = tiny_weights()
    folder = write_huggingface(tmp_path, weights)
    arrays = {name_in_dialect(n, "huggingface"): a for n, a in weights.arrays.items()}
    arrays["proj_out.weight"] = arrays.pop("model.decoder.embed_tokens.weight")
    write_safetensors(folder / "model.safetensors", arrays)
    with open_model(folder) as model:
        assert_same_tensors(model, weights)


def test_mel_filters_are_computed_where_the_folder_has_none(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, tiny_weights())
    (folder / "preprocessor_config.json").write_text("{}")
    with open_model(folder) as model:
        assert model.mel_filters == mel_filters(TINY.n_mels)


def test_mel_filters_may_be_transposed(tmp_path: Path) -> None:
    weights = tiny_weights()
    folder = write_huggingface(tmp_path, weights)
    columns = np.frombuffer(weights.filters, np.float32).reshape(TINY.n_mels, 201).T.tolist()
    (folder / "preprocessor_config.json").write_text(f'{{"mel_filters": {columns}}}')
    with open_model(folder) as model:
        assert model.mel_filters == weights.filters


def test_slow_tokenizer_gives_what_the_fast_one_does(tmp_path: Path) -> None:
    import json

    folder = write_huggingface(tmp_path, tiny_weights())
    fast = json.loads((folder / "tokenizer.json").read_text())
    with open_model(folder) as model:
        expected = model.tokenizer
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(fast["model"]["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in fast["model"]["merges"]) + "\n"
    )
    (folder / "added_tokens.json").write_text(json.dumps({e["content"]: e["id"] for e in fast["added_tokens"]}))
    with open_model(folder) as model:
        assert model.tokenizer == expected


# --- real weights


@pytest.fixture(scope="module", params=REAL_MODELS)
def real_weights(request: pytest.FixtureRequest) -> Weights:
    with open_model(request.getfixturevalue(f"{request.param}_folder")) as model:
        return weights_of(model)


@pytest.mark.parametrize("kind", ["huggingface", "sharded", "openai"])
def test_real_weights_are_the_same_everywhere(kind: str, real_weights: Weights, tmp_path: Path) -> None:
    """tiny.en and base as CTranslate2 has them, written as another project does, read back, and on to GGUF."""
    with open_model(WRITERS[kind](tmp_path, real_weights)) as model:
        assert_same_tensors(model, real_weights)
        assert model.tokenizer.tokens == real_weights.tokenizer.tokens
        path = copy_model(model, tmp_path / "model.gguf", "gguf")
    with open_model(path) as model:
        assert_same_tensors(model, real_weights)


@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_bin_to_gguf_to_bin_is_the_same_file(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    first: Path = request.getfixturevalue(f"{name}_bin")
    with open_model(first) as source:
        middle = copy_model(source, tmp_path / "middle.gguf", "gguf")
    with open_model(middle) as source:
        last = copy_model(source, tmp_path / "last.bin", "bin")
    assert last.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", REAL_MODELS)
def test_transformers_folder_and_torch_checkpoint(
    torch, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What transformers and torch themselves save, of the same weights."""
    import transformers

    source: Path = request.getfixturevalue(f"{name}_folder")
    with open_model(source) as model:
        weights = weights_of(model).as_type(np.float16)
    state = {name: torch.from_numpy(array.copy()) for name, array in weights.arrays.items()}
    torch.save({"dims": asdict(weights.dims), "model_state_dict": state}, tmp_path / "checkpoint.pt")
    end, start = (weights.tokenizer.special[text] for text in ("<|endoftext|>", "<|startoftranscript|>"))
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    config = transformers.WhisperConfig(**hf_config(weights.dims), **ids)
    network = transformers.WhisperForConditionalGeneration(config).half()
    network.load_state_dict({name_in_dialect(n, "huggingface"): t for n, t in state.items()}, strict=False)
    network.save_pretrained(tmp_path / "hf")
    network.save_pretrained(tmp_path / "sharded", max_shard_size="30MB")
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "old").mkdir()
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "old" / "pytorch_model.bin")
    shutil.copy(tmp_path / "hf" / "config.json", tmp_path / "old")
    for folder in ("hf", "sharded", "old", "."):
        shutil.copy(source / "tokenizer.json", tmp_path / folder)
    for path in ("checkpoint.pt", "hf", "sharded", "old"):
        with open_model(tmp_path / path) as model:
            assert_same_tensors(model, weights)


@pytest.mark.parametrize("name", REAL_MODELS)
def test_bin_equals_one_made_by_hand_up_to_tensor_order(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """whisq's ``.bin`` against one put together from CTranslate2's arrays, without whisq's writer."""
    written: Path = request.getfixturevalue(f"{name}_bin")
    with open_model(request.getfixturevalue(f"{name}_folder")) as model:
        weights = weights_of(model)
    wide = {name: spec.is_matrix or spec.role == "conv" for name, spec in expected_tensors(weights.dims).items()}
    arrays = {name: a.astype(np.float16 if wide[name] else np.float32) for name, a in weights.arrays.items()}
    by_hand = write_bin(tmp_path / "by-hand.bin", replace(weights, arrays=arrays))
    assert _head(by_hand) == _head(written)
    with open_model(written) as model:
        assert_same_tensors(model, replace(weights, arrays=arrays))


def _variables(path: Path) -> dict[str, np.ndarray]:
    """Return a CTranslate2 file's f16 variables, read here without whisq."""
    data, at, found = path.read_bytes(), 0, {}

    def take(form: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    def text() -> str:
        nonlocal at
        (length,) = take("H")
        at += length
        return data[at - length : at - 1].decode()

    take("I"), text(), take("I")
    for _ in range(*take("I")):
        name = text()
        (rank,) = take("B")
        shape = take(f"{rank}I")
        kind, size = take("BI")
        if kind == 4:
            found[name] = np.frombuffer(data, np.float16, size // 2, at).reshape(shape)
        at += size
    return found


@pytest.mark.parametrize("name", REAL_MODELS)
def test_fused_matrices_are_split_into_query_key_and_value(name: str, request: pytest.FixtureRequest) -> None:
    """CTranslate2 stacks query, key and value of self-attention, key and value of cross-attention, in that order."""
    folder: Path = request.getfixturevalue(f"{name}_folder")
    variables = _variables(folder / "model.bin")
    fused = (("encoder", "self_attention/linear_0", "attn", ("query", "key", "value")),
             ("decoder", "self_attention/linear_0", "attn", ("query", "key", "value")),
             ("decoder", "attention/linear_0", "cross_attn", ("query",)),
             ("decoder", "attention/linear_1", "cross_attn", ("key", "value")))  # fmt: skip
    with open_model(folder) as model:
        layers = {"encoder": model.dims.n_audio_layer, "decoder": model.dims.n_text_layer}
        width = model.dims.n_audio_state
        for stack, linear, attention, parts in fused:
            for layer in range(layers[stack]):
                whole = variables[f"{stack}/layer_{layer}/{linear}/weight"]
                assert whole.shape == (len(parts) * width, width)
                for number, part in enumerate(parts):
                    tensor = model[f"{stack}.blocks.{layer}.{attention}.{part}.weight"]
                    rows = whole[number * width : (number + 1) * width]
                    assert bytes(model.rows(tensor)) == rows.tobytes(), tensor.name


def _head(path: Path) -> bytes:
    """Return all of a ``.bin`` before its first tensor."""
    with open_model(path) as model:
        first = min(model.tensors, key=lambda tensor: tensor.location.offset)
        header = 12 + 4 * max(2, len(first.shape)) + len(first.name)
        return path.read_bytes()[: first.location.offset - header]


def test_layout_offsets_are_aligned_and_apart(tmp_path: Path) -> None:
    with open_model(write_bin(tmp_path / "a.bin", tiny_weights())) as model:
        outputs = [Output(tensor, tensor.type) for tensor in model.tensors]
        arranged = layout_of("gguf", model, outputs)
        spans = [(offset, offset + len(piece)) for offset, piece in arranged.pieces]
        spans += [(o, o + output.size_bytes) for output, o in zip(outputs, arranged.data_offsets, strict=True)]
        spans.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert spans[-1][1] <= arranged.size_bytes
        assert all(offset % 32 == 0 for offset in arranged.data_offsets)
        assert len(expected_tensors(model.dims)) == len(outputs)
