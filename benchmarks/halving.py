"""What each step of rounding makes of a model's blocks: alone, and on top of others.

    python benchmarks/halving.py MODEL CLIPS --calibration FILE --types q4_0 q5_0 --speakers LJ JFK

MODEL is in f16, CLIPS what `whisq evaluate` takes; `--speakers` keeps those of some speakers, so that a step is chosen
on some and reported on others. Matrices of the blocks are rounded and exchanged in memory, the embedding stays as it
is. The divergence is that of the next token's distribution from f16's in whisq's own forward pass, in nats per token,
teacher-forced on what f16 writes of windows of up to 30 s. Every row has its ratio to ggml's bytes of the type and to
feedback as `whisq quantize` does it, with the paired 95 % bootstrap interval over windows. One rounding
is a draw: with a damping that is a tenth larger other integers come out, and a divergence that is a tenth away, on all
windows of a speaker alike, which no interval over windows shows. `--dampings 0.85 1 1.15 1.3` takes the mean of four
draws of every step that has a damping. What did not help is among the steps:

ggml, fit, importance, feedback  the methods of `whisq quantize`
one-sided       feedback that passes no errors from row to row
loudest first   feedback that rounds blocks, and columns inside each, in the order of their inputs' mean squares
fit's scales    feedback one-sided, all scales from fit before, columns then the loudest first (q4_0, q5_0, q8_0)
grown           feedback, rows then made as large as their outputs were, as it is done in q2_K and q3_K already
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from dropin import joined
from held_out import Reference, divergence_sums, logits_of, ratio

import whisq
from whisq import kernels
from whisq.calibration import Calibration, Moments, read_calibration
from whisq.calibration.factors import check_factors, factor_for
from whisq.calibration.inputs import EMBEDDING_INPUT, input_of
from whisq.clips.clip import Clip
from whisq.clips.datasets import load_clips
from whisq.kernels.blocks import format_of
from whisq.kernels.feedback import Factor, factor_of, quantize_with_feedback
from whisq.kernels.fit import quantize_fitted
from whisq.model import Model, TensorRef
from whisq.network.mel import log_mel
from whisq.network.model import Network, load_network
from whisq.network.numpy_operations import NumpyOperations
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.method import Method
from whisq.quantization.rounding import FEEDBACK, METHODS, exchanged, rounded
from whisq.quantization.two_sided import quantize_two_sided
from whisq.types import F16, TensorType, parse_type

Changed = dict[str, np.ndarray]


@dataclass
class Job:
    """A matrix to round to a type, and what is known of its input."""

    model: Model
    tensor: TensorRef
    kind: TensorType
    calibration: Calibration
    inputs: LayerInputs

    @property
    def weights(self) -> np.ndarray:
        """The weights, ``float32[rows, columns]``."""
        return np.array(self.model.array(self.tensor), np.float32)

    def by(self, method: Method, inputs: LayerInputs | None = None) -> Changed:
        """Return what a method, or what takes its place for this matrix, changes."""
        chosen = method.decide(self.tensor.spec, self.kind, self.calibration).method
        found = rounded(self.model, self.tensor, self.kind, chosen, inputs or self.inputs, threads=2)
        return exchanged(self.model, self.tensor, self.kind, found)

    @property
    def is_fed(self) -> bool:
        """Whether feedback can use its input."""
        return FEEDBACK.decide(self.tensor.spec, self.kind, self.calibration).method is FEEDBACK

    def with_bias(self, decoded: np.ndarray) -> Changed:
        """Return a matrix, and its bias with what the rounding takes from the layer's mean output."""
        changed = {self.tensor.name: decoded}
        bias = self.tensor.spec.bias
        shift = None if bias is None else self.inputs.bias_shift(self.tensor.name, self.weights, decoded)
        if bias is not None and shift is not None:
            changed[bias] = np.frombuffer(self.model.array(bias), "<f4") + shift
        return changed


