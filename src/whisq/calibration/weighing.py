"""Weigh the outputs of layers: words drawn from the model itself, and their gradients taken back through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration.outputs import OutputMoment, moment_of_halves, weighed_outputs
from whisq.network import stack
from whisq.network.gradients import Forward
from whisq.network.mel import log_mel
from whisq.network.model import load_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.calibration.texts import Line, Window
    from whisq.formats.special_tokens import SpecialTokens
    from whisq.model import Model
    from whisq.network.operations import Array, Operations
    from whisq.progress import Progress

PASSES = 8
"""Ways back. With eight, tiny.en's encoder in q4_0 diverges 0.85 times as much on held-out speakers."""


def output_moments(
    model: Model,
    special: SpecialTokens,
    windows: Sequence[Window],
    lines: Sequence[Line],
    operations: Operations,
    progress: Progress,
    seed: int = 0,
) -> dict[str, OutputMoment]:
    """Return by layer the moments of the gradients at its output, of those where the halves of the lines agree.

    ``lines`` have their ids. Of those that were heard, ``PASSES`` are taken evenly, or each several times; for every
    token of text a word is drawn as the model expects them. A whole model and one window's outputs are in memory.
    """
    wanted, heard = weighed_outputs(model.dims), [line for line in lines if line.heard]
    count = min(PASSES, len(heard))
    if not wanted or count < 2:
        return {}
    network = load_network(model, operations)
    random = np.random.default_rng(seed)
    halves = (_Sums(wanted, operations), _Sums(wanted, operations))
    samples, done = PASSES // count, 0
    for number in range(count):
        line = heard[number * len(heard) // count]
        start = len(special.prompt(line.language, timestamps=line.timed)) - 1
        chosen = np.arange(len(line.ids) - 1)[None] >= start
        if chosen.any():
            mel = operations.array(log_mel(windows[line.window].samples(), model))
            audio = stack.stem(network.encoder.outside, mel)
            text = stack.embed(network.decoder.outside, np.array([line.ids[:-1]]))
            forward = Forward(network, audio, text, chosen)
            likely = _likely(operations.numpy(forward.logits))
            for _ in range(samples):
                forward.back(operations.array(_drawn(likely, random)), halves[number % 2].add)
        done += samples
        progress("weighing outputs", done, samples * count)
    found = {}
    for name in wanted:
        pair = [operations.numpy(half.sums[name]) for half in halves if half.sums[name] is not None]
        moment = moment_of_halves(pair) if len(pair) == len(halves) else None
        if moment is not None:
            found[name] = moment
    return found


class _Sums:
    """Adds up g gᵀ at the outputs of some layers."""

    def __init__(self, wanted: Mapping[str, int], operations: Operations) -> None:
        self.sums: dict[str, Array] = dict.fromkeys(wanted)
        self._operations = operations

    def add(self, name: str, gradient: Array) -> None:
        """Add a window's gradient at an output."""
        if name in self.sums:
            found = self._operations.second_moment(gradient[0], None)
            self.sums[name] = found if self.sums[name] is None else self.sums[name] + found


def _likely(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    likely: NDArray[np.float32] = np.exp(logits - logits.max(-1, keepdims=True))
    likely /= likely.sum(-1, keepdims=True)
    return likely


def _drawn(likely: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the gradient of the logarithm of the probability of words drawn: what was drawn, less what is likely."""
    gradient = -likely
    for row, expected in zip(gradient, likely, strict=True):
        sums = expected.cumsum(dtype=np.float64)
        row[np.searchsorted(sums, random.uniform(0, sums[-1]))] += 1
    return gradient
