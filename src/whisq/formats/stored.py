"""A named array in a weight file that is not ggml's, and how Whisper's tensors are made of such arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.model import Location, TensorRef
from whisq.source_file import SourceFile
from whisq.types import F16, F32, TensorType
from whisq.whisper import Dimensions, TensorSpec, expected_tensors

DOUBLE = "f64"
"""The element type that is read as f32."""

_LAYER = re.compile(r"(?:^|\.)(encoder|decoder)\.(?:layers|blocks)\.(\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array on disk, rows first. ``type`` is None for an element type that whisq does not read.

    ``type`` is how its values are given: f32 for f64. ``strides`` counts elements along each axis, None where rows
    follow one another; ``location`` begins at the first element and holds as many bytes as the values have.
    """

    name: str
    type: TensorType | None
    element: str
    shape: tuple[int, ...]
    location: Location
    strides: tuple[int, ...] | None = None


def refs_of(
    path: Path,
    arrays: Mapping[str, StoredArray],
    dims: Dimensions,
    source_name: Callable[[str], str],
    files: Sequence[SourceFile],
) -> tuple[TensorRef, ...]:
    """Return Whisper's tensors in the table's order; ``source_name`` tells what one that is missing would be called.

    Raises ``FormatError`` that lists what is missing, misshapen, or of another element type.
    """
    tensors: list[TensorRef] = []
    missing, misshapen, unread = [], [], []
    for spec in expected_tensors(dims).values():
        array = arrays.get(spec.name)
        if array is None:
            missing.append(f"{source_name(spec.name)} is missing")
        elif squeezed(array.shape) != squeezed(spec.shape):
            misshapen.append(f"{array.name} has shape {list(array.shape)}, expected {list(spec.shape)}")
        elif array.type is None:
            unread.append(f"{array.name} is {array.element}, expected f32, f16, bf16 or f64")
        else:
            decode = _decoder(files[array.location.file], array, spec)
            tensors.append(TensorRef(spec, array.name, array.type, array.location, decode))
    if missing or misshapen or unread:
        raise FormatError(f"{path}: {_listed([*missing, *misshapen, *unread])}", hint=_hint(missing, misshapen))
    return tuple(tensors)


def _hint(missing: Sequence[str], misshapen: Sequence[str]) -> str:
    if missing:
        return "download the model again: it is incomplete, or not Whisper's"
    if misshapen:
        return "take config.json and weights from the same model: the sizes of one are not those of the other"
    return "save the weights as f16 or f32: model.half().save_pretrained(folder)"


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without sizes of 1, which some writers add to biases."""
    return tuple(size for size in shape if size != 1)


def check_layers(path: Path, ignored: Sequence[str], dims: Dimensions) -> None:
    """Raise ``FormatError`` for arrays of layers beyond those that the dimensions count."""
    counted = {"encoder": dims.n_audio_layer, "decoder": dims.n_text_layer}
    for name in ignored:
        match = _LAYER.search(name)
        if match is not None and int(match[2]) >= counted[match[1]]:
            raise FormatError(
                f"{path}: holds {name}, but its configuration counts {counted[match[1]]} layers of the {match[1]}",
                hint="copy the configuration from where the weights came from",
            )


def left_out(path: Path, ignored: Sequence[str]) -> tuple[str, ...]:
    """Return the warning of arrays that are of no use, if there are any."""
    if not ignored:
        return ()
    return (f"{path}: {len(ignored)} tensors are not Whisper's and are left out: {', '.join(ignored[:3])}",)


def _listed(problems: Sequence[str]) -> str:
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def size_of(shape: Sequence[int], element_bytes: int) -> int:
    """Return the bytes of an array."""
    return math.prod(shape) * element_bytes


def is_row_by_row(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether strides, in elements, are those of rows that follow one another."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def extent_of(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the elements from the first to the last of an array, those between its own included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if math.prod(shape) else 0


def _decoder(file: SourceFile, array: StoredArray, spec: TensorSpec) -> Callable[[int, int], memoryview] | None:
    """Return what gives rows of an array that is not stored as ``Model.rows`` gives it; None for one that is."""
    if array.strides is None and array.element != DOUBLE:
        return None
    along = array.strides or _row_by_row(array.shape)
    sizes = [(size, stride) for size, stride in zip(array.shape, along, strict=True) if size != 1]
    shape, strides = tuple(size for size, _ in sizes), tuple(stride for _, stride in sizes)
    in_rows = len(shape) == len(spec.shape) > 1

    def decode(start: int, stop: int) -> memoryview:
        import numpy as np

        per = spec.n_rows // spec.shape[0] if in_rows else spec.n_rows
        first, last = start // per, -(-stop // per)
        values = _gathered(file, array, shape, strides, (first, last) if in_rows else None)
        if array.element == DOUBLE:
            with np.errstate(over="ignore"):  # beyond f32 is infinite, which whoever writes it refuses
                values = values.astype("<f4")
        begin = first * per if in_rows else 0
        rows = values.reshape(-1, spec.n_columns)[start - begin : stop - begin]
        return np.ascontiguousarray(rows).data.cast("B")

    return decode


def _row_by_row(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _gathered(
    file: SourceFile,
    array: StoredArray,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    span: tuple[int, int] | None,
) -> Any:
    """Return the elements of an array, or of a span of its first axis, as they are stored."""
    import numpy as np

    element = np.dtype("<f8" if array.element == DOUBLE else "<f4" if array.type is F32 else "<u2")
    first = 0
    if span is not None:
        first, shape = span[0] * strides[0], (span[1] - span[0], *shape[1:])
    begin = array.location.offset + first * element.itemsize
    stored = file.read(begin, begin + extent_of(shape, strides) * element.itemsize)
    along = tuple(stride * element.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(np.frombuffer(stored, element), shape, along, writeable=False)


def values_of(file: SourceFile, array: StoredArray, start: int, stop: int) -> Any:
    """Return rows of a matrix as f32 ``[stop - start, columns]``; its type is one that is read."""
    import numpy as np

    strides = array.strides or _row_by_row(array.shape)
    stored = _gathered(file, array, array.shape, strides, (start, stop))
    if array.element == DOUBLE or array.type is F32:
        return stored.astype(np.float32)
    if array.type is F16:
        return np.ascontiguousarray(stored).view("<f2").astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)
