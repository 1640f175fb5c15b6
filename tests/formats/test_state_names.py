"""The same weights under every name, type, order and sharding that training leaves them in give the same file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats import test_trainers_objects
from tests.support.containers import (
    Pickle,
    hf_config,
    tokenizer_json,
    write_ctranslate2,
    write_huggingface,
    write_openai,
    write_safetensors,
    write_torch,
)
from tests.support.doc_tables import table, table_in
from tests.support.models import NARROW, Weights, tiny_weights
from whisq import Recipe, make_plan, open_model, quantize
from whisq.errors import FormatError
from whisq.formats.safetensors import read_arrays
from whisq.formats.state_names import find_whisper
from whisq.quantization.convert import make_conversion
from whisq.source_file import SourceFile
from whisq.types import TYPES
from whisq.whisper import Dimensions, name_in_dialect

PREFIXES = (
    "", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "whisper.", "base_model.model.",
    "_forward_module.", "model.whisper.", "module.base_model.model.",
)  # fmt: skip
DIMS = Dimensions(**{**asdict(NARROW), "n_vocab": 300, "n_audio_layer": 1, "n_text_layer": 1})


def exact_weights() -> Weights:
    """Weights that f16 and bf16 both hold exactly: eight bits each."""
    weights = tiny_weights(DIMS)
    arrays = {
        name: (np.round(array.astype(np.float32) * 32) / 32).astype(array.dtype)
        for name, array in weights.arrays.items()
    }
    return Weights(DIMS, weights.tokenizer, arrays, weights.filters)


WEIGHTS = exact_weights()
EMBEDDING = "model.decoder.embed_tokens.weight"


def stored(array: np.ndarray, kind: str) -> np.ndarray:
    """Return an array as an element type; bf16 is the upper half of f32."""
    if kind == "bf16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return array.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind])


def named(weights: Weights = WEIGHTS) -> dict[str, np.ndarray]:
    return {name_in_dialect(name, "huggingface"): array for name, array in weights.arrays.items()}


def described(folder: Path) -> Path:
    """Write all of a transformers folder but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(DIMS)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(WEIGHTS.tokenizer)))
    rows = np.frombuffer(WEIGHTS.filters, np.float32).reshape(DIMS.n_mels, 201)
    (folder / "preprocessor_config.json").write_text(json.dumps({"mel_filters": rows.tolist()}))
    return folder


def folder_of(path: Path, arrays: dict[str, np.ndarray], file: str = "model.safetensors") -> Path:
    described(path)
    (write_torch if file.endswith(".bin") else write_safetensors)(path / file, arrays)
    return path


def files_of(source: Path) -> tuple[bytes, bytes]:
    """Return what ``quantize … q8_0`` and ``convert --type f16`` make of a model as ``.bin``."""
    with TemporaryDirectory() as place, open_model(source) as model:
        quantize(make_plan(model, Recipe(TYPES["q8_0"])), Path(place) / "q.bin")
        quantize(make_conversion(model, "bin", TYPES["f16"]), Path(place) / "c.bin")
        return (Path(place) / "q.bin").read_bytes(), (Path(place) / "c.bin").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return files_of(folder_of(tmp_path_factory.mktemp("plain"), named()))


