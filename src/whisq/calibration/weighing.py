"""Weigh the outputs of layers: words drawn from the model itself, and their gradients taken back through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration.outputs import OutputMoment, moment_of_halves, weighed_outputs
from whisq.kernels.threads import available_cpus
from whisq.network import stack
from whisq.network.gradients import Listened
from whisq.network.mel import log_mel
from whisq.network.model import load_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.calibration.texts import Line, Window
    from whisq.formats.special_tokens import SpecialTokens
    from whisq.model import Model
    from whisq.network.gradients import See
    from whisq.network.operations import Array, Operations
    from whisq.progress import Progress

MOST_LINES, PASSES = 8, 4
"""Lines whose gradients are taken back, and ways back at least. With eight ways, four for each of two lines, tiny.en's
encoder in q4_0 diverges 0.85 times as much on held-out speakers, and with four of them no more than with eight: encoder
and the cross-attention's keys and values together 0.82 times (0.57 to 1.00), on 7 windows."""
_TOGETHER = 4
"""Gradients that go back together through one run: what they share, the attention's weights first of all, is computed
once, and each takes the room of a window's states."""


def output_moments(
    model: Model,
    special: SpecialTokens,
    windows: Sequence[Window],
    lines: Sequence[Line],
    operations: Operations,
    progress: Progress,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, OutputMoment]:
    """Return by layer the moments of the gradients at its output, of those where the halves of the lines agree.

    ``lines`` have their ids. Of those that were heard, ``MOST_LINES`` are taken evenly, few of them several times; for
    every token of text a word is drawn as the model expects them. A whole model and one window's outputs are in memory.
    """
    wanted, heard = weighed_outputs(model.dims), [line for line in lines if line.heard]
    count = min(MOST_LINES, len(heard))
    if not wanted or count < 2:
        return {}
    network = load_network(model, operations)
    random = np.random.default_rng(seed)
    halves = _Halves(wanted, operations)
    samples, done = max(1, PASSES // count), 0
    of_windows: dict[int, list[tuple[int, Line]]] = {}
    for number in range(count):
        line = heard[number * len(heard) // count]
        of_windows.setdefault(line.window, []).append((number, line))
    for window, its_lines in of_windows.items():
        mel = operations.array(log_mel(windows[window].samples(), model))
        listened = Listened(network, stack.stem(network.encoder.outside, mel))
        waiting = _Waiting(listened, halves, operations)
        for number, line in its_lines:
            start = len(special.prompt(line.language, timestamps=line.timed)) - 1
            chosen = np.arange(len(line.ids) - 1)[None] >= start
            if chosen.any():
                read = listened.read(stack.embed(network.decoder.outside, np.array([line.ids[:-1]])), chosen)
                likely = _likely(operations.numpy(read.logits))
                for together in range(0, samples, _TOGETHER):
                    n_drawn = min(_TOGETHER, samples - together)
                    gradient = np.stack([_drawn(likely, random) for _ in range(n_drawn)])
                    rows = [number % 2] * n_drawn
                    waiting.add(read.back(operations.array(gradient), halves.adder(rows)), rows)
            done += samples
            progress("weighing outputs", done, samples * count)
        waiting.take_back()
    return halves.moments(threads or available_cpus())


class _Waiting:
    """Gradients at the output of one run of the encoder, taken back through it ``_TOGETHER`` at a time."""

    def __init__(self, listened: Listened, halves: _Halves, operations: Operations) -> None:
        self._listened, self._halves, self._operations = listened, halves, operations
        self._gradients: list[Array] = []
        self._rows: list[int] = []

    def add(self, gradients: Array, rows: Sequence[int]) -> None:
        """Have gradients ``[gradients, frames, width]`` wait, each for its half."""
        if len(self._rows) + len(rows) > _TOGETHER:
            self.take_back()
        self._gradients.append(gradients)
        self._rows += rows

    def take_back(self) -> None:
        """Take back what waits."""
        if self._rows:
            gradient = self._operations.concatenate(self._gradients, 0)
            self._listened.back(gradient, self._halves.adder(self._rows))
            self._gradients, self._rows = [], []


class _Halves:
    """Adds up g gᵀ at the outputs of some layers, for each half of the lines."""

    def __init__(self, wanted: Mapping[str, int], operations: Operations) -> None:
        self._sums: dict[str, list[Array]] = {name: [None, None] for name in wanted}
        self._operations = operations

    def adder(self, rows: Sequence[int]) -> See:
        """Return what adds gradients at an output, the half of each being one of ``rows``."""

        def add(name: str, gradient: Array) -> None:
            if name not in self._sums:
                return
            sums = self._sums[name]
            for half in set(rows):
                mine = gradient[[place for place, its in enumerate(rows) if its == half]]
                found = self._operations.second_moment(mine.reshape(-1, mine.shape[-1]), None)
                sums[half] = found if sums[half] is None else sums[half] + found

        return add

    def moments(self, threads: int) -> dict[str, OutputMoment]:
        """Return the moments of those outputs on which the halves agree."""

        def moment(name: str) -> OutputMoment | None:
            pair = [self._operations.numpy(half) for half in self._sums[name] if half is not None]
            return moment_of_halves(pair) if len(pair) == 2 else None

        with ThreadPoolExecutor(threads) as pool:
            found = zip(self._sums, pool.map(moment, self._sums), strict=True)
            return {name: moment for name, moment in found if moment is not None}


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
