"""What rounding does to speakers that were not calibrated on.

    python benchmarks/held_out.py MODEL CALIB CLIPS q4_0:ggml q4_0:importance q4_0:feedback mix.toml:feedback

A job is a type or a recipe file, and a method. MODEL is in f16, CLIPS what `whisq evaluate` takes. Every job's matrices
are rounded as `whisq quantize` would, exchanged in torch, and the model transcribes whole windows of 30 s; the
divergence is that of the next-token distribution from f16's, in nats per token, teacher-forced on f16's own text. Each
job is also compared with all before it: the ratio of the sums, and its 95 % bootstrap interval over windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import whisq
from whisq.calibration import Calibration, read_calibration
from whisq.clips.datasets import load_clips
from whisq.model import Model
from whisq.network.mel import log_mel, windows
from whisq.network.model import Network, load_torch_whisper
from whisq.network.tokens import prompt_tokens
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.rounding import exchanged, parse_method, rounded
from whisq.types import F16, parse_type
from whisq.whisper import name_in_dialect

RESAMPLES = 4000


@dataclass
class Heard:
    """One window: its log-mel, the tokens that f16 writes, where the text begins, and f16's log-probabilities."""

    mel: torch.Tensor
    ids: list[int]
    start: int
    truth: torch.Tensor


def reference(model: Model, network: Network, clips: str) -> Iterator[Heard]:
    """Yield what the model itself makes of every window."""
    for clip in load_clips(clips).clips:
        prompt = prompt_tokens(model.dims, clip.language)
        for piece in windows(clip.samples()):
            mel = log_mel(piece, model)
            encoded = network.encode(mel)
            ids = network.write(encoded, prompt)
            start = len(prompt) - 1
            yield Heard(mel, ids, start, network.log_probabilities(encoded, ids[:-1])[start:].float())


def changed_by(model: Model, calibration: Calibration, what: str, method_name: str) -> dict[str, np.ndarray]:
    """Return the tensors that a job changes, as f32: matrices, and biases that take up a shift."""
    recipe = whisq.load_recipe(what) if what.endswith(".toml") else whisq.Recipe(parse_type(what))
    asked = parse_method(method_name)
    plan, inputs, changed = whisq.make_plan(model, recipe), LayerInputs(calibration, most_kept=6), {}
    for tensor in model.tensors:
        kind = plan[tensor.name].type
        if tensor.spec.is_matrix and kind.is_quantized:
            method = asked.decide(tensor.spec, kind, calibration).method
            changed |= exchanged(model, tensor, kind, rounded(model, tensor, kind, method, inputs, threads=2))
    return changed


def divergences(network: Network, heard: list[Heard], changed: dict[str, np.ndarray]) -> np.ndarray:
    """Return the divergence summed over each window's tokens, with these tensors exchanged."""
    parameters, before = dict(network.network.named_parameters()), {}
    for name, array in changed.items():
        key = name_in_dialect(name, "huggingface")
        before[key] = parameters[key].data
        parameters[key].data = torch.from_numpy(np.ascontiguousarray(array))
    sums = []
    for window in heard:
        encoded = network.encode(window.mel)
        found = network.log_probabilities(encoded, window.ids[:-1])[window.start :].float()
        each = (window.truth.double().exp() * (window.truth.double() - found)).sum(-1).clamp(min=0)
        sums.append(float(each.sum()))
    for key, tensor in before.items():
        parameters[key].data = tensor
    return np.array(sums)


def ratio(one: np.ndarray, other: np.ndarray) -> str:
    """Return one job's divergence by another's, with its interval."""
    drawn = np.random.default_rng(0).integers(0, len(one), (RESAMPLES, len(one)))
    low, high = np.percentile(one[drawn].sum(1) / other[drawn].sum(1), [2.5, 97.5])
    return f"{one.sum() / other.sum():.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    """Measure and print every job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("clips")
    parser.add_argument("jobs", nargs="+", metavar="TYPE|RECIPE:METHOD")
    arguments = parser.parse_args()
    calibration = read_calibration(arguments.calibration).check_factors()
    known: dict[str, np.ndarray] = {}
    with whisq.open_model(arguments.model) as model, torch.inference_mode():
        if any(t.spec.is_matrix and t.type is not F16 for t in model.tensors):
            raise SystemExit(f"{arguments.model}: is not f16: the original is what others are compared with")
        network = Network(model, load_torch_whisper(model))
        heard = list(reference(model, network, arguments.clips))
        tokens = sum(len(window.truth) for window in heard)
        print(f"{len(heard)} windows, {tokens} tokens; nats per token, and the ratio to each job before")
        for job in arguments.jobs:
            found = divergences(network, heard, changed_by(model, calibration, *job.rsplit(":", 1)))
            beside = "  ".join(f"/ {name} {ratio(found, other)}" for name, other in known.items())
            print(f"{job:<28} {found.sum() / tokens:.5f}  {beside}", flush=True)
            known[job] = found


if __name__ == "__main__":
    main()
