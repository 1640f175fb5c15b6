"""Whisper's dimensions, and the one table of its tensors.

Canonical names are OpenAI's own (``whisper/model.py``), which whisper.cpp's ``.bin`` uses too. Every dialect that has
one name per tensor is written next to the canonical one here; CTranslate2, which stores several tensors as one, has
its own table beside its reader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

Stack = Literal["encoder", "decoder"]
Role = Literal[
    "token_embedding", "position", "conv", "conv_bias", "norm", "bias",
    "attn.query", "attn.key", "attn.value", "attn.out",
    "cross_attn.query", "cross_attn.key", "cross_attn.value", "cross_attn.out",
    "mlp.0", "mlp.2",
]  # fmt: skip
Dialect = Literal["canonical", "transcribe.cpp", "huggingface"]

ATTENTION_PARTS = ("query", "key", "value", "out")
MATRIX_ROLES: tuple[Role, ...] = (
    "attn.query",
    "attn.key",
    "attn.value",
    "attn.out",
    "cross_attn.query",
    "cross_attn.key",
    "cross_attn.value",
    "cross_attn.out",
    "mlp.0",
    "mlp.2",
)
"""Roles of the weight matrices inside the blocks, in the order people list them."""
_WITHOUT_BIAS: tuple[Role, ...] = ("attn.key", "cross_attn.key")

TOKEN_EMBEDDING = "decoder.token_embedding.weight"
PROTECTED = (
    TOKEN_EMBEDDING,
    "encoder.positional_embedding",
    "decoder.positional_embedding",
    "encoder.conv1.bias",
    "encoder.conv2.bias",
)
"""Tensors that are never quantized unless a user lifts the protection by name."""

N_FFT_BINS = 201
"""Rows of the spectrum that the mel filters weigh: n_fft 400 at 16 kHz."""

LARGEST_SIZES = {
    "n_vocab": 1 << 20, "n_audio_ctx": 1 << 16, "n_audio_state": 1 << 14, "n_audio_head": 1 << 8,
    "n_audio_layer": 1 << 8, "n_text_ctx": 1 << 16, "n_text_state": 1 << 14, "n_text_head": 1 << 8,
    "n_text_layer": 1 << 8, "n_mels": 1 << 10,
}  # fmt: skip
"""What a reader takes for a model's sizes: far above any released one's, far below what a damaged file may claim."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The ten sizes that fix a Whisper model's shapes, named as in OpenAI's ``ModelDimensions``."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int

    @property
    def is_multilingual(self) -> bool:
        """True for vocabularies with language tokens; whisper.cpp draws the same line at 51865."""
        return self.n_vocab >= 51865


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a Whisper model of given dimensions must hold under one name.

    ``shape`` is numpy's order (rows first); ``stack`` is the half of the model it belongs to; ``layer`` is
    None outside the blocks.
    """

    name: str
    stack: Stack
    layer: int | None
    role: Role
    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """True for the 2-D weight matrices: the only tensors that are ever quantized."""
        return self.role in MATRIX_ROLES or self.role == "token_embedding"

    @property
    def n_columns(self) -> int:
        """Weights in a row: ggml's ne[0]."""
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        """Rows of ``n_columns`` weights, all other sizes multiplied."""
        return math.prod(self.shape[:-1])

    @property
    def n_weights(self) -> int:
        """Weights in the tensor."""
        return math.prod(self.shape)

    @property
    def bias(self) -> str | None:
        """Canonical name of what is added to the outputs of this matrix or conv kernel, one value per row.

        None for what has none: the keys, whose bias softmax would cancel, the token embedding, and every tensor
        that is not multiplied with.
        """
        if self.role not in (*MATRIX_ROLES, "conv") or self.role in _WITHOUT_BIAS:
            return None
        return f"{self.name.removesuffix('weight')}bias"


def expected_tensors(dims: Dimensions) -> dict[str, TensorSpec]:
    """Return every tensor of a model with these dimensions by canonical name, in whisper.cpp's order."""
    return {spec.name: spec for spec in _specs(dims)}


