"""A model in torch whose matrices can be exchanged, and the divergence that this makes on a calibration's probes.

The probes are 8 s long, and so is the context that the model is given: the reference hears the same, so that the
difference is due to the weights alone, and a run costs a fifth of one over 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whisq.calibration import Probes
from whisq.evaluate.divergence import Network
from whisq.evaluate.torch_model import load_torch_whisper, prompt_tokens, special_tokens
from whisq.whisper import name_in_dialect

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from whisq.model import Model

    Weights = Mapping[str, NDArray[np.float32]]

LONGEST_PROBE_TEXT = 48
"""Tokens written for a probe at most: fast speech has about five a second."""


class Prober:
    """The reference's distributions on all probes, and what a change of weights does to them."""

    def __init__(self, model: Model, probes: Probes, device: str = "cpu") -> None:
        import torch

        self._device = device
        self._network = Network(model, load_torch_whisper(model, device=device))
        self._parameters = dict(self._network.network.named_parameters())
        self._mels = torch.from_numpy(probes.mels).float().to(device)
        with torch.inference_mode():
            self._encoded = self._encode(0, None)
            self._ids, self._lengths = self._texts(model, probes)
            self._wanted = self._mask()
            self._truth = self._log_probabilities(self._encoded)
            self._probabilities = self._truth.exp()
        self.n_tokens = len(self._truth)

    def divergence(self, weights: Weights) -> float:
        """Return the mean Kullback–Leibler divergence in nats a token with some tensors exchanged.

        What the change does not reach is not computed again.
        """
        import torch

        first = min((_depth(name) for name in weights), default=(1, 0))
        before = self._exchange(weights)
        try:
            with torch.inference_mode():
                encoded = self._encoded if first[0] == 1 else self._encode(first[1], self._states)
                found = self._log_probabilities(encoded)
                each = found.neg_().add_(self._truth).mul_(self._probabilities).sum(-1).clamp(min=0)
                return float(each.double().mean())
        finally:
            for name, tensor in before.items():
                self._parameters[name].data = tensor

    def _exchange(self, weights: Weights) -> dict[str, torch.Tensor]:
        import torch

        before = {}
        for name, array in weights.items():
            key = name_in_dialect(name, "huggingface")
            before[key] = self._parameters[key].data
            self._parameters[key].data = torch.from_numpy(array).to(self._device)
        return before

    def _encode(self, start: int, states: list[torch.Tensor] | None) -> torch.Tensor:
        from torch.nn.functional import gelu

        encoder = self._network.network.model.encoder
        if states is None:
            hidden = gelu(encoder.conv2(gelu(encoder.conv1(self._mels)))).permute(0, 2, 1)
            hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
            self._states: list[torch.Tensor] = []
        else:
            hidden = states[start]
        for layer in encoder.layers[start:]:
            if states is None:
                self._states.append(hidden)
            out = layer(hidden, None)
            hidden = out[0] if isinstance(out, tuple) else out
        normed: torch.Tensor = encoder.layer_norm(hidden)
        return normed

    def _texts(self, model: Model, probes: Probes) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        import torch

        end = special_tokens(model.dims)["endoftext"]
        texts, lengths = [], []
        for number, language in enumerate(probes.languages):
            prompt = prompt_tokens(model.dims, language or None)
            ids = self._network.write(self._encoded[number : number + 1], prompt)[: len(prompt) + LONGEST_PROBE_TEXT]
            texts.append(ids[:-1])
            lengths.append((len(prompt) - 1, len(ids) - 1))
        padded = [ids + [end] * (max(stop for _, stop in lengths) - len(ids)) for ids in texts]
        return torch.tensor(padded, device=self._device), lengths

    def _log_probabilities(self, encoded: torch.Tensor) -> torch.Tensor:
        import torch

        network: Any = self._network.network
        hidden = network.model.decoder(
            input_ids=self._ids, encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        # Only where a token of text was written: the vocabulary is the widest thing here.
        return torch.log_softmax(network.proj_out(hidden[self._wanted]), dim=-1)

    def _mask(self) -> torch.Tensor:
        import torch

        mask = torch.zeros(self._ids.shape, dtype=torch.bool, device=self._device)
        for row, (start, stop) in enumerate(self._lengths):
            mask[row, start:stop] = True
        return mask


def _depth(name: str) -> tuple[int, int]:
    """Return (0, layer) for a tensor of the encoder's blocks, (1, 0) for one that the encoder's output does not see."""
    parts = name.split(".")
    return (0, int(parts[2])) if parts[0] == "encoder" and parts[1] == "blocks" else (1, 0)
