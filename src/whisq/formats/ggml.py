"""whisper.cpp's own file, ``.bin``.

Layout (little-endian; source: whisper.cpp, ``models/convert-pt-to-ggml.py`` and ``whisper_model_load``):
u32 magic · 11 × i32 dimensions and ftype · mel filters · vocabulary · tensors until the end of the file,
unaligned. Nothing in the file is believed before it is checked against the file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats.cursor import DAMAGED, INCOMPLETE, NOT_WHISPER, Cursor, first_bytes
from whisq.formats.layout import Layout, Output
from whisq.model import Location, Model, TensorRef, Tokenizer
from whisq.source_file import SourceFile
from whisq.types import F16, QUANTIZATION_VERSION, TYPES, TensorType, type_from_ggml
from whisq.whisper import LARGEST_SIZES, N_FFT_BINS, Dimensions, TensorSpec, expected_tensors

MAGIC = 0x67676D6C
MIXED_FTYPE = 1000 * QUANTIZATION_VERSION + F16.ggml_ftype
"""Header of a file whose matrices are of several types: loaders then reserve f16 for each of them."""

_HEADER = "11i"
_HEADER_FIELDS = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
)
_FTYPES = frozenset({*range(5), *range(7, 27)})
"""ggml's ``enum ggml_ftype``: 5 and 6 are of types that it no longer has."""
# Whisper's longest tensor name has 38 bytes, its longest token 128: what is far beyond these is damage.
_LONGEST_NAME = 128
_LONGEST_TOKEN = 1 << 12


def detect(path: Path) -> bool:
    """Return whether the file begins with ggml's magic number."""
    return first_bytes(path, 4) == struct.pack("<I", MAGIC)


def open(path: Path) -> Model:
    """Open a ``.bin``; the tensors keep the file's order.

    Raises ``FormatError`` for anything that whisper.cpp would misread: truncation, absurd counts, unknown or
    duplicate or missing tensors, wrong shapes, trailing bytes.
    """
    file = SourceFile(path)
    try:
        return _parse(path, file)
    except BaseException:
        file.close()
        raise


def _parse(path: Path, file: SourceFile) -> Model:
    cursor = Cursor(file)
    magic = cursor.integer("I", "the magic number")
    if magic != MAGIC:
        raise FormatError(
            f"{path}: wrong magic 0x{magic:08x}, expected 0x{MAGIC:08x}", hint="name a whisper.cpp .bin file"
        )
    dims, ftype = _dimensions(cursor)
    mel_filters = _mel_filters(cursor, dims)
    tokens = _vocabulary(cursor, dims)
    tensors = _tensors(cursor, dims)
    return Model(
        path=path,
        format="bin",
        dims=dims,
        tokenizer=Tokenizer(tokens),
        mel_filters=mel_filters,
        tensors=tensors,
        files=(file,),
        metadata={"ftype": ftype},
    )


def _dimensions(cursor: Cursor) -> tuple[Dimensions, int]:
    values = cursor.unpack(_HEADER, "the header")
    sizes = dict(zip(_HEADER_FIELDS, values[:10], strict=True))
    wrong = [f"{name} = {size}" for name, size in sizes.items() if not 0 < size <= LARGEST_SIZES[name]]
    if wrong:
        raise FormatError(
            f"{cursor.path}: the header holds impossible dimensions: {', '.join(wrong)}",
            hint=NOT_WHISPER,
        )
    version, ftype = divmod(values[10], 1000)
    if ftype not in _FTYPES or not 0 <= version <= QUANTIZATION_VERSION:
        raise FormatError(
            f"{cursor.path}: the header's ftype is {values[10]}, which no type of ggml has", hint=NOT_WHISPER
        )
    return Dimensions(**sizes), values[10]


def _mel_filters(cursor: Cursor, dims: Dimensions) -> bytes:
    n_mel, n_fft = cursor.unpack("2i", "the mel filters")
    if n_mel != dims.n_mels or n_fft != N_FFT_BINS:
        raise FormatError(
            f"{cursor.path}: mel filters are {n_mel} × {n_fft}, expected {dims.n_mels} × {N_FFT_BINS}",
            hint=NOT_WHISPER,
        )
    return bytes(cursor.take(4 * n_mel * n_fft, "the mel filters"))


def _vocabulary(cursor: Cursor, dims: Dimensions) -> tuple[bytes, ...]:
    count = cursor.integer("i", "the vocabulary")
    if not 0 <= count <= dims.n_vocab:
        raise FormatError(
            f"{cursor.path}: the vocabulary counts {count} tokens, the header allows 0 to {dims.n_vocab}",
            hint=DAMAGED,
        )
    return tuple(cursor.strings(count, "I", lambda number: f"token {number}", _LONGEST_TOKEN))


def _tensors(cursor: Cursor, dims: Dimensions) -> tuple[TensorRef, ...]:
    expected = expected_tensors(dims)
    found: dict[str, TensorRef] = {}
    while cursor.left:
        tensor = _tensor(cursor, expected, len(found))
        if tensor.name in found:
            raise FormatError(
                f"{cursor.path}: tensor {tensor.name} occurs twice",
                hint="the file is damaged, or was joined from two: download or convert it again",
            )
        found[tensor.name] = tensor
    missing = [name for name in expected if name not in found]
    if missing:
        raise FormatError(
            f"{cursor.path}: {len(missing)} of {len(expected)} tensors are missing, the first is {missing[0]}",
            hint=INCOMPLETE,
        )
    return tuple(found.values())


