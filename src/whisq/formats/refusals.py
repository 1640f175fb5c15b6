"""Weights that whisq does not read although they are somebody's Whisper: what they are, and the way out.

Each kind is told by what only it has. Whoever adds one adds it to ``tests/formats/test_refusals.py`` too, whose list
the table in ``docs/formats.md`` is held to.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from whisq.errors import FormatError
from whisq.formats.cursor import first_bytes
from whisq.formats.state_names import Found
from whisq.formats.stored import StoredArray
from whisq.formats.weight_files import has_weights
from whisq.system import quoted

_ADAPTER = re.compile(
    r"(?:.*\.)?(?:lora_[A-Za-z_]+|lokr_\w+|loha_\w+|hada_\w+|ia3_l|oft_\w+|vera_\w+|base_layer|modules_to_save"
    r"|original_module|adapter_\w+|prompt_encoder)(?:\..*)?"
)
_QUANTIZED = re.compile(
    r"(?:.*\.)?(?:SCB|weight_format|qweight|qzeros|g_idx|weight_packed|weight_scale|weight_zero_point|weight_shape"
    r"|weight_scale_inv|_packed_params.*|scales|biases|weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map"
    r"|quant_state\..*|_data|_scale))"
)
_FLAT = re.compile(r"(?:.*\.)?_?flat_param(?:_\d+)?")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_SHARDED_FOLDERS = ("pytorch_model_fsdp_*", "*.distcp", "global_step*", "*_model_states.pt")
_AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".mp4"}
_UNREAD_FILES = (
    ("flax_model.msgpack", "Flax", "from_flax=True"),
    ("tf_model.h5", "TensorFlow", "from_tf=True"),
)
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
    "preprocessor_config.json",
)  # fmt: skip
_FROM_PT = "from transformers import WhisperForConditionalGeneration as W"


def _python(code: str) -> str:
    return f"python -c {quoted(code)}"


def _beside(folder: Path, ending: str) -> str:
    return str(folder.parent / f"{folder.resolve().name}-{ending}")


def _with_copies(command: str, folder: Path, output: str, names: Iterable[str]) -> str:
    """Return a command and, behind it, what copies the files that it does not write, as far as a folder has them."""
    found = [str(folder / name) for name in names if (folder / name).is_file()]
    return f"{command} && {shlex.join(['cp', *found, output])}" if found else command


def _gathering(path: Path) -> str:
    """Return the command that makes whole tensors of a sharded training's folder, both where it may be either's."""
    folder = path if path.is_dir() else path.parent
    whole = _beside(folder, "whole")
    parts = [folder] if any(folder.glob("*.distcp")) else sorted(folder.glob("pytorch_model_fsdp_*"))
    described = ("config.json", "generation_config.json", *_TOKENIZER_FILES)
    of_accelerate = shlex.join(["accelerate", "merge-weights", str((parts or [folder])[0]), whole])
    of_deepspeed = shlex.join(["python", str(folder / "zero_to_fp32.py"), str(folder), whole])
    if parts:
        return f"gather them: {_with_copies(of_accelerate, folder, whole, described)}"
    if (folder / "zero_to_fp32.py").is_file() or any(folder.glob("global_step*")):
        return f"gather them: {_with_copies(of_deepspeed, folder, whole, described)}"
    return f"gather them: DeepSpeed: {of_deepspeed}; FSDP: {of_accelerate}"


def is_adapter(path: Path) -> bool:
    """Return whether this is a folder with an adapter and no model, or the file of an adapter."""
    if not path.is_dir():
        return path.name in _ADAPTER_FILES
    return any((path / name).is_file() for name in _ADAPTER_FILES) and not has_weights(path)


def refuse_adapter(path: Path, config: Mapping[str, Any]) -> NoReturn:
    """Raise ``FormatError`` for a folder or file that is an adapter alone, with the command that merges it."""
    folder = path if path.is_dir() else path.parent
    base = config.get("base_model_name_or_path")
    base = base if isinstance(base, str) and base else "openai/whisper-small"
    merged = _beside(folder, "merged")
    raise FormatError(
        f"{path}: is an adapter (LoRA), not a model",
        hint="merge it into its base model: "
        + _python(
            f"from peft import PeftModel; from transformers import WhisperForConditionalGeneration as W,"
            f" WhisperTokenizerFast as T; PeftModel.from_pretrained(W.from_pretrained({base!r}), {str(folder)!r})"
            f".merge_and_unload().save_pretrained({merged!r}); T.from_pretrained({base!r}).save_pretrained({merged!r})"
        ),
    )


def refuse_unread(path: Path, found: Found, arrays: Mapping[str, StoredArray], config: Mapping[str, Any]) -> None:
    """Raise ``FormatError`` for arrays that are a Whisper's in a form that is not read."""
    adapters = [name for name in arrays if _ADAPTER.fullmatch(name)]
    if adapters:
        raise FormatError(
            f"{path}: an adapter was not merged into the weights: {len(adapters)} tensors of it, such as {adapters[0]}",
            hint="load it with peft as it was trained, then: model.merge_and_unload().save_pretrained(folder)",
        )
    _refuse_stubs(path, arrays)
    _refuse_quantized(path, found, arrays, config)
    _refuse_mlx(path, found, arrays, config)
    if found.arrays and not any(name.startswith("decoder.") for name in found.arrays):
        kind = config.get("architectures")
        kind = kind[0] if isinstance(kind, list) and kind else "an encoder"
        raise FormatError(
            f"{path}: has an encoder and no decoder ({kind}): it classifies or embeds audio and transcribes nothing",
            hint="name a model that transcribes: WhisperForConditionalGeneration",
        )


