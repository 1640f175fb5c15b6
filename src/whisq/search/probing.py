"""A model whose matrices can be exchanged, and the divergence that this makes on a calibration's probes.

The probes are 8 s long, and so is the context that the model is given: the reference gets the same, so that the
difference is due to the weights alone, and a run costs a fifth of one over 30 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration import Probes
from whisq.network import stack
from whisq.network.divergence import distributions
from whisq.network.gradients import Forward
from whisq.network.model import Decoder, Network, load_network
from whisq.network.stack import UNOBSERVED, Observer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.model import Model
    from whisq.network.operations import Array, Operations

    Weights = Mapping[str, NDArray[np.float32]]

_TOGETHER = 2
"""Words drawn for each token whose gradients go back together."""
LONGEST_PROBE_TEXT = 48
"""Tokens written for a probe at most: fast speech has about five a second."""


class PatchedWhisper:
    """The reference's distributions on all probes, and what a change of weights does to them.

    What every block of the reference sees is kept: a run starts with the first block that a change reaches.
    ``ids`` are the tokens that the reference wrote ``[probes, tokens]``, padded with its end token, and ``is_text``
    says where a token of text, or the end, follows: ``n_tokens`` in all.
    """

    def __init__(self, model: Model, probes: Probes, operations: Operations) -> None:
        self._operations = operations
        self._network = load_network(model, self._operations)
        encoder, decoder = self._network.encoder, self._network.decoder
        with self._operations.no_gradients():
            self._mels = self._operations.array(probes.mels)
            self._seen_by_encoder: list[Array] = []
            self._encoded = encoder.run(stack.stem(encoder.outside, self._mels), seen=self._seen_by_encoder)
            self.ids, self.is_text = _texts(decoder, probes, self._encoded)
            self._cross = decoder.cross(self._encoded)
            self._seen_by_decoder: list[Array] = []
            hidden = decoder.run(stack.embed(decoder.outside, self.ids), self._cross, seen=self._seen_by_decoder)
            logits = stack.logits(decoder.outside, hidden[self.is_text])
            self._truth = distributions(logits, self._operations)
        self.n_tokens = len(logits)

    def divergence(self, weights: Weights, observer: Observer = UNOBSERVED) -> float:
        """Return the mean Kullback-Leibler divergence in nats per token with some tensors exchanged."""
        with self._operations.no_gradients():
            logits = self._changed_logits(self._network.with_tensors(weights), weights, observer)
            return float(self._truth.divergences(logits).mean())

    def fisher(self, matrices: Sequence[str], samples: int = 2, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """Return the Fisher weight of each output row of each matrix, ``float64[rows]``.

        It is the mean over the tokens of the squared gradient of the log-probability of a token drawn from the model,
        summed over time: half of it times an error's variance is the divergence that the error makes, if errors at
        different times are independent. One run forward and ``samples`` back for every probe.
        """
        passes = [one for probe in range(len(self.ids)) for one in self.squares(matrices, probe, samples, seed)]
        return mean_of(passes, samples * self.n_tokens)

    def squares(
        self, matrices: Sequence[str], probe: int, samples: int = 2, seed: int = 0
    ) -> list[dict[str, NDArray[np.float64]]]:
        """Return what one probe adds to ``fisher``: for each way back the squared gradients, summed over time."""
        operations = self._operations
        random = np.random.default_rng(seed)
        # One number for each token of text: a probe's draws are the same, whoever drew for those before it.
        random.bit_generator.advance(samples * int(self.is_text[:probe].sum()))  # type: ignore[attr-defined]
        one, found = slice(probe, probe + 1), []
        with operations.no_gradients():
            text = stack.embed(self._network.decoder.outside, self.ids[one])
            forward = Forward(self._network, self._seen_by_encoder[0][one], text, self.is_text[one])
            wide = operations.float64(forward.logits)
            likely = operations.numpy(operations.exp(wide - operations.log_sum_exp(wide)[:, None]))
            sums = likely.cumsum(-1)
            for start in range(0, samples, _TOGETHER):
                squares = _Squares(matrices, operations)
                # The gradient of a logarithm of a probability: what was drawn, less what is likely.
                gradient = np.repeat(-likely[None], min(_TOGETHER, samples - start), 0)
                for one_drawn in gradient:
                    drawn = [np.searchsorted(row, random.uniform(0, row[-1])) for row in sums]
                    one_drawn[np.arange(len(drawn)), drawn] += 1
                forward.back(operations.array(gradient), squares.add)
                found.append(squares.sums)
        return found

    def _changed_logits(self, network: Network, names: Iterable[str], observer: Observer) -> Array:
        """Return the logits of a network that differs from the reference in the tensors ``names``."""
        encoder, decoder = network.encoder, network.decoder
        first = {"encoder": len(encoder.blocks) + 1, "decoder": len(decoder.blocks)}
        for name in names:
            half, layer = _place(name)
            first[half] = min(first[half], layer)
        cross, encoded = list(self._cross), self._encoded
        encoder_differs = first["encoder"] <= len(encoder.blocks)
        if encoder_differs:
            start = max(0, first["encoder"])
            begin = self._seen_by_encoder[start] if first["encoder"] >= 0 else stack.stem(encoder.outside, self._mels)
            encoded = encoder.run(begin, start, observer=observer)
            first["decoder"] = min(first["decoder"], 0)
        for number, block in enumerate(decoder.blocks):
            parts = [f"{block.name}.cross_attn.{part}" for part in ("key", "value")]
            if encoder_differs or any(name.rpartition(".")[0] in parts for name in names):
                cross[number] = stack.keys_values(block, "cross_attn", encoded, observer)
        start = max(0, first["decoder"])
        begin = self._seen_by_decoder[start] if first["decoder"] >= 0 else stack.embed(decoder.outside, self.ids)
        hidden = decoder.run(begin, cross, start, observer=observer)
        return stack.logits(decoder.outside, hidden[self.is_text], observer)


def mean_of(passes: Iterable[Mapping[str, NDArray[np.float64]]], count: int) -> dict[str, NDArray[np.float64]]:
    """Return sums over ways back, taken in their order, divided by ``count``."""
    sums: dict[str, NDArray[np.float64]] = {}
    for one in passes:
        for name, found in one.items():
            sums[name] = sums[name] + found if name in sums and len(sums[name]) else found
    return {name: found / count for name, found in sums.items()}


class _Squares:
    """Adds up, for some matrices, the squares of the gradient at each output."""

    def __init__(self, matrices: Iterable[str], operations: Operations) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {name: np.zeros(0) for name in matrices}
        self._operations = operations

    def add(self, name: str, gradient: Array) -> None:
        """Add the gradient at a linear layer's output."""
        matrix = f"{name}.weight"
        if matrix in self.sums:
            values = self._operations.numpy(gradient).reshape(-1, gradient.shape[-1])
            found = np.square(values, dtype=np.float64).sum(0)
            self.sums[matrix] = self.sums[matrix] + found if len(self.sums[matrix]) else found


def _texts(decoder: Decoder, probes: Probes, encoded: Array) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return what the reference writes for each probe, padded, and where a token of text was written."""
    prompts = [decoder.special.prompt(language or None) for language in probes.languages]
    texts, spans = [], []
    for prompt, ids in zip(prompts, decoder.write_together(encoded, prompts, LONGEST_PROBE_TEXT), strict=True):
        texts.append(ids[:-1])
        spans.append((len(prompt) - 1, len(ids) - 1))
    padded = np.full((len(texts), max(stop for _, stop in spans)), decoder.special.required("end"))
    # Only there are the logits computed: the vocabulary is the widest thing here.
    is_text = np.zeros(padded.shape, bool)
    for row, (ids, span) in enumerate(zip(texts, spans, strict=True)):
        padded[row, : len(ids)] = ids
        is_text[row, slice(*span)] = True
    return padded, is_text


def _place(name: str) -> tuple[str, int]:
    """Return the stack and block of a tensor, block -1 for one outside the blocks: then all is run again."""
    parts = name.split(".")
    return parts[0], int(parts[2]) if parts[1] == "blocks" else -1
