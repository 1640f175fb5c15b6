"""Importance as an imatrix GGUF: what other tools write is read, and they read what is written.

llama.cpp's (``tools/imatrix``, since July 2025): ``general.type`` is ``imatrix``; every matrix has ``NAME.in_sum2``,
the sums of squares by input column, and ``NAME.counts``, how many vectors were summed.

CrispASR's (``src/crispasr_imatrix.cpp``, read by ``crispasr-quantize --imatrix``): ``general.architecture`` is
``crispasr-imatrix``; every matrix has a tensor of its own name, the same sums, and the key ``count.NAME``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.calibration.calibration import Calibration, Moments
from whisq.calibration.inputs import input_of
from whisq.errors import CalibrationError, FormatError
from whisq.formats.gguf_container import StoredTensor, check_extents, read_container
from whisq.source_file import SourceFile
from whisq.types import F32
from whisq.whisper import Dialect, Dimensions, dialect_names, expected_tensors, name_in_dialect
from whisq.writing import whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUMS, _COUNTS, _COUNT = ".in_sum2", ".counts", "count."
_LONGEST_NAME = 200
_HINT = "use an imatrix of this very model, as GGUF (not the older .dat)"
_OF_A_GRAPH = re.compile(r"leaf_\d+")
"""What ggml calls a tensor without a name: CrispASR names no weight of a Whisper, and counts two graphs' from 0."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a GGUF holds: its keys, and its tensors as f32 arrays."""

    metadata: Mapping[str, Any]
    arrays: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ImatrixForm:
    """How a tool lays an imatrix out in a GGUF.

    ``is_its`` tells by the keys, ``names`` are the matrices, ``sums`` and ``count`` are those of one of them, the count
    None where there is none. ``describe`` writes what is said of the whole, ``put`` one matrix.
    """

    name: str
    is_its: Callable[[Mapping[str, Any]], bool]
    names: Callable[[Stored], Iterable[str]]
    sums: Callable[[Stored, str], NDArray[np.float32]]
    count: Callable[[Stored, str], float | None]
    describe: Callable[[Any, Calibration, Dimensions], None]
    put: Callable[[Any, str, NDArray[np.float32], int], None]


def _count_of_llama_cpp(stored: Stored, name: str) -> float | None:
    counts = stored.arrays.get(name + _COUNTS)
    return float(counts.reshape(-1)[0]) if counts is not None and counts.size == 1 else None


def _describe_for_llama_cpp(writer: Any, calibration: Calibration, dims: Dimensions) -> None:
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [str(entry) for entry in calibration.audio.get("data", ["unknown"])])
    writer.add_uint32("imatrix.chunk_count", int(calibration.audio.get("windows", 1)))
    writer.add_uint32("imatrix.chunk_size", int(dims.n_audio_ctx))


def _put_for_llama_cpp(writer: Any, name: str, sums: NDArray[np.float32], count: int) -> None:
    import numpy as np

    writer.add_tensor(name + _SUMS, sums.reshape(1, -1))
    writer.add_tensor(name + _COUNTS, np.full((1, 1), count, np.float32))


def _count_of_crispasr(stored: Stored, name: str) -> float | None:
    count = stored.metadata.get(_COUNT + name)
    return float(count) if isinstance(count, int) and not isinstance(count, bool) else None


def _describe_for_crispasr(writer: Any, calibration: Calibration, dims: Dimensions) -> None:
    del calibration, dims
    writer.add_uint32("imatrix.version", 1)


def _put_for_crispasr(writer: Any, name: str, sums: NDArray[np.float32], count: int) -> None:
    writer.add_tensor(name, sums)
    writer.add_uint64(_COUNT + name, count)


_CRISPASR = "crispasr-imatrix"
IMATRIX_FORMS = {
    form.name: form
    for form in (
        ImatrixForm(
            "llama.cpp",
            is_its=lambda keys: keys.get("general.type") == "imatrix",
            names=lambda stored: [key.removesuffix(_SUMS) for key in stored.arrays if key.endswith(_SUMS)],
            sums=lambda stored, name: stored.arrays[name + _SUMS],
            count=_count_of_llama_cpp,
            describe=_describe_for_llama_cpp,
            put=_put_for_llama_cpp,
        ),
        ImatrixForm(
            "crispasr",
            is_its=lambda keys: keys.get("general.architecture") == _CRISPASR,
            names=lambda stored: stored.arrays,
            sums=lambda stored, name: stored.arrays[name],
            count=_count_of_crispasr,
            describe=_describe_for_crispasr,
            put=_put_for_crispasr,
        ),
    )
}
"""By the name of the tool that reads and writes it; the first is what is written unless another is asked for."""


