"""Every released size through every path. Shapes and names are the real ones; the weights are holes in files.

What is computed with is narrower, with the real numbers of layers, tokens and mels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import WRITERS, write_huggingface
from tests.support.models import RELEASED, Weights, hollow_weights, released, whole_tokenizer
from whisq import load_recipe, make_plan, quantize
from whisq.formats import open_model
from whisq.formats.gguf_metadata import variant_of_sizes
from whisq.formats.mel import mel_filters
from whisq.formats.special_tokens import special_tokens
from whisq.model import Model
from whisq.quantization.convert import make_conversion
from whisq.quantization.plan import Plan
from whisq.whisper import Dimensions, expected_tensors

_END = {51864: 50256, 51865: 50257, 51866: 50257}


def write_hollow(plan: Plan, path: Path) -> Path:
    """Write all of a plan's file but the weights."""
    with path.open("wb") as stream:
        stream.truncate(plan.size_bytes)
        for offset, piece in plan.layout.pieces:
            stream.seek(offset)
            stream.write(piece)
    return path


def check(model: Model, dims: Dimensions) -> None:
    assert model.dims == dims
    assert {tensor.name: tensor.shape for tensor in model.tensors} == {
        name: spec.shape for name, spec in expected_tensors(dims).items()
    }
    special = special_tokens(model)
    multilingual = dims.n_vocab > 51864
    assert special.end == _END[dims.n_vocab]
    assert special.start == special.end + 1
    assert len(special.languages) == (dims.n_vocab - 51766 if multilingual else 0)
    assert special.no_timestamps == dims.n_vocab - 1501 - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_real_shapes_are_read_and_laid_out(name: str, tmp_path: Path) -> None:
    dims = released(name)
    weights = hollow_weights(dims)
    sizes = set()
    for kind, write in WRITERS.items():
        with open_model(write(tmp_path, weights)) as model:
            check(model, dims)
            plan = make_plan(model, load_recipe("balanced"))
            sizes.add((plan.size_bytes, make_conversion(model, "bin").size_bytes))
            if kind in ("huggingface", "bin"):
                write_hollow(make_conversion(model, "gguf"), tmp_path / "model.gguf")
                with open_model(tmp_path / "model.gguf") as converted:
                    check(converted, dims)
                    assert converted.metadata["gguf"]["stt.variant"] == variant_of_sizes(dims)
                    write_hollow(make_conversion(converted, "bin"), tmp_path / "again.bin")
                with open_model(tmp_path / "again.bin") as again:
                    check(again, dims)
                    assert again.size_bytes == (tmp_path / "model.bin").stat().st_size
    assert len(sizes) == 1


def narrow(name: str) -> Weights:
    dims = replace(released(name), n_audio_state=32, n_text_state=32, n_audio_head=1, n_text_head=1)
    random = np.random.default_rng(5)
    arrays = {}
    for spec in expected_tensors(dims).values():
        wide = spec.is_matrix or spec.role == "conv"
        array = random.standard_normal(spec.shape, np.float32)
        arrays[spec.name] = array.astype(np.float16) if wide else array
    return Weights(dims, whole_tokenizer(50256 + (dims.n_vocab > 51864)), arrays, mel_filters(dims.n_mels))


@pytest.mark.parametrize("name", ["tiny.en", "medium", "large-v3", "large-v3-turbo", "distil-large-v3"])
def test_narrow_ones_are_quantized_and_converted(name: str, tmp_path: Path) -> None:
    with open_model(write_huggingface(tmp_path / "hf", narrow(name))) as source:
        for container in ("bin", "gguf"):
            plan = make_plan(source, load_recipe("compact"), container=container)
            quantize(plan, tmp_path / f"small.{container}")
        quantize(make_conversion(source, "bin"), tmp_path / "a.bin")
    with open_model(tmp_path / "small.bin") as one, open_model(tmp_path / "small.gguf") as two:
        for tensor in one.tensors:
            assert bytes(one.rows(tensor)) == bytes(two.rows(two[tensor.name])), tensor.name
    with open_model(tmp_path / "a.bin") as source:
        quantize(make_conversion(source, "gguf"), tmp_path / "b.gguf")
    with open_model(tmp_path / "b.gguf") as source:
        quantize(make_conversion(source, "bin"), tmp_path / "c.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "c.bin").read_bytes()
