"""Whisper's forward pass, once: stem, encoder block, embedding, decoder block and logits, each on one layer's weights.

As in OpenAI's ``whisper/model.py``. Whoever calls decides what is in memory: all layers (``network.model``), or one at
a time (``calibration.bench``). Hidden states are ``[batch, positions, width]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from whisq import kernels
from whisq.errors import FormatError
from whisq.model import Model
from whisq.network.operations import Array, Operations
from whisq.whisper import Stack, expected_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

KeysValues = tuple[Array, Array]
"""Keys and values of an attention, each ``[batch, heads, positions, width of a head]``."""

EMBEDDING = "token_embedding.weight"


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights by their names within a layer: ``attn.query.weight`` of the layer ``encoder.blocks.3``.

    What stands outside the blocks is the layer ``encoder`` or ``decoder``. ``n_heads`` is that of the stack.
    """

    name: str
    n_heads: int
    operations: Operations
    arrays: Mapping[str, Array] = field(repr=False)

    def __getitem__(self, part: str) -> Array:
        """Return one of the weights; raises ``KeyError``."""
        return self.arrays[part]

    def with_tensors(self, tensors: Mapping[str, Array]) -> Layer:
        """Return this layer with some of the weights exchanged; ``tensors`` go by the model's names.

        Those of other layers are left alone.
        """
        prefix = f"{self.name}."
        mine = {part: tensors[prefix + part] for part in self.arrays if prefix + part in tensors}
        return replace(self, arrays={**self.arrays, **mine}) if mine else self


class Observer:
    """Sees what passes through the linear layers. Nothing is done here: override what is wanted."""

    def input(self, name: str, x: Array) -> None:
        """Be told the input ``[batch, positions, width]`` of the linear layer of that name (``….attn.query``).

        Query, key and value are three layers with one input. The output layer is ``decoder.token_embedding``.
        """

    def output(self, name: str, y: Array) -> Array:
        """Be told a linear layer's output, and return what takes its place."""
        return y

    def attention(self, name: str, queries: Array, keys: Array) -> None:
        """Be told the queries and keys of an attention (``….cross_attn``), ``[batch, heads, positions, width]``."""


UNOBSERVED = Observer()


class Cache:
    """Keys and values of all decoder blocks' self-attention on the tokens so far, for writing token by token."""

    def __init__(self) -> None:
        self._kept: dict[str, KeysValues] = {}

    def extended(self, layer: Layer, fresh: KeysValues) -> KeysValues:
        """Return what is known of a block with fresh tokens added, and keep it."""
        if layer.name in self._kept:
            join = layer.operations.concatenate
            old = self._kept[layer.name]
            fresh = join([old[0], fresh[0]], 2), join([old[1], fresh[1]], 2)
        self._kept[layer.name] = fresh
        return fresh


def read_layer(
    model: Model, stack: Stack, number: int | None, operations: Operations, parts: Sequence[str] | None = None
) -> Layer:
    """Return a block of a stack, or what stands outside the blocks (``number`` None), its weights read in float32.

    With ``parts``, names within the layer, only those. Raises ``FormatError`` where
    the model lacks tensors.
    """
    name = stack if number is None else f"{stack}.blocks.{number}"
    specs = [spec for spec in expected_tensors(model.dims).values() if spec.stack == stack and spec.layer == number]
    wanted = {spec.name.removeprefix(f"{name}."): spec.name for spec in specs}
    if parts is not None:
        wanted = {part: wanted[part] for part in parts}
    missing = [full for full in wanted.values() if full not in model]
    if missing:
        raise FormatError(
            f"{model.path}: not a whole Whisper: missing {', '.join(missing)}",
            hint="open the file with `whisq inspect` to see what it holds",
        )
    arrays = {}
    for part, full in wanted.items():
        arrays[part] = operations.array(model.array(full))
    return Layer(name, model.dims.n_audio_head if stack == "encoder" else model.dims.n_text_head, operations, arrays)


@dataclass(frozen=True, slots=True)
class FileRows:
    """A matrix whose rows are read when they are asked for: an embedding that is not in memory."""

    model: Model
    name: str
    operations: Operations

    def __getitem__(self, ids: NDArray[np.intp]) -> Array:
        """Return rows by number, in the shape of ``ids`` and one axis more."""
        tensor = self.model[self.name]
        distinct, places = np.unique(ids, return_inverse=True)
        rows = [self.model.rows(tensor, int(row), int(row) + 1) for row in distinct]
        decoded = [kernels.dequantize(row, tensor.type, (tensor.n_columns,)) for row in rows]
        return self.operations.array(np.stack(decoded)[places].reshape(*ids.shape, tensor.n_columns))


def read_embedding(model: Model, operations: Operations) -> Layer:
    """Return what ``embed`` needs of a decoder; the token embedding stays in the file."""
    positions = read_layer(model, "decoder", None, operations, ("positional_embedding",))
    rows = FileRows(model, f"decoder.{EMBEDDING}", operations)
    return replace(positions, arrays={**positions.arrays, EMBEDDING: rows})