def _specs(dims: Dimensions) -> Iterator[TensorSpec]:
    audio, text = dims.n_audio_state, dims.n_text_state
    yield TensorSpec("encoder.positional_embedding", "encoder", None, "position", (dims.n_audio_ctx, audio))
    yield TensorSpec("encoder.conv1.weight", "encoder", None, "conv", (audio, dims.n_mels, 3))
    yield TensorSpec("encoder.conv1.bias", "encoder", None, "conv_bias", (audio,))
    yield TensorSpec("encoder.conv2.weight", "encoder", None, "conv", (audio, audio, 3))
    yield TensorSpec("encoder.conv2.bias", "encoder", None, "conv_bias", (audio,))
    yield from _norm("encoder.ln_post", "encoder", None, audio)
    for layer in range(dims.n_audio_layer):
        yield from _block("encoder", layer, audio)
    yield TensorSpec("decoder.positional_embedding", "decoder", None, "position", (dims.n_text_ctx, text))
    embedding = (dims.n_vocab, text)
    yield TensorSpec("decoder.token_embedding.weight", "decoder", None, "token_embedding", embedding)
    yield from _norm("decoder.ln", "decoder", None, text)
    for layer in range(dims.n_text_layer):
        yield from _block("decoder", layer, text)


def _norm(name: str, stack: Stack, layer: int | None, width: int) -> Iterator[TensorSpec]:
    for part in ("weight", "bias"):
        yield TensorSpec(f"{name}.{part}", stack, layer, "norm", (width,))


def _linear(name: str, stack: Stack, layer: int, role: Role, shape: tuple[int, int]) -> Iterator[TensorSpec]:
    weight = TensorSpec(f"{name}.weight", stack, layer, role, shape)
    yield weight
    if weight.bias is not None:
        yield TensorSpec(weight.bias, stack, layer, "bias", shape[:1])


def _block(stack: Stack, layer: int, width: int) -> Iterator[TensorSpec]:
    prefix = f"{stack}.blocks.{layer}"
    for attention in ("attn", "cross_attn") if stack == "decoder" else ("attn",):
        yield from _norm(f"{prefix}.{attention}_ln", stack, layer, width)
        for part in ATTENTION_PARTS:
            role: Role = f"{attention}.{part}"  # type: ignore[assignment]  # both halves come from closed sets
            name = f"{prefix}.{attention}.{part}"
            yield from _linear(name, stack, layer, role, (width, width))
    yield from _norm(f"{prefix}.mlp_ln", stack, layer, width)
    yield from _linear(f"{prefix}.mlp.0", stack, layer, "mlp.0", (4 * width, width))
    yield from _linear(f"{prefix}.mlp.2", stack, layer, "mlp.2", (width, 4 * width))


