"""Inside the model: how a candidate's next-token distributions and encoder outputs differ.

Both models run in one runtime that gives logits, or both in whisq's own forward pass with their weights dequantized.
Both are teacher-forced on what the reference itself writes greedily, window by window of 30 s: at every token the two
see the same past, so that one slip does not count again in all that follows.

Run as a process of its own: ``python -m whisq.evaluation.divergence``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisq.clips.audio import Samples
from whisq.clips.clip import samples_at
from whisq.evaluation.forced import TIMESTAMP_S, Forced, InNetwork, InRuntime
from whisq.network.devices import operations_for
from whisq.network.divergence import divergences
from whisq.network.mel import windows
from whisq.network.numpy_operations import NumpyOperations
from whisq.network.operations import Operations
from whisq.runtimes.registry import parse_runtime
from whisq.runtimes.worker import private_stdout, serve


class DivergenceWorker:
    """Compares two models clip by clip."""

    def __init__(self) -> None:
        self._models: tuple[Forced, Forced, Operations] | None = None

    def load(self, reference: str, candidate: str, threads: int, device: str, runtime: str | None) -> dict[str, Any]:
        """Load both models in a runtime, or in float32 for the forward pass on a device where that is None."""
        paths = Path(reference), Path(candidate)
        if runtime is not None:
            first, second = in_runtime(runtime, paths, threads)
            self._models = first, second, NumpyOperations()
        else:
            operations = operations_for(device, threads)
            self._models = InNetwork(paths[0], operations), InNetwork(paths[1], operations), operations
        return {}

    def run(self, path: str, row: int | None, segment: list[Any] | None, language: str | None) -> dict[str, Any]:
        """Return what ``InsideUtterance`` holds of a clip."""
        if self._models is None:
            raise RuntimeError("no models were loaded")
        found: dict[str, Any] = {
            "divergences": [], "same_top": 0, "encoder_error": 0.0, "encoder_power": 0.0,
            "timestamp_divergences": [], "shifts_s": [], "heard": "",
        }  # fmt: skip
        for window in windows(samples_at(path, row, segment)):
            compare(*self._models, window, language, found)
        return found


def in_runtime(runtime: str, paths: Sequence[Path], threads: int) -> list[InRuntime]:
    """Return models in a runtime that gives logits; raises as ``Runtime.next_tokens`` does."""
    chosen = parse_runtime(runtime)
    return [InRuntime(path, chosen.next_tokens(path, threads)) for path in paths]


def compare(
    reference: Forced,
    candidate: Forced,
    operations: Operations,
    window: Samples,
    language: str | None,
    found: dict[str, Any],
) -> None:
    """Add what a window shows to the fields of ``InsideUtterance``."""
    reference.hear(window)
    candidate.hear(window)
    truth, mine = reference.states(), candidate.states()
    if truth is not None and mine is not None:
        found["encoder_error"] += float(((mine - truth) ** 2).sum())
        found["encoder_power"] += float((truth**2).sum())
    found["heard"] = found.get("heard") or reference.language() or ""
    prompt = reference.special.prompt(language)
    ids = reference.write(prompt)
    start = len(prompt) - 1
    expected, actual = reference.rows(ids[:-1], start), candidate.rows(ids[:-1], start)
    found["divergences"] += _rounded(divergences(expected, actual, operations))
    tops = [operations.numpy(scores).argmax(-1) for scores in (expected, actual)]
    found["same_top"] += int(np.count_nonzero(tops[0] == tops[1]))
    if isinstance(reference, InRuntime) and isinstance(candidate, InRuntime):
        _compare_timestamps(reference, candidate, operations, language, found)


def _compare_timestamps(
    reference: InRuntime, candidate: InRuntime, operations: Operations, language: str | None, found: dict[str, Any]
) -> None:
    """Add the divergences at the reference's timestamps, and how far the candidate's are from them."""
    begin = reference.special.timestamps_begin
    if begin is None:
        return
    prompt = reference.special.prompt(language, timestamps=True)
    ids = reference.write(prompt, timestamps=True)
    start = len(prompt) - 1
    expected, actual = reference.rows(ids[:-1], start), candidate.rows(ids[:-1], start)
    written = ids[start + 1 :]
    places = [place for place, token in enumerate(written) if token >= begin]
    if not places:
        return
    found["timestamp_divergences"] += _rounded(divergences(expected[places], actual[places], operations))
    for place in places:
        allowed = reference.choices.times(written[:place], actual.shape[-1])
        theirs = int(np.where(allowed, actual[place], -np.inf).argmax())
        found["shifts_s"].append(round(abs(theirs - written[place]) * TIMESTAMP_S, 2))


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


if __name__ == "__main__":
    serve(sys.stdin, private_stdout(), DivergenceWorker())
