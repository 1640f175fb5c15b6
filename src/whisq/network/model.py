"""A whole Whisper in memory: encoder and decoder, from any block on, and the text that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.model import Model
from whisq.network import stack
from whisq.network.operations import Array, Operations
from whisq.network.stack import UNOBSERVED, Cache, KeysValues, Layer, Observer, read_layer
from whisq.network.tokens import LONGEST_TEXT, text_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder's weights, in float32."""

    outside: Layer
    blocks: tuple[Layer, ...]

    def encode(self, mel: Array) -> Array:
        """Return the output ``[batch, frames, width]`` for log-mel spectra ``[batch, n_mels, 2 × frames]``."""
        return self.run(stack.stem(self.outside, mel))

    def run(
        self, hidden: Array, start: int = 0, seen: list[Array] | None = None, observer: Observer = UNOBSERVED
    ) -> Array:
        """Return the output for what the block ``start`` sees. What each block sees is added to ``seen``."""
        for block in self.blocks[start:]:
            if seen is not None:
                seen.append(hidden)
            hidden = stack.encoder_block(block, hidden, observer)
        return stack.encoder_end(self.outside, hidden)


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder's weights, in float32, and what it needs to write: special tokens, and which ids are text."""

    outside: Layer
    blocks: tuple[Layer, ...]
    special: SpecialTokens = field(repr=False)
    is_text: NDArray[np.bool_] = field(repr=False)

    def cross(self, encoded: Array, observer: Observer = UNOBSERVED) -> list[KeysValues]:
        """Return each block's keys and values of an encoder's output."""
        return [stack.keys_values(block, "cross_attn", encoded, observer) for block in self.blocks]

    def run(
        self,
        hidden: Array,
        cross: Sequence[KeysValues],
        start: int = 0,
        seen: list[Array] | None = None,
        observer: Observer = UNOBSERVED,
        cache: Cache | None = None,
    ) -> Array:
        """Return the states after the last block, for what the block ``start`` sees.

        What each block sees, and then what is returned, is added to ``seen``.
        """
        for block, known in zip(self.blocks[start:], cross[start:], strict=True):
            if seen is not None:
                seen.append(hidden)
            hidden = stack.decoder_block(block, hidden, known, observer, cache)
        if seen is not None:
            seen.append(hidden)
        return hidden

    def logits(self, encoded: Array, ids: Sequence[int]) -> Array:
        """Return the logits after each of ``ids``, ``[len(ids), vocabulary]``, for one window's encoder output."""
        hidden = self.run(stack.embed(self.outside, np.array([ids])), self.cross(encoded))
        return stack.logits(self.outside, hidden[0])

    def write(self, encoded: Array, prompt: Sequence[int], longest: int = LONGEST_TEXT) -> list[int]:
        """Return the prompt and what the model writes greedily after it, the end token included.

        ``encoded`` is one window's encoder output; see ``write_together``.
        """
        return self.write_together(encoded, [prompt], longest)[0]

    def write_together(
        self, encoded: Array, prompts: Sequence[Sequence[int]], longest: int = LONGEST_TEXT
    ) -> list[list[int]]:
        """Return what ``write`` does for each of several windows, ``encoded`` being ``[windows, frames, width]``.

        The prompts are equally long. All windows take a step at once, so that the weights, which is what a step waits
        for, are read once for all of them. Only text tokens and the end are written, ``longest`` at most, and no more
        than the model's text context holds. Raises ``DataError`` for a vocabulary without an end token.
        """
        operations = self.outside.operations
        end = self.special.required("end")
        allowed = self.is_text.copy()
        allowed[end] = True
        texts, cross, cache, fresh = [list(prompt) for prompt in prompts], self.cross(encoded), Cache(), 0
        for _ in range(min(longest, len(self.outside["positional_embedding"]) - len(texts[0]))):
            hidden = stack.embed(self.outside, np.array(texts)[:, fresh:], fresh)
            hidden = self.run(hidden, cross, cache=cache)
            scores = operations.numpy(stack.logits(self.outside, hidden[:, -1]))
            fresh = len(texts[0])
            # What has ended goes on as it ended, as long as another writes.
            for text, found in zip(texts, np.where(allowed, scores, -np.inf).argmax(-1), strict=True):
                text.append(end if text[-1] == end else int(found))
            if all(text[-1] == end for text in texts):
                break
        return [_to_the_end(text, len(prompt), end) for text, prompt in zip(texts, prompts, strict=True)]


def _to_the_end(text: list[int], n_prompt: int, end: int) -> list[int]:
    """Return a text up to the first end token that was written."""
    stop = next((place for place in range(n_prompt, len(text)) if text[place] == end), len(text))
    return text[: stop + 1]


@dataclass(frozen=True, slots=True)
class Network:
    """A whole model's weights, in float32."""

    encoder: Encoder
    decoder: Decoder

    def with_tensors(self, tensors: Mapping[str, NDArray[np.float32]]) -> Network:
        """Return this network with some weights exchanged, by the model's names; all others are shared."""
        operations = self.encoder.outside.operations
        arrays = {name: operations.array(values) for name, values in tensors.items()}

        def exchanged(layers: Sequence[Layer]) -> tuple[Layer, ...]:
            return tuple(layer.with_tensors(arrays) for layer in layers)

        outside = exchanged([self.encoder.outside, self.decoder.outside])
        return Network(
            replace(self.encoder, outside=outside[0], blocks=exchanged(self.encoder.blocks)),
            replace(self.decoder, outside=outside[1], blocks=exchanged(self.decoder.blocks)),
        )


def load_encoder(model: Model, operations: Operations) -> Encoder:
    """Return a model's encoder, dequantized. Raises ``FormatError`` with the names of tensors that are missing."""
    blocks = [read_layer(model, "encoder", number, operations) for number in range(model.dims.n_audio_layer)]
    return Encoder(read_layer(model, "encoder", None, operations), tuple(blocks))


def load_decoder(model: Model, operations: Operations) -> Decoder:
    """Return a model's decoder, dequantized.

    Raises ``FormatError`` with the names of tensors that are missing, and for a model that lists no tokens.
    """
    blocks = [read_layer(model, "decoder", number, operations) for number in range(model.dims.n_text_layer)]
    special = special_tokens(model)
    outside = read_layer(model, "decoder", None, operations)
    return Decoder(outside, tuple(blocks), special, text_ids(model, special))


def load_network(model: Model, operations: Operations) -> Network:
    """Return a whole model, dequantized: one copy in float32, and one tensor more while it is read.

    Raises ``FormatError`` as ``load_encoder`` and ``load_decoder`` do.
    """
    return Network(load_encoder(model, operations), load_decoder(model, operations))
