"""ggml itself: the library that the pywhispercpp wheel carries, called through ctypes."""

import ctypes
import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from whisq.types import TensorType


@cache
def find_library() -> ctypes.CDLL | None:
    """Return ggml's library as the wheel carries it, or None where that is not installed."""
    try:
        files = importlib.metadata.files("pywhispercpp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if "ggml-base" in path.name and ".so" in path.name and path.is_file():
            library = ctypes.CDLL(str(path))
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
            library.ggml_quantize_chunk.argtypes = [
                ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p
            ]  # fmt: skip
            return library
    return None


def library() -> ctypes.CDLL:
    """Return ggml, or skip the test where the wheel is not installed."""
    found = find_library()
    if found is None:
        pytest.skip("ggml's library (package pywhispercpp, test extra) is not installed")
    return found


_known: dict[bytes, np.ndarray] = {}


def quantize(weights: np.ndarray, kind: TensorType, importance: np.ndarray | None = None) -> np.ndarray:
    """Return what ``ggml_quantize_chunk`` makes of f32 weights: ``uint8[rows, row bytes]``, not to be written to.

    Every instruction set is held against the same answer: ggml is asked once.
    """
    weights = np.ascontiguousarray(weights, np.float32)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    question = hashlib.blake2b(repr((kind.name, weights.shape, importance is None)).encode())
    for part in (weights, importance):
        question.update(b"" if part is None else part.data)
    key = question.digest()
    if key not in _known:
        result = np.empty((weights.shape[0], kind.row_bytes(weights.shape[1])), np.uint8)
        address = None if importance is None else importance.ctypes.data
        arguments = (kind.ggml_type, weights.ctypes.data, result.ctypes.data, 0, *weights.shape, address)
        library().ggml_quantize_chunk(*arguments)
        result.setflags(write=False)
        _known[key] = result
    return _known[key]
