"""Inside the model: how a candidate's next-token distributions and encoder outputs differ.

No runtime shows these, so both run in transformers' Whisper with their weights dequantized. Both are
teacher-forced on what the reference itself writes greedily, window by window of 30 s: at every token the
two see the same past, so that one slip does not count again in all that follows.

Run as a process of its own: ``python -m whisq.evaluation.divergence``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from whisq.clips.audio import Samples
from whisq.clips.clip import read_samples
from whisq.extras import require_torch
from whisq.formats import open_model
from whisq.network.mel import FRAME_SAMPLES, log_mel, windows
from whisq.network.model import Network, load_torch_whisper
from whisq.network.tokens import prompt_tokens
from whisq.runtimes.worker import private_stdout, serve


class DivergenceWorker:
    """Compares two models clip by clip."""

    def __init__(self) -> None:
        self._reference: Network | None = None
        self._candidate: Network | None = None

    def load(self, reference: str, candidate: str, threads: int, device: str) -> dict[str, Any]:
        """Load both models in float32."""
        require_torch()
        import torch

        torch.set_num_threads(threads)
        self._reference = self._open(reference, device)
        self._candidate = self._open(candidate, device)
        return {}

    def _open(self, path: str, device: str) -> Network:
        model = open_model(path)
        return Network(model, load_torch_whisper(model, device=device))

    def run(self, path: str, row: int | None, language: str | None) -> dict[str, Any]:
        """Return the divergences of all tokens of a clip, and the encoder's error."""
        import torch

        samples = read_samples(Path(path), row)
        found: dict[str, Any] = {"divergences": [], "same_top": 0, "encoder_error": 0.0, "encoder_power": 0.0}
        with torch.inference_mode():
            for window in windows(samples):
                self._window(window, language, found)
        return found

    def _window(self, window: Samples, language: str | None, found: dict[str, Any]) -> None:
        reference, candidate = self._reference, self._candidate
        if reference is None or candidate is None:
            raise RuntimeError("no models were loaded")
        dims = reference.model.dims
        device = str(next(reference.network.parameters()).device)
        prompt = prompt_tokens(dims, language)
        truth = reference.encode(log_mel(window, reference.model, device=device))
        mine = candidate.encode(log_mel(window, candidate.model, device=device))
        frames = max(1, -(-len(window) // FRAME_SAMPLES))
        heard = truth[:, :frames].double()
        found["encoder_error"] += float((mine[:, :frames].double() - heard).square().sum())
        found["encoder_power"] += float(heard.square().sum())
        ids = reference.write(truth, prompt)
        start = len(prompt) - 1
        expected = reference.log_probabilities(truth, ids[:-1])[start:]
        actual = candidate.log_probabilities(mine, ids[:-1])[start:]
        divergences = (expected.exp() * (expected - actual)).sum(dim=-1).clamp(min=0)
        found["divergences"] += [float(f"{value:.6g}") for value in divergences.tolist()]
        found["same_top"] += int((expected.argmax(dim=-1) == actual.argmax(dim=-1)).sum())


if __name__ == "__main__":
    serve(sys.stdin, private_stdout(), DivergenceWorker())