def stem(encoder: Layer, mel: Array) -> Array:
    """Return what the first encoder block sees of log-mel spectra ``[batch, n_mels, 2 × frames]``.

    There may be fewer frames than the model's context: the positions are then the first ones.
    """
    operations = encoder.operations
    hidden = operations.gelu(operations.conv1d(mel, encoder["conv1.weight"], encoder["conv1.bias"], 1))
    hidden = operations.gelu(operations.conv1d(hidden, encoder["conv2.weight"], encoder["conv2.bias"], 2))
    hidden = hidden.swapaxes(1, 2)
    return hidden + encoder["positional_embedding"][: hidden.shape[1]]


def encoder_block(block: Layer, hidden: Array, observer: Observer = UNOBSERVED) -> Array:
    """Return what an encoder block makes of hidden states."""
    normed = _norm(block, "attn_ln", hidden)
    own = keys_values(block, "attn", normed, observer)
    hidden = hidden + _attend(block, "attn", normed, own, observer, causal=False)
    return hidden + _mlp(block, hidden, observer)


def encoder_end(encoder: Layer, hidden: Array) -> Array:
    """Return the encoder's output."""
    return _norm(encoder, "ln_post", hidden)


def embed(decoder: Layer, ids: NDArray[np.intp], start: int = 0) -> Array:
    """Return what the first decoder block sees of token ids ``[batch, tokens]``; the first of them is at ``start``."""
    return decoder[EMBEDDING][ids] + decoder["positional_embedding"][start : start + ids.shape[1]]


def keys_values(layer: Layer, attention: str, hidden: Array, observer: Observer = UNOBSERVED) -> KeysValues:
    """Return the keys and values that an attention, ``attn`` or ``cross_attn``, has of hidden states."""
    keys, values = (_linear(layer, f"{attention}.{part}", hidden, observer) for part in ("key", "value"))
    return heads(layer, keys), heads(layer, values)


def decoder_block(
    block: Layer, hidden: Array, cross: KeysValues, observer: Observer = UNOBSERVED, cache: Cache | None = None
) -> Array:
    """Return what a decoder block makes of hidden states; ``cross`` are its keys and values of the encoder's output.

    With a cache, ``hidden`` are the tokens that are new: all at the beginning, then one.
    """
    normed = _norm(block, "attn_ln", hidden)
    own = keys_values(block, "attn", normed, observer)
    if cache is not None:
        own = cache.extended(block, own)
    hidden = hidden + _attend(block, "attn", normed, own, observer, causal=hidden.shape[1] > 1)
    hidden = hidden + _attend(block, "cross_attn", _norm(block, "cross_attn_ln", hidden), cross, observer, causal=False)
    return hidden + _mlp(block, hidden, observer)


def decoder_end(decoder: Layer, hidden: Array) -> Array:
    """Return what the output layer, which is the token embedding, multiplies."""
    return _norm(decoder, "ln", hidden)


def logits(decoder: Layer, hidden: Array, observer: Observer = UNOBSERVED) -> Array:
    """Return the logits ``[…, vocabulary]`` of the hidden states that the last block left."""
    return _linear(decoder, "token_embedding", decoder_end(decoder, hidden), observer)


def _norm(layer: Layer, part: str, hidden: Array) -> Array:
    return layer.operations.layer_norm(hidden, layer[f"{part}.weight"], layer[f"{part}.bias"])


def _linear(layer: Layer, part: str, x: Array, observer: Observer) -> Array:
    name = f"{layer.name}.{part}"
    observer.input(name, x)
    return observer.output(name, layer.operations.linear(x, layer[f"{part}.weight"], layer.arrays.get(f"{part}.bias")))


def _mlp(layer: Layer, hidden: Array, observer: Observer) -> Array:
    wide = _linear(layer, "mlp.0", _norm(layer, "mlp_ln", hidden), observer)
    return _linear(layer, "mlp.2", layer.operations.gelu(wide), observer)


def _attend(
    layer: Layer, attention: str, normed: Array, seen: KeysValues, observer: Observer, *, causal: bool
) -> Array:
    queries = heads(layer, _linear(layer, f"{attention}.query", normed, observer))
    observer.attention(f"{layer.name}.{attention}", queries, seen[0])
    mixed = layer.operations.attention(queries, *seen, causal=causal)
    joined = mixed.swapaxes(1, 2).reshape(normed.shape)
    return _linear(layer, f"{attention}.out", joined, observer)


def heads(layer: Layer, x: Array) -> Array:
    """Return states ``[batch, positions, width]`` split among an attention's heads, as its operations take them."""
    return x.reshape(*x.shape[:2], layer.n_heads, -1).swapaxes(1, 2)
