"""A file of large-v3's shapes (3.1 GB, f16): time beside reading it and writing as many bytes, and memory held.

    python benchmarks/large.py [--types q5_0,q4_K] [--runs 3] [--folder DIR] [--json FILE]

The weights are random, made here; the file is in the page cache when it is read, for both alike. "Copying" reads the
whole source and writes as many bytes as the result has, in one thread, synced at the end, as the result is. Memory is
sampled from /proc (Linux): "held" is the most anonymous memory at any moment, "resident" counts the mapped pages of the
source that were not yet released, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import peers

from whisq.formats import layout_of
from whisq.formats.layout import Output
from whisq.formats.mel import mel_filters
from whisq.model import Location, Model, TensorRef, Tokenizer
from whisq.types import F16, F32
from whisq.units import megabytes
from whisq.whisper import expected_tensors

LARGE_V3 = peers.released("large-v3")
PIECE = 8 << 20


def make(path: Path) -> None:
    """Write a ``.bin`` of large-v3's shapes with random weights."""
    values = (np.random.default_rng(0).standard_normal(1 << 22) * 0.03).astype(np.float16)
    tensors = []
    for spec in expected_tensors(LARGE_V3).values():
        kind = F16 if spec.is_matrix or spec.role == "conv" else F32
        size = kind.row_bytes(spec.shape[-1]) * (int(np.prod(spec.shape)) // spec.shape[-1])
        tensors.append(TensorRef(spec, spec.name, kind, Location(0, 0, size)))
    tokens = Tokenizer(tuple(struct.pack("<H", number) for number in range(50257)))
    model = Model(
        path=path,
        format="bin",
        dims=LARGE_V3,
        tokenizer=tokens,
        mel_filters=mel_filters(128),
        tensors=tuple(tensors),
        files=(),
        metadata={},
    )
    arranged = layout_of("bin", model, [Output(tensor, tensor.type) for tensor in tensors])
    with path.open("wb") as stream:
        stream.truncate(arranged.size_bytes)
        for offset, piece in arranged.pieces:
            stream.seek(offset)
            stream.write(piece)
        for tensor, offset in zip(tensors, arranged.data_offsets, strict=True):
            stream.seek(offset)
            left = tensor.n_weights
            while left:
                count = min(left, values.size)
                stream.write(values[:count] if tensor.type is F16 else values[:count].astype(np.float32))
                left -= count


def copy_seconds(source: Path, target: Path, size: int) -> float:
    """Read all of the source and write ``size`` bytes of it, evenly along the way; seconds."""
    total, buffer = source.stat().st_size, bytearray(PIECE)
    started = time.perf_counter()
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        done = 0
        while count := reader.readinto(buffer):
            before, done = done, done + count
            writer.write(memoryview(buffer)[: size * done // total - size * before // total])
        os.fsync(writer.fileno())
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="q5_0,q4_K", help="comma-separated (default: q5_0,q4_K)")
    parser.add_argument("--runs", type=int, default=3, help="medians are of this many runs (default: 3)")
    parser.add_argument("--folder", type=Path, help="where 6 GB are free (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    facts = peers.machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    lines = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target = Path(folder) / "large-v3-f16.bin", Path(folder) / "out.bin"
        make(source)
        print(f"source {source.stat().st_size / 1e9:.2f} GB")
        for name in args.types.split(","):
            copies, ours, memory = [], [], []
            for _ in range(args.runs):
                run = peers.run_whisq(["quantize", str(source), str(target), name, "--quiet"])
                ours.append(run.seconds)
                memory.append((megabytes(run.held_bytes), megabytes(run.resident_bytes)))
                size = target.stat().st_size
                target.unlink()
                copies.append(copy_seconds(source, target, size))
                target.unlink()
            line = {
                "type": name, "output_gb": size / 1e9, "whisq_s": statistics.median(ours),
                "copy_s": statistics.median(copies), "ratio": statistics.median(ours) / statistics.median(copies),
                "held_mb": max(held for held, _ in memory), "resident_mb": max(resident for _, resident in memory),
            }  # fmt: skip
            lines.append(line)
            print(
                f"{name}: {line['output_gb']:.2f} GB in {line['whisq_s']:.1f} s, copying {line['copy_s']:.1f} s, "
                f"ratio {line['ratio']:.2f}; held {line['held_mb']:.0f} MB, resident {line['resident_mb']:.0f} MB",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "quantize": lines}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
