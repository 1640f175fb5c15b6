"""Importance as llama.cpp's imatrix GGUF: what other tools write is read, and they read what is written.

The layout is that of llama.cpp's ``tools/imatrix`` (since July 2025): ``general.type`` is ``imatrix``, and every
matrix has ``NAME.in_sum2``, the sums of squares by input column, and ``NAME.counts``, how many vectors were summed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from whisq.calibration.calibration import Calibration, Moments
from whisq.calibration.inputs import input_of
from whisq.errors import CalibrationError, FormatError
from whisq.formats.gguf_container import StoredTensor, check_extents, read_container
from whisq.source_file import SourceFile
from whisq.types import F32
from whisq.whisper import Dialect, Dimensions, dialect_names, expected_tensors, name_in_dialect
from whisq.writing import whole

_SUMS, _COUNTS = ".in_sum2", ".counts"
_LONGEST_NAME = 200
_HINT = "use an imatrix of this very model, as GGUF (not the older .dat)"


def write_imatrix(path: Path, calibration: Calibration, dims: Dimensions, dialect: Dialect = "canonical") -> None:
    """Write a calibration's importance for all matrices of a model of these dimensions.

    ``dialect`` is how the matrices are named: as the tool names them that will read the file. Raises ``OutputError``,
    and ``CalibrationError`` for moments that cannot be read.
    """
    import numpy as np
    from gguf import GGUFWriter

    with whole(path) as part:
        writer = GGUFWriter(part.path, arch="imatrix")
        writer.kv_data[0].pop("general.architecture", None)
        writer.add_string("general.type", "imatrix")
        writer.add_array("imatrix.datasets", [str(entry) for entry in calibration.audio.get("data", ["unknown"])])
        writer.add_uint32("imatrix.chunk_count", int(calibration.audio.get("windows", 1)))
        writer.add_uint32("imatrix.chunk_size", int(dims.n_audio_ctx))
        for spec in expected_tensors(dims).values():
            source = input_of(spec.name)
            if source is None or source not in calibration.counts:
                continue
            moments = calibration.moments(source)
            name = name_in_dialect(spec.name, dialect)
            writer.add_tensor(name + _SUMS, (moments.squares * np.float32(moments.n_rows)).reshape(1, -1))
            writer.add_tensor(name + _COUNTS, np.full((1, 1), moments.n_rows, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def is_older_imatrix(path: Path) -> bool:
    """Return whether a file begins like the imatrix of llama.cpp before GGUF: a count, and a name with its length."""
    with path.open("rb") as stream:
        start = stream.read(8 + _LONGEST_NAME)
    if len(start) < 8:
        return False
    count, length = struct.unpack_from("<ii", start)
    name = start[8 : 8 + length]
    return 0 < count < 1 << 16 and 0 < length <= len(name) and name.isascii() and name.decode("ascii").isprintable()


def read_imatrix(path: Path) -> Calibration:
    """Return the importance in an imatrix GGUF, by input; of layers that share one, the first counts.

    Names may be in any dialect. Raises ``CalibrationError`` for a GGUF that is not an imatrix, is damaged, or is
    not of a Whisper model.
    """
    metadata, arrays = _arrays(path)
    if metadata.get("general.type") != "imatrix":
        raise CalibrationError(f"{path}: is a GGUF but not an imatrix", hint=_HINT)
    found: dict[str, Moments] = {}
    unknown = []
    for name in (key.removesuffix(_SUMS) for key in arrays if key.endswith(_SUMS)):
        canonical = _canonical_names().get(name)
        source = input_of(canonical) if canonical else None
        if source is None:
            unknown.append(name)
        elif source not in found:
            found[source] = _moments(path, name, arrays)
    if not found:
        some = f" (it names {unknown[0]})" if unknown else ""
        raise CalibrationError(f"{path}: does not name a matrix of a Whisper model{some}", hint=_HINT)
    datasets = metadata.get("imatrix.datasets", ())
    audio = {"data": list(datasets) if isinstance(datasets, tuple) else [datasets], "unknown": unknown}
    counts = {name: moments.n_rows for name, moments in found.items()}
    return Calibration(path, audio, counts, found.__getitem__, has_second_moments=False, singular={})


_MOST_LAYERS = 64


@cache
def _canonical_names() -> dict[str, str]:
    """Return the canonical name of every matrix of a Whisper as deep as can be, by its name in any dialect."""
    deepest = Dimensions(51866, 1500, 32, 1, _MOST_LAYERS, 448, 32, 1, _MOST_LAYERS, 80)
    matrices = [spec.name for spec in expected_tensors(deepest).values() if spec.is_matrix]
    return {name: matrix for matrix in matrices for name in dialect_names(matrix).values()}


def _moments(path: Path, name: str, arrays: Mapping[str, Any]) -> Moments:
    import numpy as np

    sums = arrays[name + _SUMS].reshape(-1).astype(np.float64)
    counts = arrays.get(name + _COUNTS)
    if counts is None or counts.size != 1 or not 0 < counts.reshape(-1)[0] < np.inf:
        raise CalibrationError(f"{path}: {name} has no count of what was summed", hint=_HINT)
    count = float(counts.reshape(-1)[0])
    with np.errstate(over="ignore"):
        squares = (sums / count).astype(np.float32)
    if not np.isfinite(squares).all() or (squares < 0).any():
        raise CalibrationError(f"{path}: the importance of {name} is negative or not finite", hint=_HINT)
    return Moments(max(1, round(count)), squares)


def _arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    def size_of(tensor: StoredTensor) -> int:
        return 4 * prod(tensor.sizes)

    try:
        file = SourceFile(path)
        container = read_container(file)
        check_extents(path, [(tensor, size_of(tensor)) for tensor in container.tensors], file.size_bytes)
    except FormatError as error:
        raise CalibrationError(str(error), hint=_HINT) from None
    arrays = {}
    for tensor in container.tensors:
        if tensor.type != F32.ggml_type:
            raise CalibrationError(f"{path}: {tensor.name} is of type {tensor.type}, expected f32", hint=_HINT)
        data = file.view[tensor.offset : tensor.offset + size_of(tensor)]
        arrays[tensor.name] = np.frombuffer(data, "<f4").copy()
    return {key: _text(value) for key, value in container.metadata.items()}, arrays


def _text(value: Any) -> Any:
    """Return metadata with the strings of arrays as text; the container keeps those as bytes."""
    if isinstance(value, tuple):
        return tuple(_text(item) for item in value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