def _refuse_stubs(path: Path, arrays: Mapping[str, StoredArray]) -> None:
    stubs = [name for name, array in arrays.items() if 0 in array.shape or _FLAT.fullmatch(name)]
    if stubs:
        raise FormatError(
            f"{path}: holds {len(stubs)} stubs of sharded training in place of tensors, the first is {stubs[0]}: the"
            " weights are in the shards of the optimizer",
            hint=_gathering(path),
        )


def _refuse_quantized(path: Path, found: Found, arrays: Mapping[str, StoredArray], config: Mapping[str, Any]) -> None:
    stated = config.get("quantization_config")
    method = stated.get("quant_method") if isinstance(stated, Mapping) else None
    # Counters and masks beside the weights are integers in every state dictionary.
    weights = [a for a in found.arrays.values() if len(a.shape) > 1]
    integers = [a.name for a in weights if re.fullmatch(r"u?i\d+|f8_\w+|f4\w*", a.element)]
    traces = [name for name in arrays if _QUANTIZED.fullmatch(name)]
    if not traces and not integers:
        return
    shown = [*(name for name in integers), *traces][0]
    by = f" by {method}" if isinstance(method, str) else ""
    original = config.get("_name_or_path")
    known = isinstance(original, str) and original and original != str(path)
    hint = "name the model that it was made from" + (f": {original}" if known else ", in f16, bf16 or f32")
    if method == "bitsandbytes" or any(name.endswith((".SCB", ".absmax")) for name in traces):
        folder = path if path.is_dir() else path.parent
        undone = _beside(folder, "f16")
        code = f"{_FROM_PT}; W.from_pretrained({str(folder)!r}).dequantize().save_pretrained({undone!r})"
        hint = "name the model that it was made from, or undo it: "
        hint += _with_copies(_python(code), folder, undone, _TOKENIZER_FILES)
    raise FormatError(
        f"{path}: the weights are quantized already{by}: {shown} is"
        f" {arrays[shown].element}, and whisq starts from f16, bf16, f32 or f64",
        hint=hint,
    )


def _refuse_mlx(path: Path, found: Found, arrays: Mapping[str, StoredArray], config: Mapping[str, Any]) -> None:
    conv = found.arrays.get("encoder.conv1.weight")
    turned = conv is not None and len(conv.shape) == 3 and conv.shape[1] == 3 != conv.shape[2]
    if turned or "n_audio_state" in config or any(name.endswith((".mlp1.weight", ".mlp2.weight")) for name in arrays):
        raise FormatError(
            f"{path}: is a model for MLX, which turns the conv kernels and names tensors its own way",
            hint="name the model that it was made from, as openai/whisper-small",
        )


