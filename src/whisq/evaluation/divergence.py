"""Inside the model: how a candidate's next-token distributions and encoder outputs differ.

No runtime shows these, so both run in whisq's own forward pass with their weights dequantized. Both are teacher-forced
on what the reference itself writes greedily, window by window of 30 s: at every token the two see the same past, so
that one slip does not count again in all that follows.

Run as a process of its own: ``python -m whisq.evaluation.divergence``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisq.clips.audio import Samples
from whisq.clips.clip import read_samples
from whisq.formats import open_model
from whisq.model import Model
from whisq.network.devices import operations_for
from whisq.network.divergence import divergences
from whisq.network.mel import FRAME_SAMPLES, log_mel, windows
from whisq.network.model import Network, load_network
from whisq.network.operations import Array, Operations
from whisq.runtimes.worker import private_stdout, serve


@dataclass(frozen=True, slots=True)
class _Opened:
    model: Model
    network: Network
    operations: Operations

    def encode(self, window: Samples) -> Array:
        return self.network.encoder.encode(self.operations.array(log_mel(window, self.model)))


class DivergenceWorker:
    """Compares two models clip by clip."""

    def __init__(self) -> None:
        self._reference: _Opened | None = None
        self._candidate: _Opened | None = None

    def load(self, reference: str, candidate: str, threads: int, device: str) -> dict[str, Any]:
        """Load both models in float32."""
        operations = operations_for(device, threads)
        self._reference, self._candidate = (_opened(path, operations) for path in (reference, candidate))
        return {}

    def run(self, path: str, row: int | None, language: str | None) -> dict[str, Any]:
        """Return the divergences of all tokens of a clip, and the encoder's error."""
        reference, candidate = self._reference, self._candidate
        if reference is None or candidate is None:
            raise RuntimeError("no models were loaded")
        samples = read_samples(Path(path), row)
        found: dict[str, Any] = {"divergences": [], "same_top": 0, "encoder_error": 0.0, "encoder_power": 0.0}
        with reference.operations.no_gradients():
            for window in windows(samples):
                _compare(reference, candidate, window, language, found)
        return found


def _opened(path: str, operations: Operations) -> _Opened:
    model = open_model(path)
    return _Opened(model, load_network(model, operations), operations)


def _compare(
    reference: _Opened, candidate: _Opened, window: Samples, language: str | None, found: dict[str, Any]
) -> None:
    """Add what a window shows."""
    operations, writer = reference.operations, reference.network.decoder
    truth, mine = reference.encode(window), candidate.encode(window)
    frames = max(1, -(-len(window) // FRAME_SAMPLES))
    expected, actual = (operations.float64(states[:, :frames]) for states in (truth, mine))
    found["encoder_error"] += float(((actual - expected) ** 2).sum())
    found["encoder_power"] += float((expected**2).sum())
    prompt = writer.special.prompt(language)
    ids = writer.write(truth, prompt)
    start = len(prompt) - 1
    expected = writer.logits(truth, ids[:-1])[start:]
    actual = candidate.network.decoder.logits(mine, ids[:-1])[start:]
    found["divergences"] += [float(f"{value:.6g}") for value in divergences(expected, actual, operations)]
    tops = [operations.numpy(scores).argmax(-1) for scores in (expected, actual)]
    found["same_top"] += int(np.count_nonzero(tops[0] == tops[1]))


if __name__ == "__main__":
    serve(sys.stdin, private_stdout(), DivergenceWorker())
