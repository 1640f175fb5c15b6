"""A named array in a weight file that is not ggml's, and how Whisper's tensors are found among many."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisq.errors import FormatError
from whisq.model import Location, TensorRef
from whisq.types import TensorType
from whisq.whisper import Dimensions, expected_tensors

_LAYER = re.compile(r"(?:^|\.)(encoder|decoder)\.(?:layers|blocks)\.(\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array on disk, rows first, contiguous. ``type`` is None for an element type that whisq does not read."""

    name: str
    type: TensorType | None
    element: str
    shape: tuple[int, ...]
    location: Location


def refs_of(
    path: Path, arrays: Mapping[str, StoredArray], dims: Dimensions, names: Mapping[str, str]
) -> tuple[TensorRef, ...]:
    """Return Whisper's tensors in the table's order; ``names`` maps canonical names to those in ``arrays``.

    Raises ``FormatError`` that lists what is missing, misshapen, or of another element type.
    """
    tensors: list[TensorRef] = []
    problems: list[str] = []
    for spec in expected_tensors(dims).values():
        array = arrays.get(names[spec.name])
        if array is None:
            problems.append(f"{names[spec.name]} is missing")
        elif squeezed(array.shape) != squeezed(spec.shape):
            problems.append(f"{array.name} has shape {list(array.shape)}, expected {list(spec.shape)}")
        elif array.type is None:
            problems.append(f"{array.name} is {array.element}, expected f32, f16 or bf16")
        else:
            tensors.append(TensorRef(spec, array.name, array.type, array.location))
    if problems:
        raise FormatError(
            f"{path}: {_listed(problems)}", hint="download the model again: it is incomplete, or not Whisper's"
        )
    return tuple(tensors)


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without sizes of 1, which some writers add to biases."""
    return tuple(size for size in shape if size != 1)


def left_over(arrays: Mapping[str, StoredArray], used: Sequence[TensorRef], known: Sequence[str]) -> list[str]:
    """Return the names of arrays that are neither used nor ``known`` to be dispensable."""
    taken = {tensor.source_name for tensor in used} | set(known)
    return [name for name in arrays if name not in taken]


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


def _listed(problems: Sequence[str]) -> str:
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def size_of(shape: Sequence[int], element_bytes: int) -> int:
    """Return the bytes of an array."""
    return math.prod(shape) * element_bytes
