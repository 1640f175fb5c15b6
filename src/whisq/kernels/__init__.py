"""Numbers to blocks and back: the numpy-facing API over the native core.

For every type the bytes are those of ggml's ``ggml_quantize_chunk`` on the same f32 values, with any number of threads
and on any instruction set; ``whisq.kernels.reference`` defines them in numpy. The environment variable
``WHISQ_FORCE_ISA`` chooses the instruction set (``avx512``, ``avx2``, ``sse``, ``neon``, ``portable``).

numpy is imported only by the functions that take or give arrays, so that the command line starts without it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from whisq.errors import KernelError
from whisq.kernels import _core
from whisq.kernels.core_types import CORE_TYPES, refused_as
from whisq.kernels.threads import over_rows
from whisq.types import BF16, F16, F32, TYPES, TensorType, parse_type

if TYPE_CHECKING:
    from mmap import mmap

    import numpy as np
    from numpy.typing import NDArray

    Buffer = bytes | bytearray | memoryview | mmap | NDArray[Any]

FORCE_ISA_VARIABLE = "WHISQ_FORCE_ISA"


class Tally(NamedTuple):
    """Weights in a source that blocks cannot keep: NaN, infinite, finite but beyond f16's ±65504."""

    nan: int
    infinite: int
    overflow: int


def available_isas() -> list[str]:
    """Return the instruction sets that this build and this CPU have, best first."""
    return list(_core.instruction_sets())


def active_isa() -> str:
    """Return the instruction set in use: what ``WHISQ_FORCE_ISA`` says, else the best.

    Raises ``KernelError`` when the variable names one that this CPU or build lacks.
    """
    return _usable_isa(os.environ.get(FORCE_ISA_VARIABLE) or None)


def chosen_isa(isa: str | None) -> str:
    """Return an instruction set that was asked for, else the active one; raises ``KernelError`` as that does."""
    return _usable_isa(isa) if isa else active_isa()


def _usable_isa(asked: str | None) -> str:
    usable = available_isas()
    if asked is None:
        return usable[0]
    if asked.lower() not in usable:
        raise KernelError(
            f"instruction set '{asked}' is not available on this machine, which has {', '.join(usable)}",
            hint=f"unset {FORCE_ISA_VARIABLE}, or set it to one of: {' '.join(usable)}",
        )
    return asked.lower()


def quantize_rows(
    source: Buffer,
    source_type: TensorType,
    destination: Buffer,
    type: TensorType,
    n_columns: int,
    importance: Buffer | None,
    *,
    isa: str | None = None,
) -> Tally:
    """Quantize whole rows from one buffer into another, on this thread, with the GIL released.

    ``source`` holds rows of ``n_columns`` weights in f32, f16 or bf16; ``destination`` is writable and exactly
    large enough; ``importance`` holds ``n_columns`` f32 values. Returns what was found in the source.

    Raises ``KernelError`` when sizes do not fit.
    """
    use = chosen_isa(isa)
    with refused_as(f"{source_type} -> {type}, rows of {n_columns}"):
        return Tally(
            *_core.quantize(use, source, source_type.ggml_type, destination, type.ggml_type, n_columns, importance)
        )


def quantize(
    source: NDArray[Any],
    type: str | int | TensorType,
    *,
    source_type: str | TensorType | None = None,
    importance: NDArray[np.float32] | None = None,
    threads: int = 1,
    isa: str | None = None,
) -> NDArray[np.uint8]:
    """Return a matrix in a ggml type: ``uint8[rows, row bytes]``.

    ``source`` is ``[rows, columns]`` in float32 or float16, or uint16 with ``source_type="bf16"``. ``importance`` is
    ``float32[columns]``, ggml's ``imatrix`` argument. Rows are split among ``threads``; the bytes are the same
    with any number. Values that blocks cannot keep (NaN, infinity) give what ggml gives: check beforehand, or use
    ``quantize_rows``, which counts them.

    Raises ``KernelError`` for other dtypes and shapes and where a row is not a whole number of blocks.
    """
    import numpy as np

    kind = parse_type(type)
    from_type = _source_type(source, source_type)
    if source.ndim != 2:
        raise KernelError(f"source has shape {list(source.shape)}, expected [rows, columns]")
    rows, columns = source.shape
    if columns == 0 or not kind.fits(columns):
        raise KernelError(
            f"rows of {columns} do not fit {kind}, whose blocks have {kind.block_size} weights",
            hint=_types_that_fit(columns),
        )
    if importance is not None:
        if importance.shape != (columns,):
            raise KernelError(f"importance has shape {list(importance.shape)}, expected [{columns}]")
        importance = np.ascontiguousarray(importance, np.float32)
    contiguous = np.ascontiguousarray(source)
    result = np.empty((rows, kind.row_bytes(columns)), np.uint8)

    def work(start: int, stop: int) -> None:
        if start < stop:
            part, into = contiguous[start:stop].reshape(-1), result[start:stop].reshape(-1)
            quantize_rows(part.view(np.uint8), from_type, into, kind, columns, importance, isa=isa)

    over_rows(work, rows, threads)
    return result


