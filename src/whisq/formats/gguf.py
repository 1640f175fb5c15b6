"""transcribe.cpp's GGUF: the same tensors under other names, and all that a runtime must know beside them.

The container is ``gguf_container``'s, the keys are ``gguf_metadata``'s; here tensors and dimensions are matched
with Whisper's. Source: transcribe.cpp, ``src/arch/whisper/weights.cpp``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats.byte_pairs import bytes_of
from whisq.formats.candle import has_its_names, open_container
from whisq.formats.cursor import DAMAGED, INCOMPLETE, NOT_WHISPER, first_bytes
from whisq.formats.ggml import checked_type
from whisq.formats.gguf_container import (
    MAGIC,
    Container,
    Described,
    StoredTensor,
    check_extents,
    encode,
    read_container,
)
from whisq.formats.gguf_metadata import CONTROL, VOCABULARY_COUNT_KEY, metadata_of
from whisq.formats.layout import Layout, Output
from whisq.model import Location, Model, TensorRef, Tokenizer
from whisq.source_file import SourceFile
from whisq.types import F32
from whisq.whisper import LARGEST_SIZES, N_FFT_BINS, Dimensions, TensorSpec, expected_tensors, name_in_dialect

_FILTERS, _WINDOW = "frontend.mel_filterbank", "frontend.window"
_WINDOW_LENGTH = 400
_SIZE_KEYS = {
    "n_vocab": "decoder.vocab_size",
    "n_audio_ctx": "encoder.max_source_positions",
    "n_audio_state": "encoder.d_model",
    "n_audio_head": "encoder.n_heads",
    "n_audio_layer": "encoder.n_layers",
    "n_text_ctx": "decoder.max_target_positions",
    "n_text_state": "decoder.d_model",
    "n_text_head": "decoder.n_heads",
    "n_text_layer": "decoder.n_layers",
    "n_mels": "encoder.num_mel_bins",
}
_LEFT_OUT = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"}


def detect(path: Path) -> bool:
    """Return whether the file begins with GGUF's magic."""
    return first_bytes(path, 4) == MAGIC


def open(path: Path) -> Model:
    """Open a transcribe.cpp GGUF, or candle's; the tensors keep the file's order.

    Raises ``FormatError`` for a damaged file, another architecture, and missing, unknown or misshapen tensors.
    """
    file = SourceFile(path)
    try:
        container = read_container(file)
        if has_its_names(container.tensors):
            return open_container(file, container)
        _check_architecture(path, container.metadata)
        dims = _dimensions(path, container.metadata)
        tensors, filters = _tensors(file, container, dims)
        tokenizer = _tokenizer(path, container.metadata, dims)
    except BaseException:
        file.close()
        raise
    return Model(
        path=path,
        format="gguf",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=filters,
        tensors=tensors,
        files=(file,),
        metadata={"gguf": {key: _plain(value) for key, value in container.metadata.items() if key not in _LEFT_OUT}},
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value)
    return value


def _check_architecture(path: Path, metadata: Mapping[str, Any]) -> None:
    architecture = metadata.get("general.architecture")
    if architecture != "whisper":
        shown = "no architecture" if architecture is None else f"architecture {architecture!r}"
        raise FormatError(
            f"{path}: a GGUF of {shown}, expected 'whisper'", hint="name a Whisper model: whisq quantizes no others"
        )


