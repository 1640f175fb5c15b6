"""How cost grows with size: time per weight against width, threads, and memory of whole files.

    python benchmarks/scale.py [--types q4_0,q4_K] [--sizes tiny,base,small,large-v3] [--runs 3] [--json FILE]

A matrix of every width from 384 to 1280 with four times as many rows, random, is rounded plainly from f16 and with
feedback, on one thread; the moments are those of random inputs that correlate. The slope is that of time per weight
against width on logarithmic scales: 0 where time is linear in weights, 1 where it is in weights × width. Then the
widest is rounded on 1, 2, 4 threads and so on up to the cores there are. Times are the least of the runs. Memory is
the most that `whisq quantize` held in a process of its own (Linux), for files of released sizes without weights on
disk.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peers

from whisq import kernels
from whisq.kernels.feedback import Factor, factor_of, quantize_with_feedback
from whisq.kernels.threads import blas_on_one_thread
from whisq.types import F16, TYPES, TensorType
from whisq.units import megabytes

WIDTHS = (384, 512, 768, 1024, 1280)
K_WIDTHS = (512, 768, 1024, 1280)


def least_seconds(work: Callable[[], object], runs: int) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def weights_of(width: int) -> np.ndarray:
    return (0.03 * np.random.default_rng(width).standard_normal((4 * width, width))).astype(np.float16)


def moment_of(width: int) -> np.ndarray:
    """Return the second moment of random inputs that correlate as neighbours do."""
    generator = np.random.default_rng(width)
    inputs = generator.standard_normal((2 * width, width)).astype(np.float32).cumsum(1) * np.float32(width**-0.5)
    inputs += generator.standard_normal(inputs.shape).astype(np.float32)
    found: np.ndarray = inputs.T @ inputs / np.float32(len(inputs))
    return found


def plain(halves: np.ndarray, kind: TensorType, threads: int) -> None:
    result = np.empty((len(halves), kind.row_bytes(halves.shape[1])), np.uint8)

    def part(number: int) -> None:
        rows = slice(len(halves) * number // threads, len(halves) * (number + 1) // threads)
        kernels.quantize_rows(halves[rows], F16, result[rows], kind, halves.shape[1], None)

    if threads == 1:
        part(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))


def growth(kind: TensorType, runs: int) -> list[dict[str, float | str]]:
    """Measure one type on all widths that it fits."""
    lines: list[dict[str, float | str]] = []
    for width in WIDTHS if kind.fits(WIDTHS[0]) else K_WIDTHS:
        halves, moment = weights_of(width), moment_of(width)
        weights, factor = halves.astype(np.float32), factor_of(moment)
        seconds = {
            "plain": least_seconds(lambda h=halves: plain(h, kind, 1), runs),
            "factor": least_seconds(lambda m=moment: factor_of(m), runs),
            "feedback": least_seconds(lambda w=weights, f=factor: quantize_with_feedback(w, kind, f), runs),
        }
        lines.append({"type": kind.name, "width": width, **{k: 1e9 * s / halves.size for k, s in seconds.items()}})
        print(f"{kind.name:6} {width:6}" + "".join(f" {lines[-1][k]:12.2f}" for k in seconds), flush=True)
    widths = np.log([float(line["width"]) for line in lines])
    slopes = {k: float(np.polyfit(widths, np.log([float(line[k]) for line in lines]), 1)[0]) for k in seconds}
    lines.append({"type": kind.name, "width": "exponent", **slopes})
    print(f"{kind.name:6} {'slope':>6}" + "".join(f" {slope:12.2f}" for slope in slopes.values()), flush=True)
    return lines


def threaded(kind: TensorType, runs: int) -> list[dict[str, float | str]]:
    """Measure the widest matrix on more and more threads."""
    halves = weights_of(WIDTHS[-1])
    weights, factor = halves.astype(np.float32), factor_of(moment_of(WIDTHS[-1]))
    cores, lines = os.cpu_count() or 1, []
    for threads in sorted({1, cores, *(2**power for power in range(1, 8) if 2**power < cores)}):
        plainly = least_seconds(lambda n=threads: plain(halves, kind, n), 3 * runs)
        fed = least_seconds(lambda n=threads: feed(weights, kind, factor, n), runs)
        lines.append({"type": kind.name, "threads": threads, "plain_s": plainly, "feedback_s": fed})
        first = lines[0]
        print(
            f"{kind.name:6} {threads:7} {first['plain_s'] / plainly:12.2f} {first['feedback_s'] / fed:12.2f}",
            flush=True,
        )
    return lines


def feed(weights: np.ndarray, kind: TensorType, factor: Factor, threads: int) -> None:
    quantize_with_feedback(weights, kind, factor, threads=threads)


def memory(size: str, kind: TensorType, folder: Path) -> dict[str, float | str]:
    """Measure what quantizing a file of a released size holds."""
    source = peers.WRITERS["bin"](folder, peers.hollow_weights(peers.released(size)))
    run = peers.run_whisq(["quantize", str(source), str(folder / "out.bin"), kind.name, "--quiet"])
    line: dict[str, float | str] = {
        "size": size, "type": kind.name, "held_mb": megabytes(run.held_bytes), "s": run.seconds,
    }  # fmt: skip
    print(f"{size:10} {kind.name:6} {line['held_mb']:8.0f} {run.seconds:8.2f}", flush=True)
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="q4_0,q4_K", help="comma-separated (default: q4_0,q4_K)")
    parser.add_argument("--sizes", default="tiny,base,small,large-v3", help="of files; large-v3 takes 1 GB of disk")
    parser.add_argument("--runs", type=int, default=3, help="times are the least of this many runs (default: 3)")
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    kinds, facts = [TYPES[name] for name in args.types.split(",")], peers.machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    report: dict[str, object] = {"machine": facts, "runs": args.runs}
    with blas_on_one_thread():
        print("\nns per weight, one thread\ntype    width        plain       factor     feedback")
        report["growth"] = [line for kind in kinds for line in growth(kind, args.runs)]
        print("\ntimes as fast as on one thread, by the clock\ntype   threads        plain     feedback")
        report["threads"] = [line for kind in kinds for line in threaded(kind, args.runs)]
    print("\nheld while quantizing a file\nsize       type         MB        s")
    found = []
    for size in args.sizes.split(","):
        for kind in kinds:
            with tempfile.TemporaryDirectory(dir=args.folder) as name:
                found.append(memory(size, kind, Path(name)))
    report["memory"] = found
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
