"""Writers of the containers that whisq reads, by hand, so that a test can break any byte of them.

``write_*`` put a model in memory (``models``) on disk as each project does. No torch, no transformers, and none of
whisq's own writers but in ``copy_model``.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tests.support.models import NARROW, Hole, Weights, values_of
from whisq.formats import layout_of
from whisq.formats.byte_pairs import printable
from whisq.formats.layout import Output
from whisq.model import Model, Tokenizer
from whisq.whisper import Dimensions, TensorSpec, expected_tensors, name_in_dialect


def copy_model(model: Model, path: Path, container: str, provenance: dict[str, Any] | None = None) -> Path:
    """Write a model as it is, in another container."""
    outputs = [Output(tensor, tensor.type) for tensor in model.tensors]
    arranged = layout_of(container, model, outputs, provenance)  # type: ignore[arg-type]
    with path.open("wb") as stream:
        stream.truncate(arranged.size_bytes)
        for offset, piece in arranged.pieces:
            stream.seek(offset)
            stream.write(piece)
        for output, offset in zip(outputs, arranged.data_offsets, strict=True):
            stream.seek(offset)
            stream.write(model.rows(output.tensor))
    return path


def put(stream: BinaryIO, array: Any) -> None:
    """Write an array's bytes; of a ``Hole`` only the space."""
    if isinstance(array, Hole):
        stream.truncate(stream.seek(array.nbytes, io.SEEK_CUR))
    else:
        stream.write(np.ascontiguousarray(array).tobytes())


# --- whisper.cpp .bin

_BIN_FIELDS = (
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


def bin_head(
    dims: Dimensions,
    tokens: Sequence[bytes] = (b"a", b"", b"\xff\xfe"),
    filters: bytes | None = None,
    ftype: int = 1,
) -> bytes:
    """Return all of a ``.bin`` that comes before its tensors."""
    if filters is None:
        filters = np.linspace(0, 1, dims.n_mels * 201, dtype="<f4").tobytes()
    head = struct.pack("<I11i", 0x67676D6C, *(getattr(dims, name) for name in _BIN_FIELDS), ftype)
    head += struct.pack("<2i", dims.n_mels, 201) + filters
    return head + struct.pack("<i", len(tokens)) + b"".join(struct.pack("<I", len(t)) + t for t in tokens)


def _tensor_head(spec: TensorSpec, kind: int) -> bytes:
    sizes = (1, *spec.shape) if spec.role == "conv_bias" else tuple(reversed(spec.shape))
    return struct.pack(f"<3i{len(sizes)}i", len(sizes), len(spec.name), kind, *sizes) + spec.name.encode()


def tensor_record(spec: TensorSpec, values: np.ndarray, kind: int | None = None) -> bytes:
    """Return one tensor as a ``.bin`` holds it; ``kind`` 0 is f32, 1 is f16, None is what an f16 file has."""
    if kind is None:
        kind = 1 if spec.is_matrix or spec.role == "conv" else 0
    return _tensor_head(spec, kind) + values.astype("<f4" if kind == 0 else "<f2").tobytes()


def model_bytes(dims: Dimensions = NARROW, kind: int = 1, change: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Return a whole ``.bin`` whose tensors are ``values_of`` their names, but for those in ``change``.

    ``kind`` 1 is the usual f16 file, 0 is f32 throughout.
    """
    records = []
    for spec in expected_tensors(dims).values():
        values = (change or {}).get(spec.name, values_of(spec))
        records.append(tensor_record(spec, values, 0 if kind == 0 else None))
    return bin_head(dims, ftype=kind) + b"".join(records)


def write_model(
    path: Path, dims: Dimensions = NARROW, kind: int = 1, change: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Write what ``model_bytes`` returns, and return its path."""
    path.write_bytes(model_bytes(dims, kind, change))
    return path


def write_bin(path: Path, weights: Weights) -> Path:
    """Write whisper.cpp's file of any weights."""
    specs = expected_tensors(weights.dims)
    with path.open("wb") as stream:
        stream.write(bin_head(weights.dims, weights.tokenizer.tokens, weights.filters))
        for name, array in weights.arrays.items():
            stream.write(_tensor_head(specs[name], 1 if array.dtype == np.float16 else 0))
            put(stream, array)
    return path


# --- Hugging Face


def hf_config(dims: Dimensions) -> dict[str, Any]:
    """Return what transformers writes into ``config.json``, as far as a reader needs it."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "vocab_size": dims.n_vocab,
        "num_mel_bins": dims.n_mels,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "activation_function": "gelu",
        "scale_embedding": False,
    }


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a ``tokenizer.json`` as transformers writes it."""
    return {
        "model": {
            "type": "BPE",
            "vocab": {printable(token): number for number, token in enumerate(tokenizer.tokens)},
            "merges": [merge.split(" ") for merge in tokenizer.merges],
        },
        "added_tokens": [{"id": number, "content": text} for text, number in tokenizer.special.items()],
    }


def write_huggingface(folder: Path, weights: Weights, *, shards: int = 1, extra: Mapping[str, Any] = {}) -> Path:
    """Write a folder that transformers loads; ``extra`` are arrays beside Whisper's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(weights.dims)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(weights.tokenizer)))
    rows = np.frombuffer(weights.filters, np.float32).reshape(weights.dims.n_mels, 201)
    (folder / "preprocessor_config.json").write_text(json.dumps({"mel_filters": rows.tolist()}))
    arrays = {name_in_dialect(name, "huggingface"): array for name, array in weights.arrays.items()} | dict(extra)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", arrays)
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(arrays.items())[number::shards])
        write_safetensors(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def safetensors_header(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the header of a safetensors file; u16 arrays are bf16."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int8": "I8"}
    header, offset = {}, 0
    for name, array in arrays.items():
        span = [offset, offset + array.nbytes]
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": span}
        offset += array.nbytes
    return header


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], header: dict[str, Any] | None = None) -> Path:
    """Write a safetensors file, with another header than its own where a test wants one."""
    raw = json.dumps(header if header is not None else safetensors_header(arrays)).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for array in arrays.values():
            put(stream, array)
    return path


# --- torch

_STORAGE_NAMES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "uint16": "BFloat16Storage",
    "float64": "DoubleStorage",
}


def _memory(array: np.ndarray) -> np.ndarray:
    """Return the storage of a view, as torch saves it: all elements from its first to its last, in memory's order."""
    extent = 1 + sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)) // array.itemsize
    return np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))


