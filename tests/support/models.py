"""Models of a few kilobytes, written by hand from the formats' descriptions: nothing here uses whisq's writers."""

import json
import struct
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from whisq.whisper import Dimensions, TensorSpec, expected_tensors

TINY = Dimensions(
    n_vocab=16, n_audio_ctx=6, n_audio_state=64, n_audio_head=1, n_audio_layer=3,
    n_text_ctx=5, n_text_state=64, n_text_head=1, n_text_layer=3, n_mels=4,
)  # fmt: skip
"""64-wide rows: blocks of 32 fit, K types do not (mlp.2's rows of 256 excepted)."""

WIDE = Dimensions(
    n_vocab=8, n_audio_ctx=4, n_audio_state=256, n_audio_head=4, n_audio_layer=1,
    n_text_ctx=4, n_text_state=256, n_text_head=4, n_text_layer=1, n_mels=2,
)  # fmt: skip
"""256-wide rows: every type fits."""


def weights_of(spec: TensorSpec, seed: int = 0) -> np.ndarray:
    """Normal weights that depend on the tensor's name only."""
    generator = np.random.default_rng([seed, *spec.name.encode()])
    return (generator.standard_normal(spec.shape) * 0.1).astype(np.float32)


def tensor_record(spec: TensorSpec, values: np.ndarray, kind: int | None = None) -> bytes:
    """One tensor as a .bin holds it; ``kind`` 0 is f32, 1 is f16."""
    if kind is None:
        kind = 1 if spec.is_matrix or spec.role == "conv" else 0
    sizes = [1, *spec.shape] if spec.role == "conv_bias" else list(reversed(spec.shape))
    name = spec.name.encode()
    head = struct.pack(f"<3i{len(sizes)}i", len(sizes), len(name), kind, *sizes) + name
    return head + values.astype("<f4" if kind == 0 else "<f2").tobytes()


def head_of(dims: Dimensions, ftype: int = 1, tokens: Iterable[bytes] = (b"a", b"", b"\xff\xfe")) -> bytes:
    """Everything of a .bin before its tensors."""
    words = list(tokens)
    filters = np.linspace(0, 1, dims.n_mels * 201, dtype="<f4").tobytes()
    return (
        struct.pack("<I11i", 0x67676D6C, *asdict(dims).values(), ftype)
        + struct.pack("<2i", dims.n_mels, 201)
        + filters
        + struct.pack("<i", len(words))
        + b"".join(struct.pack("<I", len(word)) + word for word in words)
    )


def model_bytes(dims: Dimensions = TINY, kind: int = 1, change: dict[str, np.ndarray] | None = None) -> bytes:
    """A whole .bin; ``kind`` 1 is the usual f16 file, 0 is f32 throughout; ``change`` replaces tensors' values."""
    records = []
    for spec in expected_tensors(dims).values():
        values = (change or {}).get(spec.name, weights_of(spec))
        records.append(tensor_record(spec, values, 0 if kind == 0 else None))
    return head_of(dims, kind) + b"".join(records)


def write_model(
    path: Path, dims: Dimensions = TINY, kind: int = 1, change: dict[str, np.ndarray] | None = None
) -> Path:
    """Write a whole .bin and return its path."""
    path.write_bytes(model_bytes(dims, kind, change))
    return path


def string(text: str) -> bytes:
    """A string as CTranslate2 stores it."""
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def variable(name: str, values: np.ndarray) -> bytes:
    """A variable as CTranslate2 stores it."""
    number = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "uint16": 5}[values.dtype.name]
    raw = values.tobytes()
    return (
        string(name)
        + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        + struct.pack("<BI", number, len(raw))
        + raw
    )


def ct2_variables(dims: Dimensions, cast=lambda name, values: values.astype(np.float16)) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 Whisper whose weights are ``weights_of`` the canonical tensors."""
    specs = expected_tensors(dims)

    def get(name: str) -> np.ndarray:
        return weights_of(specs[name])

    def zeros(name: str) -> np.ndarray:
        return np.zeros(specs[name].shape[0], np.float32)

    found: dict[str, np.ndarray] = {}

    def norm(theirs: str, ours: str) -> None:
        found[f"{theirs}/gamma"], found[f"{theirs}/beta"] = get(f"{ours}.weight"), get(f"{ours}.bias")

    def fused(theirs: str, *ours: str) -> None:
        found[f"{theirs}/weight"] = np.concatenate([get(f"{name}.weight") for name in ours])
        biases = [get(f"{n}.bias") if f"{n}.bias" in specs else zeros(f"{n}.weight") for n in ours]
        found[f"{theirs}/bias"] = np.concatenate(biases)

    for side, layers in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        found[f"{side}/position_encodings/encodings"] = get(f"{side}.positional_embedding")
        for layer in range(layers):
            theirs, ours = f"{side}/layer_{layer}", f"{side}.blocks.{layer}"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            fused(f"{theirs}/self_attention/linear_0", *[f"{ours}.attn.{part}" for part in ("query", "key", "value")])
            fused(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
            if side == "decoder":
                norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
                fused(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
                fused(f"{theirs}/attention/linear_1", f"{ours}.cross_attn.key", f"{ours}.cross_attn.value")
                fused(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
            fused(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
            fused(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
    for number in (1, 2):
        for part in ("weight", "bias"):
            found[f"encoder/conv{number}/{part}"] = get(f"encoder.conv{number}.{part}")
    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    found["decoder/embeddings/weight"] = get("decoder.token_embedding.weight")
    return {name: cast(name, values) for name, values in found.items()}


def ct2_bytes(variables: dict[str, np.ndarray], spec: str = "WhisperSpec", version: int = 6) -> bytes:
    """A CTranslate2 model.bin."""
    head = struct.pack("<I", version) + string(spec) + struct.pack("<2I", 3, len(variables))
    return head + b"".join(variable(name, values) for name, values in variables.items()) + struct.pack("<I", 0)


def write_ct2(folder: Path, dims: Dimensions = TINY, **arguments) -> Path:
    """Write a CTranslate2 folder and return it."""
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(ct2_bytes(ct2_variables(dims, **arguments)))
    (folder / "config.json").write_text("{}")
    vocabulary = {"a": 0, "\u0120b": 1, "<|endoftext|>": 2}
    tokenizer = {"model": {"vocab": vocabulary, "merges": ["a b"]}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
