"""What a model says of itself: its container, the hash of its file, the fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import WRITERS, copy_model, write_bin, write_huggingface, write_openai
from tests.support.models import TINY, Weights, hollow_weights, released, tiny_weights, weights_of
from whisq import Recipe, make_plan, quantize
from whisq.formats import open_model
from whisq.model import Model, TensorRef
from whisq.quantization.convert import make_conversion
from whisq.types import F16, F32, parse_type
from whisq.whisper import Dimensions

WIDER = replace(TINY, n_vocab=2100, n_audio_ctx=2200)
"""As ``TINY``, but embedding and encoder positions are too large to be looked at whole."""


def fingerprint_of(path: Path) -> str:
    with open_model(path) as model:
        return model.fingerprint


def defined(weights: Weights) -> str:
    """Return a fingerprint by its definition, put together from arrays."""
    parts = [b"whisq model fingerprint 1\n"]
    for name in sorted(weights.arrays):
        array = weights.arrays[name]
        if array.size > 65536:
            array = np.stack([array[i * (len(array) - 1) // 3] for i in range(4)])
        sizes = "x".join(str(size) for size in weights.arrays[name].shape)
        parts += [f"{name} {sizes}\n".encode(), array.astype("<f2").tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def counted_weights(dims: Dimensions = TINY) -> Weights:
    """Return a model of plain numbers, which no release of numpy can change."""
    weights = tiny_weights(dims)
    for number, name in enumerate(sorted(weights.arrays)):
        array = weights.arrays[name]
        values = (np.arange(array.size) * 7 + number * 13) % 2048 - 1024
        weights.arrays[name] = (values / 512).astype(array.dtype).reshape(array.shape)
    return weights


# --- container


@pytest.mark.parametrize(
    ("kind", "container"), [("bin", "bin"), ("huggingface", None), ("openai", None), ("ctranslate2", None)]
)
def test_the_container_is_what_a_ggml_runtime_reads(kind: str, container: str | None, tmp_path: Path) -> None:
    with open_model(WRITERS[kind](tmp_path, tiny_weights())) as model:
        assert model.format == kind
        assert model.container == container
        path = copy_model(model, tmp_path / "copy.gguf", "gguf")
    with open_model(path) as model:
        assert model.container == model.format == "gguf"


# --- sha256


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "a.bin", tiny_weights())
    with open_model(path) as model:
        assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_shards_is_that_of_all_of_them(tmp_path: Path) -> None:
    with open_model(write_huggingface(tmp_path, tiny_weights(), shards=3)) as model:
        content = b"".join(shard.read_bytes() for shard in sorted(tmp_path.glob("*.safetensors")))
        assert model.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["sha256", "fingerprint"])
def test_hashes_are_computed_once_and_outlive_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = hashlib.sha256

    def counting(*arguments: Any) -> Any:
        made.append(real(*arguments))
        return made[-1]

    model = open_model(write_bin(tmp_path / "a.bin", tiny_weights()))
    monkeypatch.setattr(hashlib, "sha256", counting)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: getattr(model, name), range(32)))
    model.close()
    assert found == {getattr(model, name)}
    assert len(made) == 1


# --- fingerprint


def test_the_fingerprint_is_what_it_is_documented_to_be(tmp_path: Path) -> None:
    for dims in (TINY, WIDER):
        weights = tiny_weights(dims)
        assert fingerprint_of(write_bin(tmp_path / "a.bin", weights)) == defined(weights)


def test_the_fingerprint_is_the_same_in_every_release(tmp_path: Path) -> None:
    """What was measured is kept under it: another value makes all of it unreachable."""
    path = write_bin(tmp_path / "a.bin", counted_weights(WIDER))
    assert fingerprint_of(path) == "99fe029c39191aab80a0fdca326779c4671438fc311a9d8344713c566e932d65"


@pytest.mark.parametrize("dims", [TINY, WIDER])
def test_the_fingerprint_is_the_same_in_every_container(dims: Dimensions, tmp_path: Path) -> None:
    weights = tiny_weights(dims)
    found = {}
    for kind, write in WRITERS.items():
        path = write(tmp_path, weights)
        found[kind] = fingerprint_of(path)
        with open_model(path) as model:
            found[f"{kind} to gguf"] = fingerprint_of(copy_model(model, tmp_path / "a.gguf", "gguf"))
    assert set(found.values()) == {defined(weights)}, found


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    weights = tiny_weights()
    turned = replace(weights, arrays=dict(reversed(weights.arrays.items())))
    with (
        open_model(write_bin(tmp_path / "a.bin", weights)) as one,
        open_model(write_bin(tmp_path / "b.bin", turned)) as two,
    ):
        assert [tensor.name for tensor in one.tensors] != [tensor.name for tensor in two.tensors]
        assert one.sha256 != two.sha256
        assert one.fingerprint == two.fingerprint


def test_an_f32_model_and_its_f16_conversions_are_one(tmp_path: Path) -> None:
    """Values that are not exact in f16: conv kernels and matrices are rounded in the file, all else only here."""
    random = np.random.default_rng(3)
    weights = tiny_weights(WIDER).as_type(np.float32)
    for name, array in weights.arrays.items():
        weights.arrays[name] = (array * random.uniform(1e-6, 1, array.shape)).astype(np.float32)
    found = {"f32": fingerprint_of(write_openai(tmp_path / "a.pt", weights))}
    with open_model(write_huggingface(tmp_path / "hf", weights)) as source:
        for container in ("bin", "gguf"):
            for kind in (F16, F32):
                path = tmp_path / f"{kind}.{container}"
                quantize(make_conversion(source, container, kind), path)  # type: ignore[arg-type]
                found[path.name] = fingerprint_of(path)
    found["all f16"] = fingerprint_of(write_huggingface(tmp_path / "half", weights.as_type(np.float16)))
    assert set(found.values()) == {defined(weights)}, found


def test_exact_bf16_is_one_with_its_f32_and_f16(tmp_path: Path) -> None:
    bits = {n: a.astype(np.float32).view(np.uint32) >> 16 for n, a in tiny_weights().arrays.items()}
    halves = replace(tiny_weights(), arrays={n: b.astype(np.uint16) for n, b in bits.items()})
    floats = replace(halves, arrays={n: (b << 16).astype(np.uint32).view(np.float32) for n, b in bits.items()})
    path = write_huggingface(tmp_path / "bf16", halves)
    found = {"bf16": fingerprint_of(path), "f32": fingerprint_of(write_bin(tmp_path / "a.bin", floats))}
    with open_model(path) as source:
        quantize(make_conversion(source, "gguf"), tmp_path / "a.gguf")
        quantize(make_conversion(source, "bin", F16), tmp_path / "b.bin")
    found |= {name: fingerprint_of(tmp_path / name) for name in ("a.gguf", "b.bin")}
    assert set(found.values()) == {defined(floats)}, found


def test_what_f16_cannot_hold_is_no_obstacle(tmp_path: Path) -> None:
    weights = tiny_weights().as_type(np.float32)
    weights.arrays["decoder.ln.bias"][:4] = [1e30, -1e30, np.nan, -np.nan]
    other = replace(weights, arrays=dict(weights.arrays))
    other.arrays["decoder.ln.bias"] = weights.arrays["decoder.ln.bias"].copy()
    other.arrays["decoder.ln.bias"][:4] = [np.inf, -np.inf, -np.nan, np.nan]
    assert fingerprint_of(write_bin(tmp_path / "a.bin", weights)) == fingerprint_of(
        write_bin(tmp_path / "b.bin", other)
    )


def changed(weights: Weights, name: str, change: Callable[[np.ndarray], None]) -> Weights:
    array = weights.arrays[name].copy()
    change(array)
    return replace(weights, arrays={**weights.arrays, name: array})


@pytest.mark.parametrize("name", sorted(tiny_weights().arrays))
def test_one_weight_of_any_small_tensor_makes_another_model(name: str, tmp_path: Path) -> None:
    def last(array: np.ndarray) -> None:
        array.reshape(-1)[-1] += array.dtype.type(1)

    weights = tiny_weights()
    path = write_bin(tmp_path / "a.bin", changed(weights, name, last))
    assert fingerprint_of(path) != defined(weights)


@pytest.mark.parametrize(
    ("row", "seen"), [(0, True), (1, False), (699, True), (1399, True), (2098, False), (2099, True)]
)
def test_four_rows_of_a_large_tensor_are_looked_at(row: int, seen: bool, tmp_path: Path) -> None:
    def one(array: np.ndarray) -> None:
        array[row, 5] += array.dtype.type(1)

    weights = tiny_weights(WIDER)
    path = write_bin(tmp_path / "a.bin", changed(weights, "decoder.token_embedding.weight", one))
    assert (fingerprint_of(path) != defined(weights)) is seen


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q5_1", "iq4_nl"])
def test_a_quantized_model_is_another_one(kind: str, tmp_path: Path) -> None:
    with open_model(write_bin(tmp_path / "a.bin", tiny_weights(WIDER))) as source:
        original = source.fingerprint
        found = set()
        for container in ("bin", "gguf"):
            path = tmp_path / f"b.{container}"
            quantize(make_plan(source, Recipe(parse_type(kind)), container=container), path)  # type: ignore[arg-type]
            found.add(fingerprint_of(path))
    assert len(found) == 1
    assert original not in found


def test_another_model_of_the_same_shape(tmp_path: Path) -> None:
    assert defined(tiny_weights(seed=4)) != fingerprint_of(write_bin(tmp_path / "a.bin", tiny_weights(seed=5)))


def test_shapes_are_part_of_it(tmp_path: Path) -> None:
    """Zeros are zeros: only names and sizes tell these two apart."""
    found = set()
    for n_audio_ctx in (6, 7):
        weights = tiny_weights(replace(TINY, n_audio_ctx=n_audio_ctx))
        zeros = replace(weights, arrays={name: np.zeros_like(array) for name, array in weights.arrays.items()})
        found.add(fingerprint_of(write_bin(tmp_path / "a.bin", zeros)))
    assert len(found) == 2


def test_a_few_megabytes_are_read_of_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    rows = Model.rows

    def counting(model: Model, tensor: TensorRef, start: int = 0, stop: int | None = None) -> memoryview:
        found = rows(model, tensor, start, stop)
        read.append(found.nbytes)
        return found

    path = write_bin(tmp_path / "large.bin", hollow_weights(released("large-v3")))
    monkeypatch.setattr(Model, "rows", counting)
    assert fingerprint_of(path)
    assert sum(read) < 13e6 < 0.005 * path.stat().st_size


def test_real_weights_have_one_fingerprint(
    tiny_en_folder: Path, tiny_en_bin: Path, tiny_en_f32_bin: Path, tmp_path: Path
) -> None:
    with open_model(tiny_en_folder) as model:
        weights = weights_of(model)
    written = write_huggingface(tmp_path, weights, shards=2)
    assert {fingerprint_of(p) for p in (tiny_en_folder, tiny_en_bin, tiny_en_f32_bin, written)} == {defined(weights)}