def _dimensions(path: Path, metadata: Mapping[str, Any]) -> Dimensions:
    keys = {name: f"stt.whisper.{key}" for name, key in _SIZE_KEYS.items()}
    missing = [key for key in keys.values() if key not in metadata]
    if missing:
        raise FormatError(
            f"{path}: the metadata lack {', '.join(missing[:4])}{' …' if len(missing) > 4 else ''}",
            hint="convert the model that it was made from: other projects' GGUFs than transcribe.cpp's have other keys",
        )
    sizes, wrong = {}, []
    for name, key in keys.items():
        value = metadata[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST_SIZES[name]:
            wrong.append(f"{key} = {value!r}"[:100])
        else:
            sizes[name] = value
    if wrong:
        raise FormatError(f"{path}: impossible dimensions: {', '.join(wrong)}", hint=DAMAGED)
    return Dimensions(**sizes)


def _tensors(file: SourceFile, container: Container, dims: Dimensions) -> tuple[tuple[TensorRef, ...], bytes]:
    specs = {name_in_dialect(name, "transcribe.cpp"): spec for name, spec in expected_tensors(dims).items()}
    tensors: list[TensorRef] = []
    extents: list[tuple[StoredTensor, int]] = []
    filters = None
    for stored in container.tensors:
        if stored.name in (_FILTERS, _WINDOW):
            expected = (N_FFT_BINS, dims.n_mels) if stored.name == _FILTERS else (_WINDOW_LENGTH,)
            size = _frontend_bytes(file.path, stored, expected)
            filters = stored.offset if stored.name == _FILTERS else filters
            extents.append((stored, size))
            continue
        spec = specs.pop(stored.name, None)
        if spec is None:
            raise FormatError(
                f"{file.path}: unknown tensor {stored.name!r}",
                hint="convert the model again: the metadata are of other dimensions, or this is not a Whisper model",
            )
        _check_shape(file.path, stored, spec)
        kind = checked_type(file.path, stored.name, stored.type, spec)
        location = Location(0, stored.offset, spec.n_rows * kind.row_bytes(spec.n_columns))
        tensors.append(TensorRef(spec, stored.name, kind, location))
        extents.append((stored, location.size_bytes))
    if specs or filters is None:
        lacking = [*specs, *([_FILTERS] if filters is None else [])]
        raise FormatError(
            f"{file.path}: {len(lacking)} tensors are missing, the first is {lacking[0]}",
            hint=INCOMPLETE,
        )
    check_extents(file.path, extents, file.size_bytes)
    return tuple(tensors), bytes(file.view[filters : filters + 4 * N_FFT_BINS * dims.n_mels])


def _frontend_bytes(path: Path, stored: StoredTensor, expected: tuple[int, ...]) -> int:
    if stored.type != F32.ggml_type or stored.sizes != expected:
        raise FormatError(
            f"{path}: tensor {stored.name} is of ggml type {stored.type} and sizes {list(stored.sizes)}, expected f32"
            f" and {list(expected)}",
            hint=NOT_WHISPER,
        )
    return 4 * math.prod(expected)


def _check_shape(path: Path, stored: StoredTensor, spec: TensorSpec) -> None:
    expected = tuple(reversed(spec.shape))
    found = stored.sizes if len(expected) > 1 else tuple(size for size in stored.sizes if size != 1) or (1,)
    if found != expected:
        raise FormatError(
            f"{path}: tensor {stored.name} has sizes {list(stored.sizes)}, expected {list(expected)} for the metadata's"
            " dimensions",
            hint="convert the model again: metadata and tensors come from different models, or the file is damaged",
        )


def _tokenizer(path: Path, metadata: Mapping[str, Any], dims: Dimensions) -> Tokenizer:
    texts = _texts(path, metadata, "tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type", ())
    if not isinstance(types, tuple):
        raise FormatError(f"{path}: tokenizer.ggml.token_type is not an array", hint=DAMAGED)
    if not texts or len(texts) > dims.n_vocab:
        raise FormatError(
            f"{path}: tokenizer.ggml.tokens has {len(texts)} tokens, expected 1 to {dims.n_vocab}",
            hint="convert the model again, with its tokenizer",
        )
    if types and len(types) != len(texts):
        raise FormatError(
            f"{path}: tokenizer.ggml.token_type has {len(types)} entries for {len(texts)} tokens",
            hint=DAMAGED,
        )
    count = metadata.get(VOCABULARY_COUNT_KEY)
    if not isinstance(count, int) or not 0 <= count <= len(texts):
        count = next((number for number, kind in enumerate(types) if kind == CONTROL), len(texts))
        count += count < len(texts) and texts[count] == "<|endoftext|>"
    special = {
        text: number
        for number, text in enumerate(texts)
        if (number >= count or (types and types[number] == CONTROL)) and text != f"<|unused_{number}|>"
    }
    merges = _texts(path, metadata, "tokenizer.ggml.merges")
    return Tokenizer(tuple(bytes_of(text) for text in texts[:count]), merges, special)


def _texts(path: Path, metadata: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = metadata.get(key, ())
    if not isinstance(values, tuple) or (values and not isinstance(values[0], bytes)):
        raise FormatError(f"{path}: {key} is not an array of strings", hint=DAMAGED)
    texts = []
    for number, value in enumerate(values):
        try:
            texts.append(value.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{path}: element {number} of {key} is not UTF-8: {error.reason} at byte {error.start}",
                hint="download or convert it again: tokens are stored in GPT-2's printable spelling, which is UTF-8",
            ) from None
    return tuple(texts)


def layout(model: Model, outputs: Sequence[Output], provenance: dict[str, Any]) -> Layout:
    """Return where everything goes in a GGUF of these outputs: metadata, then filters and window, then tensors."""
    window = _hann_window()
    described = [
        Described(_FILTERS, (N_FFT_BINS, model.dims.n_mels), F32.ggml_type, len(model.mel_filters)),
        Described(_WINDOW, (_WINDOW_LENGTH,), F32.ggml_type, len(window)),
    ]
    for output in outputs:
        name = name_in_dialect(output.tensor.name, "transcribe.cpp")
        sizes = tuple(reversed(output.tensor.shape))
        described.append(Described(name, sizes, output.type.ggml_type, output.size_bytes))
    head, offsets, size_bytes = encode(metadata_of(model, outputs, provenance), described)
    pieces = ((0, head), (offsets[0], model.mel_filters), (offsets[1], window))
    return Layout(size_bytes, pieces, offsets[2:])


def _hann_window() -> bytes:
    """Return the periodic Hann window of Whisper's spectrum as little-endian f32."""
    values = [0.5 - 0.5 * math.cos(2 * math.pi * k / _WINDOW_LENGTH) for k in range(_WINDOW_LENGTH)]
    return struct.pack(f"<{_WINDOW_LENGTH}f", *values)