def _tensor(cursor: Cursor, expected: dict[str, TensorSpec], number: int) -> TensorRef:
    where = f"the header of tensor {number + 1}"
    if number >= len(expected):
        raise FormatError(
            f"{cursor.path}: {cursor.left} bytes follow the last of its {len(expected)} tensors",
            hint="the file has trailing data: convert it again",
        )
    n_dims, name_length, type_number = cursor.unpack("3i", where)
    if not 1 <= n_dims <= 4 or not 1 <= name_length <= _LONGEST_NAME:
        raise FormatError(
            f"{cursor.path}: {where} at offset {cursor.offset - 12} claims {n_dims} dimensions and a name of"
            f" {name_length} bytes",
            hint=DAMAGED,
        )
    sizes = cursor.unpack(f"{n_dims}i", where)
    name = bytes(cursor.take(name_length, where)).decode("utf-8", "backslashreplace")
    spec = expected.get(name)
    if spec is None:
        raise FormatError(
            f"{cursor.path}: unknown tensor {name!r}",
            hint="convert the model again: the header is of other dimensions, or this is not a Whisper model",
        )
    _check_shape(cursor.path, spec, sizes)
    tensor_type = checked_type(cursor.path, name, type_number, spec)
    offset = cursor.offset
    size_bytes = spec.n_rows * tensor_type.row_bytes(spec.n_columns)
    cursor.skip(size_bytes, f"the data of tensor {name}")
    return TensorRef(spec, name, tensor_type, Location(0, offset, size_bytes))


def _check_shape(path: Path, spec: TensorSpec, sizes: tuple[int, ...]) -> None:
    """Check ggml sizes (fastest first) against the shape; sizes of 1 may stand anywhere in a vector."""
    found = tuple(reversed(sizes))
    if len(spec.shape) == 1:
        found = tuple(size for size in found if size != 1) or (1,)
    if found != spec.shape:
        raise FormatError(
            f"{path}: tensor {spec.name} has shape {list(reversed(sizes))}, expected {list(spec.shape)} for the"
            " header's dimensions",
            hint="convert the model again: header and tensors come from different models, or the file is damaged",
        )


def checked_type(path: Path, name: str, type_number: int, spec: TensorSpec) -> TensorType:
    """Return the type that a file states for a tensor by ggml's number.

    Raises ``FormatError`` for a number that whisq does not know, and for blocks that do not fit the tensor's rows.
    """
    found = type_from_ggml(type_number)
    if found is None:
        known = ", ".join(f"{kind.ggml_type} = {kind.name}" for kind in TYPES.values())
        raise FormatError(
            f"{path}: tensor {name} has ggml type {type_number}, which whisq does not know",
            hint=f"convert the model again to one of these types: {known}",
        )
    if not found.fits(spec.n_columns):
        raise FormatError(
            f"{path}: tensor {name} is {found}, whose blocks hold {found.block_size} weights, but its rows have"
            f" {spec.n_columns}",
            hint="convert the model again to another type: no runtime loads this file",
        )
    return found


def header_ftype(outputs: Sequence[Output]) -> int:
    """Return the header's ftype: the one type of all matrices (embedding included), else mixed (2001)."""
    kinds = {output.type for output in outputs if output.tensor.spec.is_matrix}
    if len(kinds) != 1:
        return MIXED_FTYPE
    (only,) = kinds
    return only.ggml_ftype + (1000 * QUANTIZATION_VERSION if only.is_quantized else 0)


def layout(model: Model, outputs: Sequence[Output], provenance: dict[str, Any]) -> Layout:
    """Return where everything goes in a ``.bin`` of these outputs; it has no room for provenance."""
    del provenance
    dims, tokens = model.dims, model.tokenizer.tokens
    head = struct.pack("<I", MAGIC)
    head += struct.pack(f"<{_HEADER}", *(getattr(dims, name) for name in _HEADER_FIELDS), header_ftype(outputs))
    head += struct.pack("<2i", dims.n_mels, N_FFT_BINS) + model.mel_filters
    longest = max(map(len, tokens), default=0)
    if longest > _LONGEST_TOKEN:
        number = next(number for number, token in enumerate(tokens) if len(token) == longest)
        raise FormatError(
            f"{model.path}: token {number} has {longest} bytes, a .bin takes at most {_LONGEST_TOKEN}",
            hint="write a GGUF, or fix the vocabulary",
        )
    head += _packed(tokens)
    pieces = [(0, head)]
    offset = len(head)
    data_offsets = []
    for output in outputs:
        piece = _tensor_header(output)
        pieces.append((offset, piece))
        offset += len(piece)
        data_offsets.append(offset)
        offset += output.size_bytes
    return Layout(offset, tuple(pieces), tuple(data_offsets))


@lru_cache(maxsize=1)
def _packed(tokens: tuple[bytes, ...]) -> bytes:
    """Return the vocabulary as it is written; a search plans a dozen files of one model."""
    lengths = [struct.pack("<I", length) for length in range(_LONGEST_TOKEN + 1)]
    return struct.pack("<i", len(tokens)) + b"".join([lengths[len(token)] + token for token in tokens])


def _tensor_header(output: Output) -> bytes:
    spec = output.tensor.spec
    # whisper.cpp creates conv biases as [1, n] and compares the number of elements of both dimensions.
    sizes = (1, *spec.shape) if spec.role == "conv_bias" else tuple(reversed(spec.shape))
    name = spec.name.encode()
    return struct.pack(f"<3i{len(sizes)}i", len(sizes), len(name), output.type.ggml_type, *sizes) + name
