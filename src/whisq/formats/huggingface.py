"""Hugging Face folders: ``config.json``, a tokenizer, and weights as safetensors or ``pytorch_model.bin``.

Source of the names: transformers, ``modeling_whisper.py`` and ``configuration_whisper.py``. Weights may be one file or
shards with an index; the output projection is the token embedding and must be equal to it where it is stored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats import safetensors, torch_zip
from whisq.formats.cursor import DOWNLOAD_AGAIN, first_bytes
from whisq.formats.mel import mel_filters
from whisq.formats.stored import StoredArray, check_layers, left_over, refs_of
from whisq.formats.tokenizer_json import read_json, read_text, read_tokenizer
from whisq.formats.vocabulary import check_rows, tokenizer_of
from whisq.model import Model, Tokenizer
from whisq.source_file import SourceFile
from whisq.whisper import LARGEST_SIZES, N_FFT_BINS, Dimensions, expected_tensors, name_in_dialect

_EMBEDDING, _PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"
_SIZE_KEYS = {
    "n_vocab": "vocab_size",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
    "n_mels": "num_mel_bins",
}
_COMPARED_BYTES = 1 << 22
_MOST_CARD_BYTES = 1 << 16


def detect(path: Path) -> bool:
    """Return whether this is a folder with ``config.json`` and weights under one of transformers' names."""
    names = (safetensors.SINGLE, safetensors.INDEX, torch_zip.SINGLE, torch_zip.INDEX, "adapter_config.json")
    return path.is_dir() and any((path / name).is_file() for name in names)


def open(path: Path) -> Model:
    """Open a folder that transformers can load as Whisper.

    Raises ``FormatError`` for another architecture, absent or damaged files, and missing or misshapen tensors.
    """
    config = _config(path)
    dims = _dimensions(path, config)
    files: list[SourceFile] = []
    try:
        arrays = _arrays(path, files)
        arrays = _with_full_names(arrays)
        extra = _tie(path, arrays, files)
        names = {name: name_in_dialect(name, "huggingface") for name in expected_tensors(dims)}
        tensors = refs_of(path, arrays, dims, names)
        ignored = left_over(arrays, tensors, extra)
        check_layers(path, ignored, dims)
        tokenizer = _tokenizer(path, dims)
    except BaseException:
        for file in files:
            file.close()
        raise
    warnings = (f"{path}: {len(ignored)} tensors are not Whisper's and are left out: {', '.join(ignored[:3])}",)
    metadata = {"config": config, "generation_config": _optional_json(path / "generation_config.json")}
    return Model(
        path=path,
        format="huggingface",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=_filters(path, dims.n_mels),
        tensors=tensors,
        files=tuple(files),
        metadata={**metadata, "hub": _card(path)},
        warnings=warnings if ignored else (),
    )


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    document = read_json(path)
    return document if isinstance(document, dict) else {}


def _config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file() and (path / "adapter_config.json").is_file():
        raise FormatError(
            f"{path}: is an adapter (LoRA), not a model",
            hint="merge it into its base model first: merge_and_unload()",
        )
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise FormatError(f"{path / 'config.json'}: is not a JSON object", hint=DOWNLOAD_AGAIN)
    kind = config.get("model_type")
    if kind != "whisper":
        raise FormatError(
            f"{path}: config.json says model_type {kind!r}, expected 'whisper'",
            hint="name a Whisper model: whisq quantizes no others",
        )
    unlike = [
        f"{key} is {config[key]!r}, expected {expected!r}"
        for key, expected in (
            ("activation_function", "gelu"),
            ("scale_embedding", False),
            ("tie_word_embeddings", True),
        )
        if config.get(key, expected) != expected
    ]
    for side, width in (("encoder_ffn_dim", "d_model"), ("decoder_ffn_dim", "d_model")):
        if isinstance(config.get(width), int) and config.get(side, 4 * config[width]) != 4 * config[width]:
            unlike.append(f"{side} is {config[side]!r}, expected 4 × d_model")
    if unlike:
        raise FormatError(
            f"{path}: no runtime has this kind of Whisper: {'; '.join(unlike)}",
            hint="take a model whose config.json has what is expected",
        )
    return config


def _dimensions(path: Path, config: Mapping[str, Any]) -> Dimensions:
    sizes: dict[str, int] = {}
    wrong: list[str] = []
    for name, key in _SIZE_KEYS.items():
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIZES[name]:
            sizes[name] = value
        elif f"{key} is" not in " ".join(wrong):
            wrong.append(f"{key} is {'missing' if value is None else repr(value)[:40]}")
    if wrong:
        raise FormatError(
            f"{path / 'config.json'}: {', '.join(wrong)}",
            hint="copy config.json from where the model came from",
        )
    return Dimensions(**sizes)


def _arrays(path: Path, files: list[SourceFile]) -> dict[str, StoredArray]:
    """Return all arrays by name, mapping each file into ``files``."""
    if (path / safetensors.INDEX).is_file() and not (path / safetensors.SINGLE).is_file():
        return _sharded(path, safetensors.INDEX, files)
    if (path / safetensors.SINGLE).is_file():
        files.append(SourceFile(path / safetensors.SINGLE))
        return safetensors.read_arrays(files[-1], 0)
    if (path / torch_zip.INDEX).is_file() and not (path / torch_zip.SINGLE).is_file():
        return _sharded(path, torch_zip.INDEX, files)
    if (path / torch_zip.SINGLE).is_file():
        files.append(SourceFile(path / torch_zip.SINGLE))
        return _torch_arrays(files[-1], 0)
    raise FormatError(f"{path}: has no {safetensors.SINGLE} and no {torch_zip.SINGLE}", hint="download the weights too")