WORDS = ("", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
WRAPPERS = ("plain", "state_dict", "model", "module", "model_state_dict")


def written(folder: Path, arrays: dict[str, np.ndarray], form: str, n_shards: int) -> Path:
    """Write arrays as safetensors or by torch, whole or in shards, or as a trainer's checkpoint; return its place."""
    if form in WRAPPERS:
        return write_torch(folder / "last.ckpt", arrays if form == "plain" else {form: arrays, "epoch": 1})
    stem, suffix, write = {
        "safetensors": ("model", "safetensors", write_safetensors),
        "torch": ("pytorch_model", "bin", write_torch),
    }[form]
    if n_shards == 1:
        write(folder / f"{stem}.{suffix}", arrays)
        return folder
    home = {name: f"{stem}-{i % n_shards + 1:05d}-of-{n_shards:05d}.{suffix}" for i, name in enumerate(arrays)}
    for shard in set(home.values()):
        write(folder / shard, {name: arrays[name] for name in arrays if home[name] == shard})
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": home}))
    return folder


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_order_prefix_type_and_sharding_give_the_same_file(data: st.DataObject, expected: Any) -> None:
    """Permuted, renamed, each tensor in a type of its own, in 1 to 4 shards, in every form that training writes."""
    arrays = named()
    order = data.draw(st.permutations(sorted(arrays)))
    prefix = data.draw(st.sampled_from(PREFIXES))
    word = data.draw(st.sampled_from(WORDS))
    kinds = data.draw(st.lists(st.sampled_from(("f16", "bf16", "f32", "f64")), min_size=1, max_size=4))
    form = data.draw(st.sampled_from(("safetensors", "torch", *WRAPPERS)))
    n_shards = data.draw(st.integers(1, 4))
    turned = {
        prefix + name.replace("layers.0.", f"layers.0.{word}"): stored(arrays[name], kinds[i % len(kinds)])
        for i, name in enumerate(order)
    }
    with TemporaryDirectory() as place:
        assert files_of(written(described(Path(place) / "hf"), turned, form, n_shards)) == expected


@pytest.mark.parametrize("prefix", PREFIXES[1:])
def test_a_prefix_is_said(tmp_path: Path, prefix: str) -> None:
    with open_model(folder_of(tmp_path, {prefix + name: array for name, array in named().items()})) as model:
        assert model.warnings == ()
        (note,) = model.notes
        assert prefix in note
        assert "is left out of the names of the tensors" in note


def test_names_of_the_bare_model_are_all_used(tmp_path: Path, expected: Any) -> None:
    bare = {name.removeprefix("model."): array for name, array in named().items()}
    folder = folder_of(tmp_path, bare)
    assert files_of(folder) == expected
    with open_model(folder) as model:
        assert model.warnings == model.notes == ()


@pytest.mark.parametrize("word", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_a_wrapper_in_the_midst_of_names(tmp_path: Path, expected: Any, word: str) -> None:
    folder = folder_of(tmp_path, {name.replace("layers.0.", f"layers.0.{word}"): a for name, a in named().items()})
    assert files_of(folder) == expected
    with open_model(folder) as model:
        assert repr(word) in model.notes[0]


@pytest.mark.parametrize("place", ["", "state_dict", "model", "module", "model_state_dict"])
@pytest.mark.parametrize("dialect", ["huggingface", "canonical"])
def test_a_trainers_checkpoint(tmp_path: Path, place: str, dialect: Any) -> None:
    """No sizes in it: they are taken from the shapes, the head from its width of 64."""
    state = {f"model.{name_in_dialect(name, dialect)}": array for name, array in WEIGHTS.arrays.items()}
    optimizer = {"state": {"0": {"exp_avg": np.zeros(3, np.float32)}}}
    document = {place: state, "optimizer": optimizer, "epoch": 3} if place else state
    path = write_torch(tmp_path / "last.ckpt", document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(WEIGHTS.tokenizer)))
    with open_model(path) as model:
        assert model.dims == DIMS
        assert model.warnings == ()
        for name, array in WEIGHTS.arrays.items():
            assert (model.array(name) == array.astype(np.float32)).all(), name
        assert any("states no sizes" in note for note in model.notes)
        assert bool(place and place != "model_state_dict") == any(f"under {place!r}" in note for note in model.notes)


def test_of_two_models_in_a_checkpoint_the_one_left_out_is_said(tmp_path: Path) -> None:
    document = {"ema": {name: array + 1 for name, array in named().items()}, "model": named()}
    path = write_torch(described(tmp_path) / "last.pt", document)
    with open_model(path) as model:
        assert "the weights under 'model' are taken, those under ema are left out" in model.warnings[0]
        assert (model.array("decoder.ln.bias") == WEIGHTS.arrays["decoder.ln.bias"]).all()


def test_two_models_under_two_prefixes_are_refused(tmp_path: Path) -> None:
    both = {f"{prefix}{name}": array for prefix in ("student.", "teacher.") for name, array in named().items()}
    with pytest.raises(FormatError, match=r"holds 2 models, whose names begin with 'student\.model\.' and 'teacher"):
        open_model(folder_of(tmp_path, both))


def test_tensors_that_are_not_stored_row_by_row(tmp_path: Path, expected: Any) -> None:
    """Matrices turned, kernels with the last axis first, a vector with gaps, all as torch saves a view."""
    turned = {}
    for name, array in named().items():
        if array.ndim == 1:
            wide = np.repeat(array, 3)
            turned[name] = np.lib.stride_tricks.as_strided(wide, array.shape, (3 * wide.itemsize,))
        else:
            turned[name] = np.asfortranarray(array)
    assert not turned[EMBEDDING].flags.c_contiguous
    assert files_of(folder_of(tmp_path, turned, "pytorch_model.bin")) == expected


def test_a_view_that_reaches_beyond_its_storage(tmp_path: Path) -> None:
    small = np.zeros(64, np.float32)
    array = Pickle().value(small)  # says that it is storage 0
    assert b"(J\x01\0\0\0t\x89" in array
    beyond = array.replace(b"(J\x01\0\0\0t\x89", b"(J\x02\0\0\0t\x89")
    folder = described(tmp_path)
    write_torch(folder / "pytorch_model.bin", {"a": small, **named(), "model.decoder.layer_norm.bias": beyond})
    with pytest.raises(FormatError, match=r"decoder\.layer_norm\.bias of shape \[64\] needs 508 bytes, data/0 has 256"):
        open_model(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"])
def test_a_file_named_instead_of_its_folder(tmp_path: Path, expected: Any, file: str) -> None:
    assert files_of(folder_of(tmp_path, named(), file) / file) == expected


def test_a_folder_without_a_configuration_tells_its_sizes_by_shapes(tmp_path: Path, expected: Any) -> None:
    """As accelerate and DeepSpeed gather weights."""
    folder = folder_of(tmp_path, named())
    (folder / "config.json").unlink()
    assert files_of(folder) == expected
    with open_model(folder) as model:
        assert model.dims == DIMS
        assert any("has no config.json; the sizes are taken from the shapes" in note for note in model.notes)


def test_a_shard_stands_for_all(tmp_path: Path, expected: Any) -> None:
    folder = write_huggingface(tmp_path / "sharded", WEIGHTS, shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    assert files_of(shard) == expected
    with open_model(shard) as model:
        assert "is one of 3 shards" in model.notes[0]


def test_a_file_of_ctranslate2_stands_for_its_folder(tmp_path: Path) -> None:
    folder = write_ctranslate2(tmp_path / "ct2", WEIGHTS)
    assert files_of(folder / "model.bin") == files_of(folder)


def test_a_variant_is_taken_and_said(tmp_path: Path, expected: Any) -> None:
    folder = folder_of(tmp_path, named(), "model.fp16.safetensors")
    assert files_of(folder) == expected
    with open_model(folder) as model:
        assert "the variant fp16 is taken: model.fp16.safetensors" in model.notes[0]
    write_safetensors(folder / "model.fp32.safetensors", named())
    with pytest.raises(FormatError, match="weights of several variants, fp16, fp32, and none without"):
        open_model(folder)


def test_the_tokenizer_of_a_checkpoint_is_in_its_parent(tmp_path: Path, expected: Any) -> None:
    folder = folder_of(tmp_path / "run/checkpoint-500", named())
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    assert files_of(folder) == expected
    with open_model(folder) as model:
        assert f"has no tokenizer; that of {folder.parent} is taken" in model.notes[0]


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("instead", [False, True])
def test_the_projection_beside_or_instead_of_the_embedding(
    tmp_path: Path, expected: Any, kind: str, instead: bool
) -> None:
    arrays = named()
    arrays["proj_out.weight"] = stored(arrays[EMBEDDING], kind)
    if instead:
        del arrays[EMBEDDING]
    folder = folder_of(tmp_path, arrays)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert files_of(folder) == expected
    with open_model(folder) as model:
        assert model.warnings == ()


@pytest.mark.parametrize(("kind", "away"), [("f16", 2.0**-8), ("bf16", 2.0**-5), ("f32", 2.0**-18)])
def test_a_projection_that_differs_by_more_than_rounding(tmp_path: Path, kind: str, away: float) -> None:
    arrays = named()
    embedding = arrays[EMBEDDING].astype(np.float32)
    rounded = stored(embedding * np.float32(1 + 2.0**-13), kind)
    if kind != "f32":
        with open_model(folder_of(tmp_path / "near", arrays | {EMBEDDING: embedding, "proj_out.weight": rounded})):
            pass
    moved = stored(embedding * np.float32(1 + away), kind)
    with pytest.raises(FormatError, match=r"proj_out\.weight differs from"):
        open_model(folder_of(tmp_path / "far", arrays | {EMBEDDING: embedding, "proj_out.weight": moved}))


def test_doubles_beyond_f32_are_refused_when_they_are_written(tmp_path: Path) -> None:
    from whisq.errors import WeightError

    arrays = {name: array.astype(np.float64) for name, array in named().items()}
    arrays["model.decoder.layer_norm.bias"][0] = 1e300
    with open_model(folder_of(tmp_path, arrays)) as model, pytest.raises(WeightError):
        quantize(make_plan(model, Recipe(TYPES["q8_0"])), tmp_path / "a.bin")


def test_layers_beyond_the_configuration(tmp_path: Path) -> None:
    arrays = named()
    arrays |= {name.replace("layers.0", "layers.1"): a for name, a in named().items() if "encoder.layers" in name}
    with pytest.raises(FormatError, match="its configuration counts 1 layers of the encoder"):
        open_model(folder_of(tmp_path, arrays))


def test_openai_checkpoint_behind_a_prefix(tmp_path: Path) -> None:
    write_openai(tmp_path / "a.pt", WEIGHTS)
    state = {f"module.{name}": array for name, array in WEIGHTS.arrays.items()}
    write_torch(tmp_path / "b.pt", {"dims": asdict(DIMS), "model_state_dict": state})
    assert files_of(tmp_path / "b.pt") == files_of(tmp_path / "a.pt")


def test_tensors_that_are_the_same_but_for_a_wrapper(tmp_path: Path) -> None:
    arrays = named()
    path = write_safetensors(
        tmp_path / "a.safetensors", arrays | {f"_orig_mod.{name}": a for name, a in arrays.items()}
    )
    file = SourceFile(path)
    with pytest.raises(FormatError, match="are there twice but for a wrapper's word"):
        find_whisper(path, read_arrays(file, 0))
    file.close()


READ = {
    "names behind a wrapper's prefix": (
        test_a_prefix_is_said,
        "`module.`, `_orig_mod.`, `whisper.`, `base_model.model.` or any other, as long as all have it",
    ),
    "wrappers' words in the midst of names (`_orig_mod`)": (
        test_a_wrapper_in_the_midst_of_names,
        "left out, like FSDP's",
    ),
    "names without `model.`": (test_names_of_the_bare_model_are_all_used, "as `WhisperModel` saves them"),
    "`.pt`, `.ckpt` of a trainer": (
        test_a_trainers_checkpoint,
        "weights under `state_dict`, `model`, `module`, `model_state_dict` or none; without `dims` and `config.json`,"
        " shapes tell the sizes, heads being 64 wide",
    ),
    "objects beside the weights (Lightning's hyperparameters)": (
        test_trainers_objects.test_objects_beside_the_weights_are_passed_over,
        "passed over: nothing of them is made or run",
    ),
    "a folder without `config.json`": (
        test_a_folder_without_a_configuration_tells_its_sizes_by_shapes,
        "shapes tell the sizes, heads being 64 wide",
    ),
    "f64": (
        test_any_order_prefix_type_and_sharding_give_the_same_file,
        "rounded to f32, then to what is asked for",
    ),
    "tensors that are not stored row by row": (
        test_tensors_that_are_not_stored_row_by_row,
        "put into order as they are read",
    ),
    "`variant` files": (test_a_variant_is_taken_and_said, "`model.fp16.safetensors`; of several, name one"),
    "a file named instead of its folder": (
        test_a_file_named_instead_of_its_folder,
        "`.safetensors` (of a shard, all are read), `pytorch_model.bin`, CTranslate2's `model.bin`",
    ),
    "a checkpoint whose tokenizer is in its parent": (
        test_the_tokenizer_of_a_checkpoint_is_in_its_parent,
        "taken from there",
    ),
    "`proj_out` beside or instead of the embedding": (
        test_the_projection_beside_or_instead_of_the_embedding,
        "its values must be the embedding's, up to the rounding of the two types",
    ),
}
"""What docs/formats.md lists: the test that it is read, and how."""


def test_the_docs_list_what_is_read() -> None:
    header = ("read too", "how")
    assert table_in("formats.md", header) == table(header, [(name, how) for name, (_, how) in READ.items()])
