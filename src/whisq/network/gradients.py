"""The way back: from a gradient at a network's logits to that at the output of each of its linear layers.

Written out by hand on the same operations as the way forward, so that no backend needs gradients of its own. Of the
weights no gradient is taken. Several gradients of one run go back together: what they share is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisq.network import stack
from whisq.network.model import Decoder, Network
from whisq.network.operations import Array
from whisq.network.stack import KeysValues, Layer, Observer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

See = Callable[[str, Array], None]
"""Is told a linear layer's name (``….attn.query``) and gradients at its output ``[gradients, positions, width]``."""


class _Outputs(Observer):
    """Keeps the outputs of all linear layers: with what each block sees, all that the way back needs."""

    def __init__(self) -> None:
        self.kept: dict[str, Array] = {}

    def output(self, name: str, y: Array) -> Array:
        self.kept[name] = y
        return y


class Listened:
    """One run of a network's encoder on what its first block sees, ``[1, frames, width]``, for any number of texts."""

    def __init__(self, network: Network, audio: Array) -> None:
        self._network = network
        self._seen: list[Array] = []
        self._outputs = _Outputs()
        encoded = network.encoder.run(audio, seen=self._seen, observer=self._outputs)
        self._cross = network.decoder.cross(encoded, self._outputs)

    def read(self, text: Array, chosen: NDArray[np.bool_]) -> Read:
        """Return a run of the decoder on what its first block sees, ``[1, tokens, width]``.

        ``chosen`` says at which tokens logits are wanted, ``[1, tokens]``.
        """
        return Read(self._network.decoder, self._cross, self._outputs.kept, text, chosen)

    def back(self, gradient: Array, see: See) -> None:
        """Take gradients at the encoder's output, ``[gradients, frames, width]``, back through its layers."""
        encoder, outputs = self._network.encoder, self._outputs.kept
        block, seen = encoder.blocks[-1], self._seen[-1]
        last = seen + outputs[f"{block.name}.attn.out"] + outputs[f"{block.name}.mlp.2"]
        flowing = _norm_back(encoder.outside, "ln_post", last, gradient)
        for block, seen in zip(encoder.blocks[::-1], self._seen[::-1], strict=True):
            way = _Way(block, outputs, see)
            flowing = flowing + way.mlp(seen + outputs[f"{block.name}.attn.out"], flowing)
            own = way.attention("attn", flowing, causal=False)
            flowing = flowing + _norm_back(block, "attn_ln", seen, sum(own))


class Read:
    """One run of a decoder; ``logits`` are those of the chosen tokens, ``[chosen, vocabulary]``. See ``Listened``."""

    def __init__(
        self,
        decoder: Decoder,
        cross: Sequence[KeysValues],
        of_cross: Mapping[str, Array],
        text: Array,
        chosen: NDArray[np.bool_],
    ) -> None:
        self._decoder, self._chosen = decoder, chosen[0]
        self._seen: list[Array] = []
        outputs = _Outputs()
        hidden = decoder.run(text, cross, seen=self._seen, observer=outputs)
        self._outputs = {**of_cross, **outputs.kept}
        self.logits = stack.logits(decoder.outside, hidden[0, self._chosen])

    def back(self, gradient: Array, see: See) -> Array:
        """Take gradients at ``logits``, ``[gradients, chosen, vocabulary]``, back through all layers of the decoder.

        ``see`` is told of them at each output on the way. Returns those at the encoder's output.
        """
        decoder = self._decoder
        see("decoder.token_embedding", gradient)
        last, embedding = self._seen[-1], decoder.outside[stack.EMBEDDING]
        flowing = decoder.outside.operations.concatenate([last * 0] * len(gradient), 0)
        at_chosen = decoder.outside.operations.linear_back(gradient, embedding)
        flowing[:, self._chosen] = _norm_back(decoder.outside, "ln", last[:, self._chosen], at_chosen)
        at_encoded: Array = 0
        for block, seen in zip(decoder.blocks[::-1], self._seen[-2::-1], strict=True):
            way = _Way(block, self._outputs, see)
            after_attention = seen + self._outputs[f"{block.name}.attn.out"]
            after_cross = after_attention + self._outputs[f"{block.name}.cross_attn.out"]
            flowing = flowing + way.mlp(after_cross, flowing)
            queries, keys, values = way.attention("cross_attn", flowing, causal=False)
            at_encoded = at_encoded + keys + values
            flowing = flowing + _norm_back(block, "cross_attn_ln", after_attention, queries)
            own = way.attention("attn", flowing, causal=seen.shape[1] > 1)
            flowing = flowing + _norm_back(block, "attn_ln", seen, sum(own))
        return at_encoded


class Forward:
    """One run of a whole network: a ``Listened`` and a ``Read`` of it."""

    def __init__(self, network: Network, audio: Array, text: Array, chosen: NDArray[np.bool_]) -> None:
        self._listened = Listened(network, audio)
        self._read = self._listened.read(text, chosen)
        self.logits = self._read.logits

    def back(self, gradient: Array, see: See) -> None:
        """Take gradients at ``logits``, ``[gradients, chosen, vocabulary]``, back through all layers."""
        self._listened.back(self._read.back(gradient, see), see)


@dataclass(frozen=True, slots=True)
class _Way:
    """The way back through one block, by the outputs of its layers."""

    block: Layer
    outputs: Mapping[str, Array]
    see: See

    def mlp(self, hidden: Array, gradient: Array) -> Array:
        """Return the gradient at the hidden states that the feed-forward part saw."""
        wide = self.block.operations.gelu_back(
            self.outputs[f"{self.block.name}.mlp.0"], self._linear("mlp.2", gradient)
        )
        return _norm_back(self.block, "mlp_ln", hidden, self._linear("mlp.0", wide))

    def attention(self, name: str, gradient: Array, *, causal: bool) -> tuple[Array, Array, Array]:
        """Return the gradients at the inputs of an attention's query, key and value."""
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        query, key, value = (stack.heads(self.block, self.outputs[f"{self.block.name}.{part}"]) for part in parts)
        mixed = stack.heads(self.block, self._linear(f"{name}.out", gradient))
        found = self.block.operations.attention_back(query, key, value, mixed, causal=causal)
        queries, keys, values = (
            self._linear(part, each.swapaxes(1, 2).reshape(len(each), each.shape[2], -1))
            for part, each in zip(parts, found, strict=True)
        )
        return queries, keys, values

    def _linear(self, part: str, gradient: Array) -> Array:
        self.see(f"{self.block.name}.{part}", gradient)
        return self.block.operations.linear_back(gradient, self.block[f"{part}.weight"])


def _norm_back(layer: Layer, part: str, hidden: Array, gradient: Array) -> Array:
    return layer.operations.layer_norm_back(hidden, layer[f"{part}.weight"], gradient)