def _sharded(path: Path, index: str, files: list[SourceFile]) -> dict[str, StoredArray]:
    shards, weight_map = safetensors.shards_of(path, index)
    read = safetensors.read_arrays if index == safetensors.INDEX else _torch_arrays
    arrays: dict[str, StoredArray] = {}
    for number, shard in enumerate(shards):
        files.append(SourceFile(shard))
        found = read(files[-1], number)
        twice = [name for name in found if name in arrays or weight_map.get(name, shard.name) != shard.name]
        if twice:
            raise FormatError(
                f"{shard}: holds {twice[0]}, which {index} places in {weight_map.get(twice[0], 'no other shard')}, or"
                " which another shard holds, too",
                hint="download index and shards again: they are of different versions",
            )
        absent = [name for name, home in weight_map.items() if home == shard.name and name not in found]
        if absent:
            raise FormatError(
                f"{shard}: lacks {len(absent)} tensors that {index} places there, the first is {absent[0]}",
                hint="download index and shards again: they are of different versions, or the shard is incomplete",
            )
        arrays.update(found)
    return arrays


def _torch_arrays(file: SourceFile, number: int) -> dict[str, StoredArray]:
    saved = torch_zip.read_checkpoint(file, number)
    arrays = {name: array for name, array in (saved or {}).items() if isinstance(array, StoredArray)}
    if not arrays:
        raise FormatError(
            f"{file.path}: holds no state dictionary", hint="write it with torch.save(model.state_dict(), path)"
        )
    return arrays


def _with_full_names(arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
    """Return the arrays under the names of the whole model, whichever of its classes was saved."""
    if any(name.startswith("model.") for name in arrays):
        return arrays
    return {name if name == _PROJECTION else f"model.{name}": array for name, array in arrays.items()}


def _tie(path: Path, arrays: dict[str, StoredArray], files: list[SourceFile]) -> list[str]:
    """Check that a stored output projection is the embedding; let it stand in where only it was stored."""
    projection, embedding = arrays.get(_PROJECTION), arrays.get(_EMBEDDING)
    if projection is None:
        return []
    if embedding is None:
        arrays[_EMBEDDING] = projection
    elif projection.type is not embedding.type or not _equal(projection, embedding, files):
        raise FormatError(
            f"{path}: {_PROJECTION} differs from {_EMBEDDING}, and no runtime keeps them apart",
            hint="give up the projection by tying the two: model.tie_weights(), then model.save_pretrained(folder)",
        )
    return [_PROJECTION]


def _equal(a: StoredArray, b: StoredArray, files: list[SourceFile]) -> bool:
    first, second = files[a.location.file], files[b.location.file]
    if a.location.size_bytes != b.location.size_bytes:
        return False
    for at in range(0, a.location.size_bytes, _COMPARED_BYTES):
        stop = min(at + _COMPARED_BYTES, a.location.size_bytes)
        mine = bytes(first.view[a.location.offset + at : a.location.offset + stop])
        if mine != bytes(second.view[b.location.offset + at : b.location.offset + stop]):
            return False
    return True


def _filters(path: Path, n_mels: int) -> bytes:
    """Return the filters that ``preprocessor_config.json`` states, else Whisper's own."""
    stated = _optional_json(path / "preprocessor_config.json").get("mel_filters")
    if stated is None:
        return mel_filters(n_mels)
    try:
        rows = [[float(value) for value in row] for row in stated]
        if len(rows) == N_FFT_BINS and {len(row) for row in rows} == {n_mels}:
            rows = [list(column) for column in zip(*rows, strict=True)]
        if len(rows) != n_mels or {len(row) for row in rows} != {N_FFT_BINS}:
            raise ValueError(f"they are {len(rows)} × {len(rows[0]) if rows else 0}")
        return b"".join(struct.pack(f"<{N_FFT_BINS}f", *row) for row in rows)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise FormatError(
            f"{path / 'preprocessor_config.json'}: mel_filters are not {n_mels} × {N_FFT_BINS} numbers: {error}",
            hint="take the file from the model that this one was trained from",
        ) from None


def _tokenizer(path: Path, dims: Dimensions) -> Tokenizer:
    if (path / "tokenizer.json").is_file():
        tokenizer = read_tokenizer(path / "tokenizer.json")
    elif (path / "vocab.json").is_file():
        tokenizer = _slow_tokenizer(path)
    else:
        raise FormatError(
            f"{path}: no tokenizer.json and no vocab.json",
            hint="copy the tokenizer from the model it was trained from",
        )
    check_rows(path, tokenizer, dims)
    return tokenizer


def _slow_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of ``vocab.json``, ``merges.txt`` and ``added_tokens.json``."""
    vocabulary = read_json(path / "vocab.json")
    added = _optional_json(path / "added_tokens.json")
    merges: list[str] = []
    if (path / "merges.txt").is_file():
        lines = read_text(path / "merges.txt").replace("\r\n", "\n").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    tokenizer = tokenizer_of(path / "vocab.json", vocabulary, added, merges)
    markers = {text: number for text, number in vocabulary.items() if text.startswith("<|") and text.endswith("|>")}
    return replace(tokenizer, special=markers | added)


def _card(path: Path) -> dict[str, Any]:
    """Return what a hub download or the model card says of the model's name and license."""
    card: dict[str, Any] = {}
    readme = path / "README.md"
    if readme.is_file():
        head = (first_bytes(readme, _MOST_CARD_BYTES) or b"").decode("utf-8", "replace").split("---", 2)
        found = (
            re.search(r"^license:\s*([\w.\-]+)\s*$", head[1], re.MULTILINE)
            if len(head) == 3 and not head[0].strip()
            else None
        )
        if found:
            card["license"] = found.group(1)
    return card