def write_imatrix(
    path: Path,
    calibration: Calibration,
    dims: Dimensions,
    dialect: Dialect = "canonical",
    form: ImatrixForm = IMATRIX_FORMS["llama.cpp"],
) -> None:
    """Write a calibration's importance for all matrices of a model of these dimensions.

    ``dialect`` is how the matrices are named: as in the file that the tool will quantize. Raises ``OutputError``, and
    ``CalibrationError`` for moments that cannot be read.
    """
    import numpy as np
    from gguf import GGUFWriter

    with whole(path) as part:
        writer = GGUFWriter(part.path, arch=_CRISPASR)
        form.describe(writer, calibration, dims)
        for spec in expected_tensors(dims).values():
            source = input_of(spec.name)
            if source is None or source not in calibration.counts:
                continue
            moments = calibration.moments(source)
            sums = moments.squares * np.float32(moments.n_rows)
            form.put(writer, name_in_dialect(spec.name, dialect), sums, moments.n_rows)
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
    stored = _stored(path)
    form = next((form for form in IMATRIX_FORMS.values() if form.is_its(stored.metadata)), None)
    if form is None:
        raise CalibrationError(f"{path}: is a GGUF but not an imatrix", hint=_HINT)
    found: dict[str, Moments] = {}
    unknown = []
    for name in form.names(stored):
        canonical = _canonical_names().get(name)
        source = input_of(canonical) if canonical else None
        if source is None:
            unknown.append(name)
        elif source not in found:
            found[source] = _moments(path, name, form.sums(stored, name), form.count(stored, name))
    if not found:
        _refuse_names(path, unknown)
    datasets = stored.metadata.get("imatrix.datasets", ())
    audio = {"data": list(datasets) if isinstance(datasets, tuple) else [datasets], "unknown": unknown}
    counts = {name: moments.n_rows for name, moments in found.items()}
    return Calibration(path, audio, counts, found.__getitem__, has_second_moments=False, singular={})


def _refuse_names(path: Path, names: list[str]) -> None:
    if names and all(_OF_A_GRAPH.fullmatch(name) for name in names):
        raise CalibrationError(
            f"{path}: names matrices by their place in a graph ({names[0]}), as CrispASR does where it runs a Whisper;"
            " which ones they are cannot be told",
            hint="calibrate the model here: whisq calibrate MODEL -o FILE",
        )
    some = f" (it names {names[0]})" if names else ""
    raise CalibrationError(f"{path}: does not name a matrix of a Whisper model{some}", hint=_HINT)


_MOST_LAYERS = 64


@cache
def _canonical_names() -> dict[str, str]:
    """Return the canonical name of every matrix of a Whisper as deep as can be, by its name in any dialect."""
    deepest = Dimensions(51866, 1500, 32, 1, _MOST_LAYERS, 448, 32, 1, _MOST_LAYERS, 80)
    matrices = [spec.name for spec in expected_tensors(deepest).values() if spec.is_matrix]
    return {name: matrix for matrix in matrices for name in dialect_names(matrix).values()}


def _moments(path: Path, name: str, sums: NDArray[np.float32], count: float | None) -> Moments:
    import numpy as np

    if count is None or not 0 < count < np.inf:
        raise CalibrationError(f"{path}: {name} has no count of what was summed", hint=_HINT)
    with np.errstate(over="ignore"):
        squares = (sums.reshape(-1).astype(np.float64) / count).astype(np.float32)
    if not np.isfinite(squares).all() or (squares < 0).any():
        raise CalibrationError(f"{path}: the importance of {name} is negative or not finite", hint=_HINT)
    return Moments(max(1, round(count)), squares)


def _stored(path: Path) -> Stored:
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
    return Stored({key: _text(value) for key, value in container.metadata.items()}, arrays)


def _text(value: Any) -> Any:
    """Return metadata with the strings of arrays as text; the container keeps those as bytes."""
    if isinstance(value, tuple):
        return tuple(_text(item) for item in value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