def has_feedback(type: TensorType) -> bool:
    """Return whether ``kernels.feedback`` can round to this type."""
    row = CORE_TYPES.get(type.ggml_type)
    return row is not None and row.has_feedback


def _types_that_fit(columns: int) -> str:
    fitting = [kind.name for kind in TYPES.values() if kind.is_quantized and columns and kind.fits(columns)]
    if fitting:
        return f"choose a type whose blocks fit: {' '.join(fitting)}"
    return f"choose a type without blocks: {' '.join(kind.name for kind in TYPES.values() if not kind.is_quantized)}"


def dequantize(
    data: Buffer,
    type: str | int | TensorType,
    shape: tuple[int, ...],
    *,
    threads: int = 1,
    isa: str | None = None,
) -> NDArray[np.float32]:
    """Return the weights that a buffer of a ggml type holds: ``float32`` of ``shape`` (numpy's order).

    The values are those of ggml's ``dequantize_row_*`` to the last bit. Raises ``KernelError`` when the buffer's
    size is not that of the shape, and for a type that the core has no kernel for.
    """
    import numpy as np

    kind = parse_type(type)
    flat = np.frombuffer(data, np.uint8)
    columns = shape[-1] if shape else 1
    rows = int(np.prod(shape[:-1], dtype=np.int64)) if shape else 1
    row_bytes = kind.row_bytes(columns)
    if not kind.fits(columns) or flat.size != rows * row_bytes:
        raise KernelError(
            f"{flat.size} bytes cannot hold a {kind} matrix of shape {list(shape)}, expected {rows * row_bytes}"
            + ("" if kind.fits(columns) else f" and columns in blocks of {kind.block_size}")
        )
    result = np.empty(shape, np.float32)
    lines = result.reshape(rows, columns)

    def work(start: int, stop: int) -> None:
        if start < stop:
            part = flat[start * row_bytes : stop * row_bytes]
            dequantize_into(part, kind, lines[start:stop].reshape(-1).view(np.uint8), isa=isa)

    over_rows(work, rows, threads)
    return result


def dequantize_into(
    data: Buffer,
    type: str | int | TensorType,
    destination: Buffer,
    *,
    isa: str | None = None,
) -> None:
    """Dequantize whole blocks into a writable buffer of f32, on this thread, with the GIL released.

    Raises ``KernelError`` when sizes do not fit, and for a type that the core has no kernel for.
    """
    kind = parse_type(type)
    use = chosen_isa(isa)
    with refused_as(str(kind)):
        _core.dequantize(use, data, kind.ggml_type, destination)


def unpack_triangle(packed: Buffer, matrix: NDArray[np.float32]) -> None:
    """Fill a symmetric matrix ``[n, n]`` from its upper triangle, n (n + 1) / 2 values in f32, row after row.

    Raises ``KernelError`` when sizes do not fit.
    """
    with refused_as(f"a triangle of {len(matrix)} rows"):
        _core.unpack_triangle(packed, len(matrix), matrix)


def _source_type(source: NDArray[Any], named: str | TensorType | None) -> TensorType:
    found = {"float32": F32, "float16": F16}.get(source.dtype.name)
    if named is not None and parse_type(named) is BF16 and source.dtype.name == "uint16":
        return BF16
    if found is None or (named is not None and parse_type(named) is not found):
        raise KernelError(
            f"source has dtype {source.dtype}" + (f" but source_type {named}" if named is not None else ""),
            hint="give float32, float16, or uint16 with source_type='bf16'",
        )
    return found