def refuse_folder(folder: Path) -> None:
    """Raise ``FormatError`` for a folder without weights that are read, where it can be told what it is."""
    checkpoints = _checkpoints(folder)
    if checkpoints:
        raise FormatError(
            f"{folder}: holds no weights but {len(checkpoints)} checkpoints of a training,"
            f" {checkpoints[0].name} to {checkpoints[-1].name}",
            hint=f"name one; the newest is {checkpoints[-1]}",
        )
    for name, framework, argument in _UNREAD_FILES:
        if (folder / name).is_file():
            raise FormatError(
                f"{folder}: has weights of {framework} only, {name}",
                hint='with pip install "transformers<5" and the framework: '
                + _python(
                    f"{_FROM_PT}; W.from_pretrained({str(folder)!r}, {argument}).save_pretrained({str(folder)!r})"
                ),
            )
    if any(folder.glob("*.onnx")) or any(folder.glob("onnx/*.onnx")):
        raise FormatError(
            f"{folder}: has weights of ONNX only, in which the tensors have lost their names",
            hint="name the model that was exported, as openai/whisper-small",
        )
    if any(folder.glob("weights.npz")) or any(folder.glob("*.npz")):
        raise FormatError(
            f"{folder}: is a model for MLX (weights.npz)",
            hint="name the model that it was made from, as openai/whisper-small",
        )
    if (folder / "hyperparams.yaml").is_file() or any(folder.glob("CKPT+*")):
        weights = sorted(
            [*folder.glob("*whisper*.ckpt"), *folder.glob("CKPT+*/*whisper*.ckpt"), *folder.glob("*.ckpt")]
        )
        raise FormatError(
            f"{folder}: is SpeechBrain's, without transformers' config.json",
            hint=f"name its weights: {weights[-1] if weights else folder / 'whisper.ckpt'}",
        )
    if any(path for pattern in _SHARDED_FOLDERS for path in folder.glob(pattern)):
        raise FormatError(
            f"{folder}: holds shards of a training, not whole tensors",
            hint=_gathering(folder),
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders of a training's steps, the newest last."""
    found = [entry for entry in folder.glob("checkpoint-*") if entry.is_dir() and entry.name[11:].isdecimal()]
    return sorted(found, key=lambda entry: int(entry.name[11:]))


_FILES: tuple[tuple[Iterable[str], str, str], ...] = (
    (_AUDIO, "audio", "whisq quantizes models; to transcribe with one: whisq evaluate MODEL --data {path}"),
    ((".msgpack",), "weights of Flax", "name the folder that it lies in: {folder}"),
    ((".h5",), "weights of TensorFlow", "name the folder that it lies in: {folder}"),
    ((".onnx",), "a graph of ONNX", "name the model that was exported, as openai/whisper-small"),
    ((".tflite",), "a graph of TensorFlow Lite", "name the model that was exported, as openai/whisper-small"),
    ((".npz",), "weights for MLX", "name the model that they were made from, as openai/whisper-small"),
    ((".mlmodelc", ".mlpackage"), "Core ML", "name the .bin beside it: Core ML holds the encoder only"),
    ((".nemo",), "NeMo's", "name a Whisper model: whisq quantizes no others"),
)
_AUDIO_STARTS = (b"RIFF", b"fLaC", b"ID3", b"OggS", b"\xff\xfb", b"\xff\xf3", b"FORM", b"caff")


def refuse_file(path: Path) -> None:
    """Raise ``FormatError`` for a file of a kind that is known and not read."""
    suffix, start = path.suffix.lower(), first_bytes(path, 8) or b""
    if start.startswith(_AUDIO_STARTS) or start[4:8] == b"ftyp":
        suffix = ".wav"
    if suffix == ".distcp":
        raise FormatError(f"{path}: is a shard of a training, not whole tensors", hint=_gathering(path))
    for suffixes, what, hint in _FILES:
        if suffix in suffixes:
            way = hint.format(path=path, folder=path.parent)
            raise FormatError(f"{path}: is {what}, not a model that whisq reads", hint=way)
