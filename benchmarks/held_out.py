"""What rounding does to speakers that were not calibrated on.

    python benchmarks/held_out.py MODEL CALIB CLIPS q4_0:ggml q4_0:importance q4_0:feedback mix.toml:feedback

A job is a type or a recipe file, and a method. MODEL is in f16, CLIPS what `whisq evaluate` takes. Every job's matrices
are rounded as `whisq quantize` would, exchanged in memory, and the model transcribes whole windows of 30 s; the
divergence is that of the next-token distribution from f16's, in nats per token, teacher-forced on f16's own text. Each
job is also compared with all before it: the ratio of the sums, and its 95 % bootstrap interval over windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import whisq
from whisq.calibration import Calibration, read_calibration
from whisq.calibration.factors import check_factors
from whisq.clips.datasets import load_clips
from whisq.model import Model
from whisq.network.devices import operations_for
from whisq.network.divergence import divergences
from whisq.network.mel import log_mel, windows
from whisq.network.model import Network, load_network
from whisq.network.operations import Operations
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.rounding import exchanged, parse_method, rounded
from whisq.types import F16, parse_type

RESAMPLES = 4000


@dataclass
class Reference:
    """One window: its log-mel, the tokens that f16 writes, where the text begins, and f16's logits from there on."""

    mel: np.ndarray
    ids: list[int]
    start: int
    logits: np.ndarray


def logits_of(network: Network, operations: Operations, mel: np.ndarray, ids: list[int], start: int) -> np.ndarray:
    """Return a model's logits for what follows each token from ``start`` on."""
    encoded = network.encoder.encode(operations.array(mel))
    return operations.numpy(network.decoder.logits(encoded, ids)[start:])


def references(model: Model, network: Network, operations: Operations, clips: str) -> Iterator[Reference]:
    """Yield what the model itself makes of every window."""
    for clip in load_clips(clips).clips:
        prompt = network.decoder.special.prompt(clip.language)
        for piece in windows(clip.samples()):
            mel = log_mel(piece, model)
            ids = network.decoder.write(network.encoder.encode(operations.array(mel)), prompt)
            start = len(prompt) - 1
            yield Reference(mel, ids, start, logits_of(network, operations, mel, ids[:-1], start))


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


def divergence_sums(
    network: Network, operations: Operations, windows: list[Reference], changed: dict[str, np.ndarray]
) -> np.ndarray:
    """Return the divergence summed over each window's tokens, with these tensors exchanged."""
    patched, sums = network.with_tensors(changed), []
    for window in windows:
        logits = logits_of(patched, operations, window.mel, window.ids[:-1], window.start)
        both = (operations.array(values) for values in (window.logits, logits))
        sums.append(float(divergences(*both, operations).sum()))
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
    calibration = check_factors(read_calibration(arguments.calibration))
    known: dict[str, np.ndarray] = {}
    operations = operations_for("cpu")
    with whisq.open_model(arguments.model) as model:
        if any(t.spec.is_matrix and t.type is not F16 for t in model.tensors):
            raise SystemExit(f"{arguments.model}: is not f16: the original is what others are compared with")
        network = load_network(model, operations)
        told = list(references(model, network, operations, arguments.clips))
        tokens = sum(len(window.logits) for window in told)
        print(f"{len(told)} windows, {tokens} tokens; nats per token, and the ratio to each job before")
        for job in arguments.jobs:
            changed = changed_by(model, calibration, *job.rsplit(":", 1))
            found = divergence_sums(network, operations, told, changed)
            beside = "  ".join(f"/ {name} {ratio(found, other)}" for name, other in known.items())
            print(f"{job:<28} {found.sum() / tokens:.5f}  {beside}", flush=True)
            known[job] = found


if __name__ == "__main__":
    main()
