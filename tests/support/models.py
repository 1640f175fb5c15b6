"""Whisper models of a few kilobytes, in memory: sizes, weights, vocabularies. ``containers`` writes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from whisq.formats.mel import mel_filters
from whisq.model import Model, Tokenizer
from whisq.whisper import Dimensions, TensorSpec, expected_tensors

TINY = Dimensions(
    n_vocab=300,
    n_audio_ctx=6,
    n_audio_state=32,
    n_audio_head=1,
    n_audio_layer=2,
    n_text_ctx=8,
    n_text_state=32,
    n_text_head=1,
    n_text_layer=1,
    n_mels=2,
)
"""Large enough to have every kind of tensor, small enough to truncate at every byte."""

NARROW = Dimensions(
    n_vocab=16,
    n_audio_ctx=6,
    n_audio_state=64,
    n_audio_head=1,
    n_audio_layer=3,
    n_text_ctx=5,
    n_text_state=64,
    n_text_head=1,
    n_text_layer=3,
    n_mels=4,
)
"""64-wide rows: blocks of 32 fit, K types do not (mlp.2's rows of 256 excepted)."""

WIDE = Dimensions(
    n_vocab=8,
    n_audio_ctx=4,
    n_audio_state=256,
    n_audio_head=4,
    n_audio_layer=1,
    n_text_ctx=4,
    n_text_state=256,
    n_text_head=4,
    n_text_layer=1,
    n_mels=2,
)
"""256-wide rows: every type fits."""

_MERGED = [b" t", b"he", b" the", b"in", b"er", b" a", b"\xc3\xa9"]
_SPECIAL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip

REAL_MODELS = ["tiny_en", pytest.param("base", marks=pytest.mark.slow)]
"""Parameters: what the fixtures ``…_folder`` and ``…_bin`` begin with."""

# name: (encoder layers, decoder layers, width, heads, vocabulary, mels)
RELEASED = {
    "tiny.en": (4, 4, 384, 6, 51864, 80),
    "tiny": (4, 4, 384, 6, 51865, 80),
    "base.en": (6, 6, 512, 8, 51864, 80),
    "base": (6, 6, 512, 8, 51865, 80),
    "small.en": (12, 12, 768, 12, 51864, 80),
    "small": (12, 12, 768, 12, 51865, 80),
    "medium.en": (24, 24, 1024, 16, 51864, 80),
    "medium": (24, 24, 1024, 16, 51865, 80),
    "large-v1": (32, 32, 1280, 20, 51865, 80),
    "large-v2": (32, 32, 1280, 20, 51865, 80),
    "large-v3": (32, 32, 1280, 20, 51866, 128),
    "large-v3-turbo": (32, 4, 1280, 20, 51866, 128),
    "distil-small.en": (12, 4, 768, 12, 51864, 80),
    "distil-medium.en": (24, 2, 1024, 16, 51864, 80),
    "distil-large-v2": (32, 2, 1280, 20, 51865, 80),
    "distil-large-v3": (32, 2, 1280, 20, 51866, 128),
}


def released(name: str) -> Dimensions:
    """Return a released model's dimensions."""
    encoder, decoder, width, heads, vocabulary, mels = RELEASED[name]
    return Dimensions(vocabulary, 1500, width, heads, encoder, 448, width, heads, decoder, mels)


@dataclass(frozen=True)
class Weights:
    """A model in memory: arrays by canonical name, f16 or f32."""

    dims: Dimensions
    tokenizer: Tokenizer
    arrays: dict[str, np.ndarray]
    filters: bytes

    def as_type(self, kind: type) -> Weights:
        """Return the model with all arrays of one type."""
        return replace(self, arrays={name: array.astype(kind) for name, array in self.arrays.items()})


def hollow_weights(dims: Dimensions) -> Weights:
    """Return a model of any size that takes no room: f16 matrices and f32 vectors, all of them holes."""
    wide = {name: spec.is_matrix or spec.role == "conv" for name, spec in expected_tensors(dims).items()}
    arrays: dict[str, Any] = {
        name: Hole(spec.shape, np.float16 if wide[name] else np.float32)
        for name, spec in expected_tensors(dims).items()
    }
    return Weights(dims, whole_tokenizer(50256 + (dims.n_vocab > 51864)), arrays, mel_filters(dims.n_mels))


def tiny_tokenizer() -> Tokenizer:
    """Return a vocabulary of bytes, a few merges, and Whisper's special tokens."""
    order = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order += [value for value in range(256) if value not in set(order)]
    tokens = [bytes([value]) for value in order] + _MERGED
    special = {text: len(tokens) + number for number, text in enumerate(_SPECIAL)}
    merges = ("Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "Ã ©")
    return Tokenizer((*tokens, b"<|endoftext|>"), merges, special)


def whole_tokenizer(end: int) -> Tokenizer:
    """Return a vocabulary with ``end`` tokens of text, most of them made up, and no special tokens but the first."""
    tokens = tiny_tokenizer().tokens[:-1]
    made_up = tuple(f"w{number}".encode() for number in range(len(tokens), end))
    return replace(tiny_tokenizer(), tokens=(*tokens, *made_up, b"<|endoftext|>"), special={})


def tiny_weights(dims: Dimensions = TINY, seed: int = 4) -> Weights:
    """Return a random model whose matrices are f16 and the rest f32, all exact in f16."""
    random = np.random.default_rng(seed)
    arrays = {}
    for name, spec in expected_tensors(dims).items():
        array = random.standard_normal(spec.shape).astype(np.float16)
        arrays[name] = array if spec.is_matrix or spec.role == "conv" else array.astype(np.float32)
    return Weights(dims, tiny_tokenizer(), arrays, mel_filters(dims.n_mels))


def weights_of(model: Model) -> Weights:
    """Return a model's f16 and f32 tensors in memory."""
    kinds = {"f32": np.float32, "f16": np.float16}
    arrays = {t.name: np.frombuffer(bytes(model.rows(t)), kinds[t.type.name]).reshape(t.shape) for t in model.tensors}
    return Weights(model.dims, model.tokenizer, arrays, model.mel_filters)


def values_of(spec: TensorSpec, seed: int = 0) -> np.ndarray:
    """Normal weights that depend on the tensor's name only."""
    generator = np.random.default_rng([seed, *spec.name.encode()])
    return (generator.standard_normal(spec.shape) * 0.1).astype(np.float32)


def named_weights(dims: Dimensions, kind: type = np.float32) -> Weights:
    """Return a model in which every tensor is ``values_of`` its name, all of one type, with three tokens."""
    arrays = {name: values_of(spec).astype(kind) for name, spec in expected_tensors(dims).items()}
    tokens = Tokenizer((b"a", b"b", b"ab", b"<|endoftext|>"), ("a b",), {})
    return Weights(dims, tokens, arrays, np.linspace(0, 1, dims.n_mels * 201, dtype="<f4").tobytes())


class Hole:
    """An array of zeros of which a file system keeps the size only: models of any size in kilobytes."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype, self.ndim, self.size = tuple(shape), np.dtype(dtype), len(shape), math.prod(shape)
        self.itemsize = self.dtype.itemsize
        self.nbytes = self.size * self.itemsize
        self.strides = tuple(self.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        if function is np.concatenate:
            parts = arguments[0]
            return Hole((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), parts[0].dtype)
        return self if function is np.zeros_like else NotImplemented