def order_of_columns(squares: np.ndarray, block_size: int) -> np.ndarray:
    """Return an order of columns that keeps blocks, of 256 those of 16 in them, whole: the loudest first."""
    n, order = len(squares), np.arange(len(squares))
    sizes = [1, 16, 32, 256] if block_size == 256 else [1, 32]
    for size, parent in pairwise([*sizes, n]):
        groups = order.reshape(-1, parent // size, size)
        places = np.argsort(-squares[groups].astype(np.float64).sum(-1), axis=1, kind="stable")
        order = np.take_along_axis(groups, places[..., None], 1).reshape(-1)
    return order


def loudest_first(job: Job) -> Changed:
    """Feedback, and columns with the loudest inputs first: what is rounded early is made good by the most columns."""
    if not job.is_fed:
        return job.by(FEEDBACK)
    moment = job.inputs.factor(job.tensor.name).second_moment
    order = order_of_columns(np.diag(moment), job.kind.block_size)
    weights, factor = np.ascontiguousarray(job.weights[:, order]), factor_of(moment[np.ix_(order, order)], 0.0)
    outputs = job.inputs.output_factor(job.tensor.name)
    if outputs is None:
        blocks = quantize_with_feedback(weights, job.kind, factor, threads=2)
    else:
        blocks = quantize_two_sided(weights, job.kind, factor, outputs, threads=2)
    decoded = np.empty_like(weights)
    decoded[:, order] = kernels.dequantize(blocks, job.kind, weights.shape)
    return job.with_bias(decoded)


def grown(job: Job) -> Changed:
    """Feedback, and every row as large as before: what is nearest to an output is also a little smaller."""
    changed = job.by(FEEDBACK)
    if not job.is_fed:
        return changed
    weights, decoded = job.weights, changed[job.tensor.name]
    seen = weights @ job.inputs.factor(job.tensor.name).second_moment
    size, found = (weights * seen).sum(1), (decoded * seen).sum(1)
    by = np.where(found > 0, size / np.maximum(found, 1e-30), 1)
    return job.with_bias(decoded * by[:, None].astype(np.float32))


def fits_scales(job: Job) -> Changed:
    """Scales that fit finds for columns as loud as these are, then integers with feedback, the loudest column first."""
    if not job.is_fed:
        return job.by(FEEDBACK)
    weights, moment = job.weights, np.ascontiguousarray(job.inputs.factor(job.tensor.name).second_moment)
    blocks = quantize_fitted(weights, job.kind, np.diag(moment).copy(), threads=2)
    parts = format_of(job.kind).unpack(blocks.reshape(-1, job.kind.block_bytes))
    scale = parts.unit.reshape(len(weights), -1)
    low, high = {"q4_0": (-8, 7), "q5_0": (-16, 15), "q8_0": (-127, 127)}[job.kind.name]
    order = np.argsort(-np.diag(moment), kind="stable")
    levels = pushed(
        weights[:, order], scale[:, order // 32], factor_of(moment[np.ix_(order, order)], 0.0).upper, low, high
    )
    levels = levels[:, np.argsort(order)]
    return job.with_bias(swept(weights, moment, levels, scale, low, high))


def pushed(weights: np.ndarray, scale: np.ndarray, upper: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return integers for a scale of every weight, each column's error pushed onto those after it (GPTQ)."""
    weights, levels = weights.copy(), np.empty_like(weights)
    for column in range(weights.shape[1]):
        step = scale[:, column]
        inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
        levels[:, column] = np.clip(np.rint(weights[:, column] * inverse), low, high)
        error = weights[:, column] - step * levels[:, column]
        weights[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return levels


def swept(
    weights: np.ndarray, moment: np.ndarray, levels: np.ndarray, scale: np.ndarray, low: int, high: int
) -> np.ndarray:
    """Return weights whose integers, and in the last of four sweeps scales, were improved one by one."""
    levels, scale = levels.T.copy(), scale.T.copy()
    gradient = moment @ (weights.T - np.repeat(scale, 32, 0) * levels)

    def integers(block: int) -> None:
        step = scale[block]
        for j in range(32 * block, 32 * block + 32):
            wish = np.divide(gradient[j], step * moment[j, j], out=np.zeros_like(step), where=step != 0)
            chosen = np.clip(levels[j] + np.rint(wish), low, high)
            moved = np.nonzero(chosen != levels[j])[0]
            gradient[:, moved] -= moment[:, j : j + 1] * (step[moved] * (chosen - levels[j])[moved])
            levels[j] = chosen

    for sweep in range(4):
        for block in range(len(scale)):
            integers(block)
            if sweep < 3:
                continue
            here = slice(32 * block, 32 * block + 32)
            seen = moment[here, here] @ levels[here]
            size, along = (levels[here] * seen).sum(0), (levels[here] * gradient[here]).sum(0)
            change = np.divide(along, size, out=np.zeros_like(along), where=size > 0)
            change = (scale[block] + change).astype(np.float16).astype(np.float32) - scale[block]
            change = np.where(change * (change * size - 2 * along) < 0, change, 0)
            scale[block] += change
            gradient -= moment[:, here] @ (levels[here] * change)
            integers(block)
    return np.ascontiguousarray((np.repeat(scale, 32, 0) * levels).T)


def by(method: str) -> Callable[[Job], Changed]:
    """Return the step that is one of the methods of `whisq quantize`."""
    (found,) = (known for known in METHODS if known.name == method)
    return lambda job: job.by(found)


STEPS: dict[str, Callable[[Job], Changed]] = {
    "ggml": by("ggml"),
    "fit": by("fit"),
    "importance": by("importance"),
    "feedback": by("feedback"),
    "one-sided": lambda job: job.by(FEEDBACK, job.inputs.of_single_rows()),
    "loudest first": loudest_first,
    "fit's scales": fits_scales,
    "grown": grown,
}
DRAWN = {"feedback", "one-sided", "loudest first", "fit's scales", "grown"}
"""Steps that depend on the damping: with another, they are another draw of the same rounding."""


class Damped(LayerInputs):
    """What a calibration tells of inputs, with so many times the damping."""

    def __init__(self, calibration: Calibration, times: float) -> None:
        super().__init__(calibration, most_kept=3)
        self._times = times

    def _factored(self, source: str, moments: Moments, times: int) -> Factor:
        return factor_for(source, moments, times * self._times)


def changed_by(model: Model, calibration: Calibration, step: str, kind: TensorType, times: float) -> Changed:
    """Return the tensors of all blocks that a step changes."""
    inputs, changed = Damped(calibration, times), Changed()
    for tensor in model.tensors:
        if tensor.spec.is_matrix and input_of(tensor.name) != EMBEDDING_INPUT and kind.fits(tensor.n_columns):
            changed |= STEPS[step](Job(model, tensor, kind, calibration, inputs))
    return changed


def references(model: Model, network: Network, clips: Sequence[Clip], most: int) -> Iterator[Reference]:
    """Yield what f16 makes of windows of clips that follow each other, evenly spaced where there are more."""
    cut = list(joined(clips))
    chosen = [cut[index * len(cut) // most] for index in range(most)] if most < len(cut) else cut
    for language, samples in chosen:
        prompt = network.decoder.special.prompt(language)
        mel = log_mel(samples, model)
        ids = network.decoder.write(network.encoder.encode(mel), prompt)
        start = len(prompt) - 1
        yield Reference(mel, ids, start, logits_of(network, NumpyOperations(), mel, ids[:-1], start))


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("clips", help="a folder or manifest of clips")
    parser.add_argument("--calibration", type=Path, required=True, help="what `whisq calibrate` wrote")
    parser.add_argument("--types", nargs="+", default=["q4_0", "q5_0"])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS), metavar="STEP")
    parser.add_argument("--speakers", nargs="+", help="clips of these speakers alone, as the manifest names them")
    parser.add_argument("--windows", type=int, default=8, metavar="N", help="N windows at most, evenly spaced")
    parser.add_argument("--dampings", nargs="+", type=float, default=[1.0], metavar="TIMES", help="draws of each step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    return parser.parse_args()


def main() -> int:
    """Measure and print every step of every type."""
    args = arguments()
    calibration, operations = check_factors(read_calibration(args.calibration)), NumpyOperations()
    clips = [clip for clip in load_clips(args.clips).clips if not args.speakers or clip.speaker in args.speakers]
    rows: list[dict[str, object]] = []
    with whisq.open_model(args.model) as model:
        if any(t.spec.is_matrix and t.type is not F16 for t in model.tensors):
            raise SystemExit(f"{args.model}: is not f16: the original is what others are compared with")
        network = load_network(model, operations)
        told = list(references(model, network, clips, args.windows))
        tokens = sum(len(window.logits) for window in told)
        print(f"{len(told)} windows, {tokens} tokens, {len(args.dampings)} draws")
        print("| type | step | nats per token | ÷ ggml | ÷ feedback |\n| --- | --- | --: | --: | --: |", flush=True)
        for kind in map(parse_type, args.types):
            known: dict[str, np.ndarray] = {}
            for step in args.steps:
                if step == "fit's scales" and (kind.block_size != 32 or not kind.name.endswith("_0")):
                    continue
                draws = args.dampings if step in DRAWN else [1.0]
                each = [changed_by(model, calibration, step, kind, times) for times in draws]
                found = np.mean([divergence_sums(network, operations, told, changed) for changed in each], axis=0)
                beside = [ratio(found, known[other]) if other in known else "" for other in ("ggml", "feedback")]
                known[step] = found
                rows.append({"type": kind.name, "step": step, "sums": found.tolist(), "ratios": beside})
                print(f"| {kind} | {step} | {found.sum() / tokens:.5f} | {' | '.join(beside)} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"tokens": tokens, "dampings": args.dampings, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