class Pickle:
    """Emits the opcodes of protocol 2, as torch's pickler would for the values that a checkpoint has."""

    def __init__(self) -> None:
        self.storages: list[np.ndarray] = []

    def whole(self, value: Any) -> bytes:
        """Return a pickle of one value."""
        return b"\x80\x02" + self.value(value) + b"."

    def value(self, value: Any) -> bytes:
        """Return the opcodes of one value: dictionary, array, text, number."""
        if isinstance(value, dict):
            items = b"".join(self.value(key) + self.value(item) for key, item in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, np.ndarray | Hole):
            return self._array(value)
        if isinstance(value, bytes):
            return value  # opcodes of the test's own
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, tuple):
            return b"(" + b"".join(self.value(item) for item in value) + b"t"
        return b"J" + struct.pack("<i", value)

    def _array(self, array: np.ndarray) -> bytes:
        self.storages.append(array)
        key = self.value(str(len(self.storages) - 1))
        storage_class = f"ctorch\n{_STORAGE_NAMES[str(array.dtype)]}\n".encode()
        storage = (
            b"(" + self.value("storage") + storage_class + key + self.value("cpu") + self.value(array.size) + b"tQ"
        )
        strides = tuple(stride // array.itemsize for stride in array.strides)
        hooks = b"ccollections\nOrderedDict\n)R"
        inner = storage + self.value(0) + self.value(array.shape) + self.value(strides) + b"\x89" + hooks
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + inner + b"tR"


def write_torch(path: Path, value: Any, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write what ``torch.save`` would: a zip of a pickle and one storage an array."""
    pickle = Pickle()
    program = pickle.whole(value)
    if any(isinstance(array, Hole) for array in pickle.storages):
        return _write_stored_zip(path, {"archive/data.pkl": program}, pickle.storages)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(pickle.storages):
            archive.writestr(f"archive/data/{number}", _memory(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def _write_stored_zip(path: Path, entries: Mapping[str, bytes], storages: Sequence[Any]) -> Path:
    """Write a zip whose storages may be holes, which ``zipfile`` would write out."""
    listing = b""
    named = {**{f"archive/data/{n}": array for n, array in enumerate(storages)}, **entries}
    with path.open("wb") as stream:
        for name, data in named.items():
            size = len(data) if isinstance(data, bytes) else data.nbytes
            fields = struct.pack("<5H3I2H", 10, 0, 0, 0, 0, 0, size, size, len(name), 0)
            listing += b"PK\x01\x02\x0a\0" + fields + struct.pack("<3H2I", 0, 0, 0, 0, stream.tell()) + name.encode()
            stream.write(b"PK\x03\x04" + fields + name.encode())
            put(stream, np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data)
        start = stream.tell()
        count = len(named)
        stream.write(listing + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, len(listing), start, 0))
    return path


def write_openai(path: Path, weights: Weights) -> Path:
    """Write an OpenAI checkpoint, its tokenizer beside it."""
    (path.parent / "tokenizer.json").write_text(json.dumps(tokenizer_json(weights.tokenizer)))
    return write_torch(path, {"dims": asdict(weights.dims), "model_state_dict": dict(weights.arrays)})


# --- CTranslate2


def ctranslate2_string(value: str) -> bytes:
    """Return a string as CTranslate2 stores it."""
    raw = value.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


_CTRANSLATE2_TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "uint16": 5}


def _ctranslate2_variable_head(name: str, values: Any) -> bytes:
    shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return ctranslate2_string(name) + shape + struct.pack("<BI", _CTRANSLATE2_TYPES[values.dtype.name], values.nbytes)


def ctranslate2_variable(name: str, values: np.ndarray) -> bytes:
    """Return a variable as CTranslate2 stores it; u16 arrays are bf16."""
    return _ctranslate2_variable_head(name, values) + values.tobytes()


def ctranslate2_bytes(variables: Mapping[str, np.ndarray], spec: str = "WhisperSpec", version: int = 6) -> bytes:
    """Return a ``model.bin`` of any variables."""
    head = struct.pack("<I", version) + ctranslate2_string(spec) + struct.pack("<2I", 3, len(variables))
    records = (ctranslate2_variable(name, values) for name, values in variables.items())
    return head + b"".join(records) + struct.pack("<I", 0)


def write_ctranslate2(folder: Path, weights: Weights) -> Path:
    """Write a folder as faster-whisper has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(weights.tokenizer)))
    variables = ctranslate2_variables(weights)
    with (folder / "model.bin").open("wb") as stream:
        stream.write(ctranslate2_bytes({})[:-8] + struct.pack("<I", len(variables)))
        for name, array in variables.items():
            stream.write(_ctranslate2_variable_head(name, array))
            put(stream, array)
        stream.write(struct.pack("<I", 0))
    return folder


