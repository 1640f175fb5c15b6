"""One layer of transformers' Whisper at a time, its weights read when it is made and let go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.model import Model
from whisq.network.model import whisper_config
from whisq.whisper import Stack, expected_tensors, name_in_dialect

if TYPE_CHECKING:
    import torch

# Module in transformers' layer whose input is wanted: ours, by stack.
_WATCHED: dict[Stack, dict[str, str]] = {
    "encoder": {
        "self_attn.q_proj": "attn.query",
        "self_attn.out_proj": "attn.out",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
    },
    "decoder": {
        "self_attn.q_proj": "attn.query",
        "self_attn.out_proj": "attn.out",
        "encoder_attn.q_proj": "cross_attn.query",
        "encoder_attn.out_proj": "cross_attn.out",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
    },
}


def weights(model: Model, name: str, device: str) -> torch.Tensor:
    """Return one tensor in float32 on a device; its pages are let go."""
    import torch

    ref = model[name]
    array = np.array(model.array(ref), np.float32, copy=True)
    model.release(ref)
    return torch.from_numpy(array).to(device)


def load_layer(model: Model, stack: Stack, layer: int, device: str) -> Any:
    """Return one ``WhisperEncoderLayer`` or ``WhisperDecoderLayer`` with a model's weights, in eval mode."""
    import torch
    from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

    config = whisper_config(model.dims)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        module = WhisperEncoderLayer(config) if stack == "encoder" else WhisperDecoderLayer(config, layer)
    prefix = f"model.{stack}.layers.{layer}."
    state = {}
    for name, spec in expected_tensors(model.dims).items():
        if spec.stack == stack and spec.layer == layer:
            state[name_in_dialect(name, "huggingface").removeprefix(prefix)] = weights(model, name, device)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


@contextmanager
def watched_inputs(module: Any, stack: Stack, layer: int, see: Any) -> Iterator[None]:
    """Call ``see(input name, x[batch, positions, width])`` for every distinct input of a layer's linear modules."""
    handles = []
    for path, part in _WATCHED[stack].items():
        name = f"{stack}.blocks.{layer}.{part}"

        def hook(_: Any, inputs: tuple[Any, ...], name: str = name) -> None:
            see(name, inputs[0])

        handles.append(module.get_submodule(path).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched_attention(module: Any) -> Iterator[Callable[[], torch.Tensor]]:
    """Give what returns, after a decoder layer was run, the attention that each encoder frame received, ``[frames]``.

    It is summed over tokens and averaged over heads. Computed beside the layer, from its queries and keys.
    """
    import torch

    attention = module.encoder_attn
    seen: dict[str, torch.Tensor] = {}
    handles = [
        attention.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.__setitem__(name, output)
        )
        for name in ("q_proj", "k_proj")
    ]

    def received() -> torch.Tensor:
        queries, keys = (
            seen[name][0].unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(0, 1)
            for name in ("q_proj", "k_proj")
        )
        weights = torch.softmax(queries * attention.scaling @ keys.transpose(1, 2), dim=-1)
        return weights.mean(0).sum(0)

    try:
        yield received
    finally:
        for handle in handles:
            handle.remove()


def encoder_start(model: Model, mel: torch.Tensor) -> torch.Tensor:
    """Return what the first encoder layer sees, ``[windows, frames, width]``.

    ``mel`` holds log-mel spectra ``[windows, n_mels, 2 × frames]``.
    There may be fewer frames than the model's context: the positions are then the first ones.
    """
    from torch.nn.functional import conv1d, gelu

    device = str(mel.device)
    hidden = mel
    for name, stride in (("conv1", 1), ("conv2", 2)):
        kernel, bias = (weights(model, f"encoder.{name}.{part}", device) for part in ("weight", "bias"))
        hidden = gelu(conv1d(hidden, kernel, bias, stride=stride, padding=1))
    hidden = hidden.permute(0, 2, 1)
    return hidden + weights(model, "encoder.positional_embedding", device)[: hidden.shape[1]]


def normed(model: Model, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """Return ``hidden`` after a layer norm outside the blocks (``encoder.ln_post``, ``decoder.ln``)."""
    from torch.nn.functional import layer_norm

    device = str(hidden.device)
    weight, bias = (weights(model, f"{name}.{part}", device) for part in ("weight", "bias"))
    return layer_norm(hidden, weight.shape, weight, bias)


def decoder_start(model: Model, ids: list[int], device: str) -> torch.Tensor:
    """Return what the first decoder layer sees of token ids, ``[1, tokens, width]``."""
    import torch

    embedding = model["decoder.token_embedding.weight"]
    from whisq import kernels

    rows = [
        kernels.dequantize(model.rows(embedding, token, token + 1), embedding.type, (embedding.n_columns,))
        for token in ids
    ]
    hidden = torch.from_numpy(np.stack(rows)).to(device)
    return (hidden + weights(model, "decoder.positional_embedding", device)[: len(ids)]).unsqueeze(0)


def causal_mask(length: int, device: str) -> torch.Tensor:
    """Return the mask ``[1, 1, length, length]`` that hides later tokens."""
    import torch

    mask = torch.full((length, length), float("-inf"), device=device).triu(1)
    return mask[None, None]
