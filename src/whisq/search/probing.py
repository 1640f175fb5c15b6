"""A model in torch whose matrices can be exchanged, and the divergence that this makes on a calibration's probes.

The probes are 8 s long, and so is the context that the model is given: the reference hears the same, so that the
difference is due to the weights alone, and a run costs a fifth of one over 30 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whisq.calibration import Probes
from whisq.calibration.inputs import EMBEDDING_INPUT
from whisq.network.model import Network, load_torch_whisper
from whisq.network.tokens import prompt_tokens, special_tokens
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
    """The reference's distributions on all probes, and what a change of weights does to them.

    What every block of the reference sees is kept: a run starts with the first block that a change reaches.
    """

    def __init__(self, model: Model, probes: Probes, device: str = "cpu") -> None:
        import torch

        self._device = device
        network = Network(model, load_torch_whisper(model, device=device))
        self._network: Any = network.network
        self._parameters = dict(self._network.named_parameters())
        with torch.no_grad():
            self._seen_by_encoder: list[torch.Tensor] = []
            stem = self._stem(torch.from_numpy(probes.mels).float().to(device))
            self._encoded = self._encode(stem, 0, self._seen_by_encoder)
            self._ids, self._wanted = _texts(model, network, probes, self._encoded)
            self._cross = [self._keys_values(layer, self._encoded) for layer in self._decoder.layers]
            self._seen_by_decoder: list[torch.Tensor] = []
            hidden = self._decode(self._embed(self._ids), 0, self._cross, self._seen_by_decoder)
            self._truth = self._log_probabilities(hidden[self._wanted])
            self._probabilities = self._truth.exp()
        self.n_tokens = len(self._truth)

    @property
    def _decoder(self) -> Any:
        return self._network.model.decoder

    def divergence(self, weights: Weights) -> float:
        """Return the mean Kullback–Leibler divergence in nats a token with some tensors exchanged."""
        import torch

        before = self._exchange(weights)
        try:
            with torch.no_grad():
                found = self._changed(weights)
                each = found.neg_().add_(self._truth).mul_(self._probabilities).sum(-1).clamp(min=0)
                return float(each.double().mean())
        finally:
            for name, tensor in before.items():
                self._parameters[name].data = tensor

    def fisher(self, matrices: Sequence[str], samples: int = 2, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """Return of every output of a matrix how much an error there matters, ``float64[rows]``.

        It is the mean over the tokens of the squared gradient of the log-probability of a token drawn from the model,
        summed over time: half of it times an error's variance is the divergence that the error makes, if errors at
        different times are independent. One run forward and ``samples`` back for every probe.
        """
        import numpy as np
        import torch

        sums = {name: np.zeros(0) for name in matrices}

        def listener(name: str) -> Any:
            def add(gradient: torch.Tensor) -> None:
                found = gradient.double().square().reshape(-1, gradient.shape[-1]).sum(0).cpu().numpy()
                sums[name] = sums[name] + found if len(sums[name]) else found

            def listen(module: object, inputs: object, output: torch.Tensor) -> None:
                if output.requires_grad:
                    output.register_hook(add)

            return listen

        handles = [self._module(name).register_forward_hook(listener(name)) for name in matrices]
        generator = torch.Generator(self._device).manual_seed(seed)
        try:
            for probe in range(len(self._ids)):
                one = slice(probe, probe + 1)
                start = self._seen_by_encoder[0][one].clone().requires_grad_()
                encoded = self._encode(start, 0)
                cross = [self._keys_values(layer, encoded) for layer in self._decoder.layers]
                # Both ends: the first block's self-attention does not see the audio.
                text = self._embed(self._ids[one]).requires_grad_()
                hidden = self._decode(text, 0, cross)
                found = self._log_probabilities(hidden[self._wanted[one]])
                drawn = torch.multinomial(found.detach().exp(), samples, replacement=True, generator=generator)
                for sample in range(samples):
                    total = found.gather(1, drawn[:, sample : sample + 1]).sum()
                    torch.autograd.grad(total, (start, text), retain_graph=sample + 1 < samples)
        finally:
            for handle in handles:
                handle.remove()
        return {name: found / (samples * self.n_tokens) for name, found in sums.items()}

    def _module(self, matrix: str) -> Any:
        if matrix == f"{EMBEDDING_INPUT}.weight":
            return self._network.proj_out
        return self._network.get_submodule(name_in_dialect(matrix, "huggingface").removesuffix(".weight"))

    def _exchange(self, weights: Weights) -> dict[str, torch.Tensor]:
        import torch

        before = {}
        for name, array in weights.items():
            key = name_in_dialect(name, "huggingface")
            before[key] = self._parameters[key].data
            self._parameters[key].data = torch.from_numpy(array).to(self._device)
        return before

    def _changed(self, names: Iterable[str]) -> torch.Tensor:
        """Return the log-probabilities with the weights as they now are, of which ``names`` changed."""
        touched = {_place(name) for name in names}
        encoder = min((layer for stack, layer in touched if stack == "encoder"), default=None)
        decoder = min((layer for stack, layer in touched if stack == "decoder"), default=len(self._decoder.layers))
        cross, encoded = list(self._cross), self._encoded
        if encoder is not None:
            encoded, decoder = self._encode(self._seen_by_encoder[encoder], encoder), min(decoder, 0)
        for number, layer in enumerate(self._decoder.layers):
            named = {f"decoder.blocks.{number}.cross_attn.{part}" for part in ("key", "value")}
            if encoder is not None or any(name.rpartition(".")[0] in named for name in names):
                cross[number] = self._keys_values(layer, encoded)
        hidden = self._embed(self._ids) if decoder < 0 else self._seen_by_decoder[decoder]
        return self._log_probabilities(self._decode(hidden, max(0, decoder), cross)[self._wanted])

    def _stem(self, mels: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import gelu

        encoder = self._network.model.encoder
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(mels)))).permute(0, 2, 1)
        found: torch.Tensor = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        return found

    def _encode(self, hidden: torch.Tensor, start: int, seen: list[torch.Tensor] | None = None) -> torch.Tensor:
        encoder = self._network.model.encoder
        for layer in encoder.layers[start:]:
            if seen is not None:
                seen.append(hidden)
            normed = layer.self_attn_layer_norm(hidden)
            hidden = hidden + _attend(layer.self_attn, normed, *_keys_values(layer.self_attn, normed))
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        found: torch.Tensor = encoder.layer_norm(hidden)
        return found

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        positions = self._decoder.embed_positions.weight[: ids.shape[1]]
        found: torch.Tensor = self._decoder.embed_tokens(ids) + positions
        return found

    def _keys_values(self, layer: Any, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _keys_values(layer.encoder_attn, encoded)

    def _decode(
        self,
        hidden: torch.Tensor,
        start: int,
        cross: Sequence[tuple[torch.Tensor, torch.Tensor]],
        seen: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        for number, layer in enumerate(self._decoder.layers[start:], start):
            if seen is not None:
                seen.append(hidden)
            normed = layer.self_attn_layer_norm(hidden)
            hidden = hidden + _attend(layer.self_attn, normed, *_keys_values(layer.self_attn, normed), causal=True)
            hidden = hidden + _attend(layer.encoder_attn, layer.encoder_attn_layer_norm(hidden), *cross[number])
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        if seen is not None:
            seen.append(hidden)
        found: torch.Tensor = self._decoder.layer_norm(hidden)
        return found

    def _log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.log_softmax(self._network.proj_out(hidden), dim=-1)


def _keys_values(attention: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _heads(attention, attention.k_proj(hidden)), _heads(attention, attention.v_proj(hidden))


def _heads(attention: Any, hidden: torch.Tensor) -> torch.Tensor:
    return hidden.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _attend(
    attention: Any, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, causal: bool = False
) -> torch.Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    queries = _heads(attention, attention.q_proj(hidden))
    mixed = scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    found: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return found


def _texts(model: Model, network: Network, probes: Probes, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the reference writes for each probe, padded, and where a token of text was written."""
    import torch

    end = special_tokens(model.dims)["endoftext"]
    texts, lengths = [], []
    for number, language in enumerate(probes.languages):
        prompt = prompt_tokens(model.dims, language or None)
        longest = len(prompt) + LONGEST_PROBE_TEXT
        ids = network.write(encoded[number : number + 1], prompt, longest)
        texts.append(ids[:-1])
        lengths.append((len(prompt) - 1, len(ids) - 1))
    widest = max(stop for _, stop in lengths)
    padded = torch.tensor([ids + [end] * (widest - len(ids)) for ids in texts], device=encoded.device)
    # Only there are the logits computed: the vocabulary is the widest thing here.
    mask = torch.zeros(padded.shape, dtype=torch.bool, device=encoded.device)
    for row, (start, stop) in enumerate(lengths):
        mask[row, start:stop] = True
    return padded, mask


def _place(name: str) -> tuple[str, int]:
    """Return the stack and layer of a tensor, layer -1 for one before the first block."""
    parts = name.split(".")
    return parts[0], int(parts[2]) if parts[1] == "blocks" else -1
