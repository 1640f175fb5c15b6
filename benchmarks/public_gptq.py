"""Feedback beside the public GPTQ: the same matrices and moments, time and what is left of the error.

    git clone https://github.com/IST-DASLab/gptq
    python benchmarks/public_gptq.py MODEL CALIB --gptq gptq [--types q4_0,q4_1] [--matrices 12] [--json FILE]

Both get a matrix in f32 and the damped second moment H of its input, and start there: factors are in the time. GPTQ
runs on the CPU with torch's threads, as many as there are cores, in groups of 32, symmetric beside q4_0 and q5_0,
with a zero point beside q4_1 and q5_1; its scales stay in f32, where a block's are in f16. It needs torch and
transformers. The error is tr(ΔW H ΔWᵀ) for both, of what a file would hold, by that of ggml's rounding; the time is
by the clock, the least of the runs, which alternate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers

from whisq import kernels, open_model
from whisq.calibration import read_calibration
from whisq.kernels.feedback import factor_of, quantize_with_feedback
from whisq.kernels.threads import blas_on_one_thread
from whisq.quantization.layer_inputs import LayerInputs
from whisq.types import TYPES, TensorType

GROUP = 32


@dataclass
class Line:
    """One matrix in one type: seconds, errors by that of plain rounding, and their ratios, ours by GPTQ's."""

    matrix: str
    type: str
    gptq_s: float
    ours_s: float
    gptq_error: float
    ours_error: float
    time_ratio: float
    error_ratio: float


def gptq_of(folder: Path) -> Callable[[np.ndarray, np.ndarray, TensorType], np.ndarray]:
    """Return (weights, moment, type) -> weights as the public GPTQ rounds them."""
    import torch

    sys.path.insert(0, str(folder))
    from gptq import GPTQ
    from quant import Quantizer

    # It waits for a GPU when it is done; here there is none to wait for.
    torch.cuda.synchronize = lambda *_: None
    torch.set_num_threads(os.cpu_count() or 1)

    def rounded(weights: np.ndarray, moment: np.ndarray, kind: TensorType) -> np.ndarray:
        layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(weights.copy())
        work: Any = GPTQ(layer)
        work.H, work.quantizer = torch.from_numpy(moment.copy()), Quantizer()
        work.quantizer.configure(int(kind.name[1]), perchannel=True, sym=kind.name.endswith("_0"), mse=False)
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            work.fasterquant(percdamp=0.0, groupsize=GROUP)
        found: np.ndarray = layer.weight.data.numpy()
        return found

    return rounded


def ours(weights: np.ndarray, moment: np.ndarray, kind: TensorType) -> np.ndarray:
    """Return weights as feedback rounds them: factor, rounding, and what the blocks decode to."""
    with blas_on_one_thread():
        blocks = quantize_with_feedback(weights, kind, factor_of(moment, 0.0), threads=os.cpu_count() or 1)
    found: np.ndarray = kernels.dequantize(blocks, kind, weights.shape)
    return found


def error(weights: np.ndarray, rounded: np.ndarray, moment: np.ndarray) -> float:
    change = (rounded - weights).astype(np.float64)
    return float(np.einsum("rc,rc->", change @ moment, change))


def measured(
    name: str, weights: np.ndarray, moment: np.ndarray, kind: TensorType, theirs: Callable[..., np.ndarray], runs: int
) -> Line:
    """Measure one matrix."""
    seconds: dict[str, list[float]] = {"gptq": [], "ours": []}
    found: dict[str, np.ndarray] = {}
    for _ in range(runs):
        for who, round_matrix in (("gptq", theirs), ("ours", ours)):
            started = time.perf_counter()
            found[who] = round_matrix(weights, moment, kind)
            seconds[who].append(time.perf_counter() - started)
    plain = kernels.dequantize(kernels.quantize(weights, kind), kind, weights.shape)
    base = error(weights, plain, moment)
    their_error, our_error = (error(weights, found[who], moment) / base for who in ("gptq", "ours"))
    their_s, our_s = (min(seconds[who]) for who in ("gptq", "ours"))
    return Line(
        name, kind.name, their_s, our_s, their_error, our_error, our_s / their_s, our_error / their_error
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--gptq", type=Path, required=True, metavar="FOLDER", help="a checkout of IST-DASLab/gptq")
    parser.add_argument("--types", default="q4_0,q4_1", help="comma-separated, of q4_0 q4_1 q5_0 q5_1")
    parser.add_argument("--matrices", type=int, default=12, metavar="N", help="take N, evenly spread (default: 12)")
    parser.add_argument("--runs", type=int, default=3, help="times are the least of this many runs (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    facts, lines = peers.machine(), []
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    theirs = gptq_of(args.gptq)
    inputs = LayerInputs(read_calibration(args.calibration))
    print(f"\n{'matrix':40} type   GPTQ s  ours s  ratio GPTQ error   ours  ratio")
    with open_model(args.model) as model:
        blocks = [tensor for tensor in model.tensors if tensor.spec.is_matrix and tensor.layer is not None]
        for index in np.unique(np.linspace(0, len(blocks) - 1, args.matrices).round().astype(int)):
            tensor = blocks[index]
            weights, moment = model.array(tensor), np.ascontiguousarray(inputs.factor(tensor.name).second_moment)
            for name in args.types.split(","):
                lines.append(line := measured(tensor.name, weights, moment, TYPES[name], theirs, args.runs))
                print(
                    f"{line.matrix:40} {line.type:5} {line.gptq_s:7.2f} {line.ours_s:7.3f} {line.time_ratio:6.2f}"
                    f" {line.gptq_error:10.3f} {line.ours_error:6.3f} {line.error_ratio:6.3f}",
                    flush=True,
                )
    time_ratio = sum(line.ours_s for line in lines) / sum(line.gptq_s for line in lines)
    error_ratio = float(np.exp(np.mean([np.log(line.error_ratio) for line in lines])))
    print(f"\nin all: {time_ratio:.2f} of GPTQ's time, {error_ratio:.3f} of its error (geometric mean)")
    if args.json:
        report = {"machine": facts, "runs": args.runs, "matrices": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