# One row per name part: canonical, transcribe.cpp, Hugging Face. "{n}" stands for the layer's number.
_BLOCK_PARTS = {
    "encoder": [
        ("attn_ln", "norm_attn", "self_attn_layer_norm"),
        *[(f"attn.{c}", f"attn.{t}", f"self_attn.{h}") for c, t, h in
          (("query", "q", "q_proj"), ("key", "k", "k_proj"), ("value", "v", "v_proj"), ("out", "out", "out_proj"))],
        ("mlp_ln", "norm_ffn", "final_layer_norm"),
        ("mlp.0", "ffn.fc1", "fc1"),
        ("mlp.2", "ffn.fc2", "fc2"),
    ],
    "decoder": [
        ("attn_ln", "norm_self", "self_attn_layer_norm"),
        ("cross_attn_ln", "norm_cross", "encoder_attn_layer_norm"),
        *[(f"{c}.{cp}", f"{t}.{tp}", f"{h}.{hp}")
          for c, t, h in (("attn", "self_attn", "self_attn"), ("cross_attn", "cross_attn", "encoder_attn"))
          for cp, tp, hp in
          (("query", "q", "q_proj"), ("key", "k", "k_proj"), ("value", "v", "v_proj"), ("out", "out", "out_proj"))],
        ("mlp_ln", "norm_ffn", "final_layer_norm"),
        ("mlp.0", "ffn.fc1", "fc1"),
        ("mlp.2", "ffn.fc2", "fc2"),
    ],
}  # fmt: skip
_TOP_NAMES = [
    ("encoder.positional_embedding", "enc.pos_emb.weight", "model.encoder.embed_positions.weight"),
    ("encoder.conv1.weight", "enc.conv.0.weight", "model.encoder.conv1.weight"),
    ("encoder.conv1.bias", "enc.conv.0.bias", "model.encoder.conv1.bias"),
    ("encoder.conv2.weight", "enc.conv.1.weight", "model.encoder.conv2.weight"),
    ("encoder.conv2.bias", "enc.conv.1.bias", "model.encoder.conv2.bias"),
    ("encoder.ln_post.weight", "enc.final_norm.weight", "model.encoder.layer_norm.weight"),
    ("encoder.ln_post.bias", "enc.final_norm.bias", "model.encoder.layer_norm.bias"),
    ("decoder.positional_embedding", "dec.pos_emb.weight", "model.decoder.embed_positions.weight"),
    ("decoder.token_embedding.weight", "dec.token_embd.weight", "model.decoder.embed_tokens.weight"),
    ("decoder.ln.weight", "dec.final_norm.weight", "model.decoder.layer_norm.weight"),
    ("decoder.ln.bias", "dec.final_norm.bias", "model.decoder.layer_norm.bias"),
]
_DIALECT_COLUMN: dict[Dialect, int] = {"canonical": 0, "transcribe.cpp": 1, "huggingface": 2}
_BLOCK_NAME = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.(weight|bias)")
_STORED_BLOCK_NAME = re.compile(r"(encoder|decoder)\.(blocks|layers)\.([0-9]{1,3})\.(.+)\.(weight|bias)")


@cache
def _top_names() -> dict[str, tuple[str, str, str]]:
    return {row[0]: row for row in _TOP_NAMES}


@cache
def _block_parts(stack: str) -> dict[str, tuple[str, str, str]]:
    return {row[0]: row for row in _BLOCK_PARTS[stack]}


@lru_cache(maxsize=8192)
def name_in_dialect(canonical: str, dialect: Dialect) -> str:
    """Return a canonical tensor name as another dialect writes it.

    Raises ``KeyError`` for a name that is not a Whisper tensor's.
    """
    column = _DIALECT_COLUMN[dialect]
    if canonical in _top_names():
        return _top_names()[canonical][column]
    match = _BLOCK_NAME.fullmatch(canonical)
    if match is None:
        raise KeyError(canonical)
    stack, layer, part, ending = match.groups()
    middle = _block_parts(stack)[part][column]
    prefix = {
        "canonical": f"{stack}.blocks.{layer}",
        "transcribe.cpp": f"{stack[:3]}.blocks.{layer}",
        "huggingface": f"model.{stack}.layers.{layer}",
    }[dialect]
    return f"{prefix}.{middle}.{ending}"


@cache
def _canonical_tops() -> dict[str, str]:
    return {spelling: row[0] for row in _TOP_NAMES for spelling in (row[0], row[2].removeprefix("model."))}


@cache
def _canonical_parts(stack: str) -> dict[str, dict[str, str]]:
    rows = _BLOCK_PARTS[stack]
    return {"blocks": {row[0]: row[0] for row in rows}, "layers": {row[2]: row[0] for row in rows}}


def canonical_name(name: str) -> str | None:
    """Return the canonical name of a tensor that OpenAI or transformers (without ``model.``) names so, or None."""
    if name in _canonical_tops():
        return _canonical_tops()[name]
    match = _STORED_BLOCK_NAME.fullmatch(name)
    if match is None:
        return None
    stack, word, layer, part, ending = match.groups()
    canonical = _canonical_parts(stack)[word].get(part)
    return f"{stack}.blocks.{int(layer)}.{canonical}.{ending}" if canonical is not None else None


def dialect_names(canonical: str) -> dict[Dialect, str]:
    """Return the name of one tensor in every dialect."""
    return {dialect: name_in_dialect(canonical, dialect) for dialect in _DIALECT_COLUMN}
