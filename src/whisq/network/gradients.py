"""The way back: from a gradient at a network's logits to that at the output of each of its linear layers.

Written out by hand on the same operations as the way forward, so that no backend needs gradients of its own. Of the
weights no gradient is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from whisq.network import stack
from whisq.network.model import Network
from whisq.network.operations import Array
from whisq.network.stack import Layer, Observer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

See = Callable[[str, Array], None]
"""Is told a linear layer's name (``….attn.query``) and the gradient at its output, ``[batch, positions, width]``."""


class _Outputs(Observer):
    """Keeps the outputs of all linear layers: with what each block sees, all that the way back needs."""

    def __init__(self) -> None:
        self.kept: dict[str, Array] = {}

    def output(self, name: str, y: Array) -> Array:
        self.kept[name] = y
        return y


class Forward:
    """One run of a network on what its first blocks see: ``[batch, frames, width]`` and ``[batch, tokens, width]``.

    ``chosen`` says at which tokens logits are wanted, ``[batch, tokens]``; ``logits`` are theirs,
    ``[chosen, vocabulary]``.
    """

    def __init__(self, network: Network, audio: Array, text: Array, chosen: NDArray[np.bool_]) -> None:
        self._network, self._chosen = network, chosen
        self._seen_by_encoder: list[Array] = []
        self._seen_by_decoder: list[Array] = []
        outputs = _Outputs()
        encoder, decoder = network.encoder, network.decoder
        encoded = encoder.run(audio, seen=self._seen_by_encoder, observer=outputs)
        hidden = decoder.run(text, decoder.cross(encoded, outputs), seen=self._seen_by_decoder, observer=outputs)
        self._outputs = outputs.kept
        self.logits = stack.logits(decoder.outside, hidden[chosen])

    def back(self, gradient: Array, see: See) -> None:
        """Take a gradient at ``logits`` back through all layers, and tell ``see`` of it at each output on the way."""
        encoder, decoder = self._network.encoder, self._network.decoder
        see("decoder.token_embedding", gradient)
        last = self._seen_by_decoder[-1]
        flowing = last * 0
        flowing[self._chosen] = _norm_back(
            decoder.outside, "ln", last[self._chosen], gradient @ decoder.outside[stack.EMBEDDING]
        )
        at_encoded: Array = 0
        for block, seen in zip(decoder.blocks[::-1], self._seen_by_decoder[-2::-1], strict=True):
            after_attention = seen + self._outputs[f"{block.name}.attn.out"]
            after_cross = after_attention + self._outputs[f"{block.name}.cross_attn.out"]
            flowing = flowing + self._mlp_back(block, after_cross, flowing, see)
            queries, keys, values = self._attention_back(block, "cross_attn", flowing, see, causal=False)
            at_encoded = at_encoded + keys + values
            flowing = flowing + _norm_back(block, "cross_attn_ln", after_attention, queries)
            own = self._attention_back(block, "attn", flowing, see, causal=seen.shape[1] > 1)
            flowing = flowing + _norm_back(block, "attn_ln", seen, sum(own))
        block, seen = encoder.blocks[-1], self._seen_by_encoder[-1]
        last = seen + self._outputs[f"{block.name}.attn.out"] + self._outputs[f"{block.name}.mlp.2"]
        flowing = _norm_back(encoder.outside, "ln_post", last, at_encoded)
        for block, seen in zip(encoder.blocks[::-1], self._seen_by_encoder[::-1], strict=True):
            flowing = flowing + self._mlp_back(block, seen + self._outputs[f"{block.name}.attn.out"], flowing, see)
            own = self._attention_back(block, "attn", flowing, see, causal=False)
            flowing = flowing + _norm_back(block, "attn_ln", seen, sum(own))

    def _mlp_back(self, block: Layer, hidden: Array, gradient: Array, see: See) -> Array:
        """Return the gradient at the hidden states that a block's feed-forward part saw."""
        wide = block.operations.gelu_back(
            self._outputs[f"{block.name}.mlp.0"], _linear_back(block, "mlp.2", gradient, see)
        )
        return _norm_back(block, "mlp_ln", hidden, _linear_back(block, "mlp.0", wide, see))

    def _attention_back(
        self, block: Layer, attention: str, gradient: Array, see: See, *, causal: bool
    ) -> tuple[Array, Array, Array]:
        """Return the gradients at the inputs of an attention's query, key and value."""
        parts = [f"{attention}.{part}" for part in ("query", "key", "value")]
        query, key, value = (stack.heads(block, self._outputs[f"{block.name}.{part}"]) for part in parts)
        mixed = stack.heads(block, _linear_back(block, f"{attention}.out", gradient, see))
        found = block.operations.attention_back(query, key, value, mixed, causal=causal)
        queries, keys, values = (
            _linear_back(block, part, each.swapaxes(1, 2).reshape(self._outputs[f"{block.name}.{part}"].shape), see)
            for part, each in zip(parts, found, strict=True)
        )
        return queries, keys, values


def _linear_back(layer: Layer, part: str, gradient: Array, see: See) -> Array:
    see(f"{layer.name}.{part}", gradient)
    return gradient @ layer[f"{part}.weight"]


def _norm_back(layer: Layer, part: str, hidden: Array, gradient: Array) -> Array:
    return layer.operations.layer_norm_back(hidden, layer[f"{part}.weight"], gradient)