def ctranslate2_variables(weights: Weights) -> dict[str, np.ndarray]:
    """Return a model's weights under CTranslate2's names, fused as it fuses them."""
    return dict(_ctranslate2_variables(weights))


def _ctranslate2_variables(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    arrays = weights.arrays
    yield "encoder/position_encodings/encodings", arrays["encoder.positional_embedding"]
    yield "decoder/position_encodings/encodings", arrays["decoder.positional_embedding"]
    yield "decoder/embeddings/weight", arrays["decoder.token_embedding.weight"]
    for number in (1, 2):
        for part in ("weight", "bias"):
            yield f"encoder/conv{number}/{part}", arrays[f"encoder.conv{number}.{part}"]
    yield from _norm(arrays, "encoder.ln_post", "encoder/layer_norm")
    yield from _norm(arrays, "decoder.ln", "decoder/layer_norm")
    for side, heads, layers in (
        ("encoder", weights.dims.n_audio_head, weights.dims.n_audio_layer),
        ("decoder", weights.dims.n_text_head, weights.dims.n_text_layer),
    ):
        yield f"{side}/num_heads", np.array(heads, np.int16)
        for layer in range(layers):
            yield from _ctranslate2_block(arrays, side, f"{side}.blocks.{layer}", f"{side}/layer_{layer}")


def _norm(arrays: Mapping[str, np.ndarray], name: str, there: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{there}/gamma", arrays[f"{name}.weight"]
    yield f"{there}/beta", arrays[f"{name}.bias"]


def _ctranslate2_block(
    arrays: Mapping[str, np.ndarray], side: str, name: str, there: str
) -> Iterator[tuple[str, np.ndarray]]:
    def fused(attention: str, parts: tuple[str, ...], linear: str) -> Iterator[tuple[str, np.ndarray]]:
        matrices = [arrays[f"{name}.{attention}.{part}.weight"] for part in parts]
        zero = np.zeros_like(arrays[f"{name}.{attention}.out.bias"])
        biases = [arrays.get(f"{name}.{attention}.{part}.bias", zero) for part in parts]
        yield f"{there}/{linear}/weight", np.concatenate(matrices)
        yield f"{there}/{linear}/bias", np.concatenate(biases)

    yield from _norm(arrays, f"{name}.attn_ln", f"{there}/self_attention/layer_norm")
    yield from fused("attn", ("query", "key", "value"), "self_attention/linear_0")
    yield from fused("attn", ("out",), "self_attention/linear_1")
    if side == "decoder":
        yield from _norm(arrays, f"{name}.cross_attn_ln", f"{there}/attention/layer_norm")
        yield from fused("cross_attn", ("query",), "attention/linear_0")
        yield from fused("cross_attn", ("key", "value"), "attention/linear_1")
        yield from fused("cross_attn", ("out",), "attention/linear_2")
    yield from _norm(arrays, f"{name}.mlp_ln", f"{there}/ffn/layer_norm")
    for number, linear in ((0, 0), (2, 1)):
        for part in ("weight", "bias"):
            yield f"{there}/ffn/linear_{linear}/{part}", arrays[f"{name}.mlp.{number}.{part}"]


WRITERS: dict[str, Callable[[Path, Weights], Path]] = {
    "bin": lambda folder, weights: write_bin(folder / "model.bin", weights),
    "huggingface": lambda folder, weights: write_huggingface(folder / "hf", weights),
    "sharded": lambda folder, weights: write_huggingface(folder / "sharded", weights, shards=3),
    "openai": lambda folder, weights: write_openai(folder / "model.pt", weights),
    "ctranslate2": lambda folder, weights: write_ctranslate2(folder / "ct2", weights),
}
"""Every container that can be written without whisq's own writer, by the name a test gives it."""
