"""Weights that are not read: each kind is named, and the hint is the way out of that kind.

The table in docs/formats.md is made of ``KINDS`` and ``WAYS``.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.formats.test_state_names import DIMS, WEIGHTS, described, folder_of, named
from tests.support.containers import write_safetensors, write_torch
from tests.support.doc_tables import table, table_in
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.formats.gguf_container import Described, Value, encode

QUERY = "model.encoder.layers.0.self_attn.q_proj.weight"
MISLEADING = ("incomplete", "not Whisper's", "damaged", "left out")


@dataclass(frozen=True)
class Kind:
    """What is written, under the name that the docs have for it, and what has to be said."""

    name: str
    write: Callable[[Path], Path]
    said: str
    hint: str


def adapter(path: Path) -> Path:
    path.mkdir()
    write_safetensors(path / "adapter_model.safetensors", {"base_model.model.x.lora_A.weight": np.zeros((4, 4), "f4")})
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "openai/whisper-base"}))
    return path


def lora(words: tuple[str, ...]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        beside = {QUERY.replace("weight", word): np.zeros((4, 64), np.float32) for word in words}
        return folder_of(path, named() | beside)

    return write


def wrapped_by_peft(path: Path) -> Path:
    arrays = {f"base_model.model.{name}".replace("q_proj.", "q_proj.base_layer."): a for name, a in named().items()}
    query = f"base_model.model.{QUERY}".replace("weight", "lora_A.default.weight")
    return folder_of(path, arrays | {query: np.zeros((4, 64), np.float32)})


def quantized(method: str, arrays: dict[str, np.ndarray], *, drop: bool = False) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        kept = {name: array for name, array in named().items() if not drop or name != QUERY}
        folder = folder_of(path, kept | {QUERY.removesuffix("weight") + name: a for name, a in arrays.items()})
        return configured(folder, quantization_config={"quant_method": method}, _name_or_path="me/whisper-mine")

    return write


def configured(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def fp8(path: Path) -> Path:
    folder = quantized("fp8", {"weight_scale": np.ones(1, np.float32)})(path)
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = {name: array for name, array in named().items() if name != QUERY}
    arrays |= {QUERY: np.zeros((64, 64), np.int8), QUERY.replace("weight", "weight_scale"): np.ones(1, np.float32)}
    header = write_header(arrays)
    header[QUERY]["dtype"] = "F8_E4M3"
    write_safetensors(folder / "model.safetensors", arrays, header)
    return folder


def write_header(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    from tests.support.containers import safetensors_header

    return safetensors_header(arrays)


def stubs(path: Path) -> Path:
    empty = {name: array if "embed_pos" in name else np.zeros(0, array.dtype) for name, array in named().items()}
    return folder_of(path, empty)


def empty_file(name: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        described(path)
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"\x01\x02\x03\x04")
        return path

    return write


def parent_of_checkpoints(path: Path) -> Path:
    for step in (500, 1000, 90):
        folder_of(path / f"checkpoint-{step}", named())
    return path


def mlx(path: Path) -> Path:
    arrays = {name.replace("mlp.0", "mlp1").replace("mlp.2", "mlp2"): a for name, a in WEIGHTS.arrays.items()}
    arrays |= {
        f"encoder.conv{n}.weight": np.ascontiguousarray(arrays[f"encoder.conv{n}.weight"].swapaxes(1, 2))
        for n in (1, 2)
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "whisper", "n_audio_state": 64, "n_vocab": 300}))
    write_safetensors(path / "model.safetensors", arrays)
    return path


def candle(path: Path) -> Path:
    head, _, size = encode(
        {"general.name": Value("string", "whisper")},
        [Described("model.decoder.embed_tokens.weight", (64, 300), 0, 4 * 64 * 300)],
    )
    path = path.with_suffix(".gguf")
    path.write_bytes(head + bytes(size - len(head)))
    return path


def classifier(path: Path) -> Path:
    arrays = {name.removeprefix("model."): a for name, a in named().items() if ".encoder." in name}
    folder = folder_of(path, arrays | {"classifier.weight": np.zeros((2, 64), np.float32)})
    return configured(folder, architectures=["WhisperForAudioClassification"])


def speechbrain(path: Path) -> Path:
    path.mkdir()
    (path / "hyperparams.yaml").write_text("whisper: x\n")
    write_torch(path / "whisper.ckpt", named())
    return path


def a_file(name: str, start: bytes, *, padded: bool = True) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.mkdir()
        (path / name).write_bytes(start + bytes(64 if padded else 0))
        return path / name

    return write


def pointer_in_a_folder(path: Path) -> Path:
    """What git clone leaves without Git LFS."""
    (described(path) / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return path


def whole_model(path: Path) -> Path:
    return write_torch(path.with_suffix(".pt"), {"model": pickle.dumps(argparse.Namespace(a=1), 2)[2:-1]})


def of_a_class_of_its_own(path: Path) -> Path:
    call = b"ctorch._utils\n_rebuild_wrapper_subclass\n(ctorchao.dtypes\nAffine\ntR"
    return write_torch(path.with_suffix(".pt"), named() | {QUERY: call})


INT8, INT32, ONES = np.zeros((64, 64), np.int8), np.zeros((64, 8), np.float32), np.ones(64, np.float32)

KINDS = [
    Kind("an adapter's folder, or its file", adapter, "is an adapter (LoRA), not a model", "merge_and_unload()"),
    Kind(
        "weights with an adapter beside them",
        lora(("lora_A.default.weight", "lora_B.default.weight")),
        "an adapter was not merged into the weights: 2 tensors of it",
        "model.merge_and_unload().save_pretrained(folder)",
    ),
    Kind(
        "weights with an adapter beside them",
        lora(("lora_A", "lora_B")),
        "an adapter was not merged",
        "merge_and_unload",
    ),
    Kind(
        "weights with an adapter beside them",
        lora(("lora_magnitude_vector.default.weight",)),
        "an adapter was not merged",
        "merge_and_unload",
    ),
    Kind("weights with an adapter beside them", wrapped_by_peft, "an adapter was not merged", "merge_and_unload"),
    Kind(
        "bitsandbytes, 8 and 4 bits",
        quantized("bitsandbytes", {"weight": INT8, "SCB": ONES}),
        "quantized already by bitsandbytes",
        ".dequantize().save_pretrained(",
    ),
    Kind(
        "bitsandbytes, 8 and 4 bits",
        quantized("bitsandbytes", {"weight.absmax": ONES, "weight.quant_map": ONES}),
        "quantized already by bitsandbytes",
        ".dequantize()",
    ),
    Kind(
        "GPTQ, AWQ",
        quantized("gptq", {"qweight": INT8, "qzeros": INT8, "scales": ONES}, drop=True),
        "quantized already by gptq",
        "name the model that it was made from: me/whisper-mine",
    ),
    Kind(
        "compressed-tensors",
        quantized("compressed-tensors", {"weight_packed": INT8, "weight_scale": ONES}, drop=True),
        "quantized already by compressed-tensors",
        "name the model that it was made from: me/whisper-mine",
    ),
    Kind("fp8", fp8, "q_proj.weight is f8_e4m3", "name the model that it was made from"),
    Kind(
        "stubs of size 0 that sharded training leaves (DeepSpeed ZeRO, FSDP)",
        stubs,
        "stubs of sharded training in place of tensors",
        "DeepSpeed: python ",
    ),
    Kind(
        "shards of a training (`.distcp`)",
        empty_file("pytorch_model_fsdp_0/__0_0.distcp"),
        "holds shards of a training",
        "accelerate merge-weights",
    ),
    Kind(
        "the parent of `checkpoint-N`",
        parent_of_checkpoints,
        "3 checkpoints of a training, checkpoint-90 to checkpoint-1000",
        "the newest is",
    ),
    Kind("MLX", mlx, "is a model for MLX", "name the model that it was made from"),
    Kind("MLX", empty_file("weights.npz"), "is a model for MLX", "name the model that it was made from"),
    Kind("candle's GGUF without the two files beside it", candle, "is candle's GGUF", "or name that model"),
    Kind("Flax", empty_file("flax_model.msgpack"), "has weights of Flax only", "from_flax=True"),
    Kind("TensorFlow", empty_file("tf_model.h5"), "has weights of TensorFlow only", "from_tf=True"),
    Kind("ONNX", empty_file("onnx/encoder_model.onnx"), "has weights of ONNX only", "name the model that was exported"),
    Kind(
        "an encoder alone, a classifier",
        classifier,
        "has an encoder and no decoder (WhisperForAudioClassification)",
        "WhisperForConditionalGeneration",
    ),
    Kind("a SpeechBrain folder", speechbrain, "is SpeechBrain's, without transformers' config.json", "whisper.ckpt"),
    Kind(
        "a whole model that was pickled",
        whole_model,
        "holds objects of argparse.Namespace and no state dictionary: a whole model was saved",
        "weights_only=False)[",
    ),
    Kind(
        "a pickle of torch before 1.6",
        a_file("old.pt", b"\x80\x02\x8a\nl"),
        "a bare pickle, as torch before 1.6",
        "-again.pt",
    ),
    Kind(
        "tensors that are not plain ones (torchao, DTensor)",
        of_a_class_of_its_own,
        "is no plain tensor but torchao.dtypes.Affine: it was quantized, or is spread over devices",
        "save whole tensors",
    ),
    Kind(
        "a page or a pointer instead of the file",
        a_file(
            "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", padded=False
        ),
        "is a pointer of Git LFS, not the file itself",
        " lfs pull",
    ),
    Kind(
        "a page or a pointer instead of the file",
        pointer_in_a_folder,
        "is a pointer of Git LFS, not the file itself",
        " lfs pull",
    ),
    Kind(
        "a page or a pointer instead of the file",
        a_file("ggml-tiny.bin", b"\n<!DOCTYPE html>\n<html>", padded=False),
        "is a web page, not a model",
        "/resolve/main/",
    ),
    Kind("audio", a_file("speech.wav", b"RIFF\0\0\0\0WAVE"), "is audio, not a model", "whisq evaluate MODEL --data"),
    Kind("audio", a_file("speech.bin", b"fLaC"), "is audio, not a model", "whisq evaluate MODEL --data"),
    Kind("a text", a_file("notes.txt", b"WEBVTT\n"), "not a model that whisq knows", "name one of what whisq reads"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_named_with_its_way_out(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(FormatError) as caught:
        open_model(kind.write(tmp_path / "given"))
    assert kind.said in str(caught.value)
    assert kind.hint in str(caught.value.hint)
    for word in MISLEADING:
        assert word not in f"{caught.value} {caught.value.hint}"


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        open_model(parent_of_checkpoints(tmp_path / "run"))
    assert str(caught.value.hint).endswith(str(tmp_path / "run/checkpoint-1000"))
    with open_model(tmp_path / "run/checkpoint-1000") as model:
        assert model.dims == DIMS


def test_the_hint_for_a_speechbrain_folder_works(tmp_path: Path) -> None:
    folder = speechbrain(tmp_path / "sb")
    described(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    with open_model(str(caught.value.hint).removeprefix("name its weights: ")) as model:
        assert model.dims == DIMS


def test_the_adapters_file_is_refused_like_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is an adapter"):
        open_model(adapter(tmp_path / "lora") / "adapter_model.safetensors")


def test_integers_beside_the_weights_are_no_sign_of_quantizing(tmp_path: Path) -> None:
    counter = {"model.decoder.embed_positions.position_ids": np.zeros((1, 5), np.int8)}
    with open_model(folder_of(tmp_path, named() | counter)) as model:
        assert "1 tensors are not Whisper's and are left out" in model.warnings[0]


def test_missing_and_misshapen_have_hints_of_their_own(tmp_path: Path) -> None:
    lacking = {name: array for name, array in named().items() if name != QUERY}
    with pytest.raises(FormatError) as caught:
        open_model(folder_of(tmp_path / "a", lacking))
    assert "it is incomplete" in str(caught.value.hint)
    with pytest.raises(FormatError) as caught:
        open_model(configured(folder_of(tmp_path / "b", named()), max_target_positions=9))
    assert "take config.json and weights from the same model" in str(caught.value.hint)


WAYS = {
    "an adapter's folder, or its file": "merge it into its base model; the hint is the command",
    "weights with an adapter beside them": (
        "load them with peft, then `model.merge_and_unload().save_pretrained(folder)`"
    ),
    "bitsandbytes, 8 and 4 bits": "name the original, or undo it; the hint is the command",
    "GPTQ, AWQ": "name the model that it was made from",
    "compressed-tensors": "name the model that it was made from",
    "fp8": "name the model that it was made from",
    "tensors that are not plain ones (torchao, DTensor)": (
        "name the model that it was made from, or save whole tensors with `torch.save`"
    ),
    "stubs of size 0 that sharded training leaves (DeepSpeed ZeRO, FSDP)": (
        "`python FOLDER/zero_to_fp32.py FOLDER OUTPUT`, or `accelerate merge-weights FOLDER OUTPUT`"
    ),
    "shards of a training (`.distcp`)": "the same",
    "a whole model that was pickled": "save its `state_dict()`; the hint is the command",
    "a pickle of torch before 1.6": "save it again; the hint is the command",
    "the parent of `checkpoint-N`": "name one of them; the hint names the newest",
    "MLX": "name the model that it was made from",
    "candle's GGUF without the two files beside it": "copy them, or name the model that it was made from",
    "Flax": "`from_flax=True` in transformers 4, then `save_pretrained`; the hint is the command",
    "TensorFlow": "`from_tf=True` in transformers 4, then `save_pretrained`; the hint is the command",
    "ONNX": "name the model that was exported",
    "an encoder alone, a classifier": "name a model that transcribes",
    "a SpeechBrain folder": "name its `.ckpt`",
    "a page or a pointer instead of the file": "download the file itself; the hint is the command",
    "audio": "to measure on it: `whisq evaluate MODEL --data FILE`",
    "a text": "name a model",
}
"""What the documentation says to do, by the kind's name."""


def test_the_docs_list_what_is_refused() -> None:
    assert set(WAYS) == {kind.name for kind in KINDS}
    header = ("not read", "what to do")
    assert table_in("formats.md", header) == table(header, WAYS.items())
