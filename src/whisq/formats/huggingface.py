"""Hugging Face folders: ``config.json``, a tokenizer, and weights as safetensors or ``pytorch_model.bin``.

Source of the names: transformers, ``modeling_whisper.py`` and ``configuration_whisper.py``. Weights may be one file or
shards with an index, of a variant, and named behind a wrapper's prefix.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats import torch_zip
from whisq.formats.agreement import check_agreement
from whisq.formats.cursor import DOWNLOAD_AGAIN, first_bytes
from whisq.formats.mel import mel_filters
from whisq.formats.refusals import is_adapter, refuse_adapter, refuse_unread
from whisq.formats.state_names import dimensions_of, find_whisper
from whisq.formats.stored import check_layers, left_out, refs_of
from whisq.formats.tied import check_tied
from whisq.formats.tokenizer_json import read_json, read_text, read_tokenizer
from whisq.formats.vocabulary import check_rows, tokenizer_of
from whisq.formats.weight_files import WeightFiles, has_weights, read_weights, weights_in, weights_named
from whisq.model import Model, Tokenizer
from whisq.source_file import SourceFile
from whisq.whisper import LARGEST_SIZES, N_FFT_BINS, Dimensions

SIZE_KEYS = {
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
_MOST_CARD_BYTES = 1 << 16


def detect(path: Path) -> bool:
    """Return whether this is a folder with weights under one of transformers' names, or one of the files in it."""
    if path.is_dir():
        return has_weights(path) or is_adapter(path)
    start = first_bytes(path, 4)
    if start is None:
        return False
    of_torch = path.name.startswith("pytorch_model") and start == torch_zip.MAGIC
    return path.suffix == ".safetensors" or is_adapter(path) or (of_torch and (path.parent / "config.json").is_file())


def open(path: Path) -> Model:
    """Open a folder that transformers can load as Whisper, or a file with weights in it.

    Without ``config.json`` the shapes tell the sizes. Raises ``FormatError`` for another architecture,
    absent or damaged files, weights in a form that is not read, and missing or misshapen tensors.
    """
    folder = path if path.is_dir() else path.parent
    if is_adapter(path):
        refuse_adapter(path, _optional_json(folder / "adapter_config.json"))
    weights = (weights_in(folder) or WeightFiles(folder)) if path.is_dir() else weights_named(path)
    config = _config(folder) if (folder / "config.json").is_file() else {}
    files: list[SourceFile] = []
    try:
        read = read_weights(weights, files)
        found = find_whisper(path, read.arrays)
        refuse_unread(path, found, read.arrays, config)
        dims = stated_dimensions(folder / "config.json", config) if config else dimensions_of(path, found)
        tensors = refs_of(path, found.arrays, dims, found.source_name, files)
        check_tied(path, found, files)
        ignored = found.left_over(dims)
        check_layers(path, ignored, dims)
        tokenizer, tokenizer_note = _tokenizer(folder, dims)
        generation = _optional_json(folder / "generation_config.json")
        check_agreement(path, tokenizer, dims, {"config.json": config, "generation_config.json": generation})
    except BaseException:
        for file in files:
            file.close()
        raise
    metadata = {"config": config, "generation_config": generation}
    return Model(
        path=path,
        format="huggingface",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=_filters(folder, dims.n_mels),
        tensors=tensors,
        files=tuple(files),
        metadata={**metadata, "hub": _card(folder)},
        warnings=(*read.warnings, *left_out(path, ignored)),
        notes=tuple(
            note
            for note in (weights.note, *found.notes(path), *read.notes, _sizes_note(path, config), tokenizer_note)
            if note
        ),
    )


def _sizes_note(path: Path, config: Mapping[str, Any]) -> str:
    return "" if config else f"{path}: has no config.json; the sizes are taken from the shapes, with heads of 64"


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    document = read_json(path)
    return document if isinstance(document, dict) else {}


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise FormatError(f"{path / 'config.json'}: is not a JSON object", hint=DOWNLOAD_AGAIN)
    kind = config.get("model_type")
    if kind != "whisper" and "n_audio_state" not in config:
        raise FormatError(
            f"{path}: config.json says model_type {kind!r}, expected 'whisper'",
            hint="name a Whisper model: whisq quantizes no others",
        )
    unlike = [
        f"{key} is {config[key]!r}, expected {expected!r}"
        for key, expected in (
            ("activation_function", "gelu"),
            ("scale_embedding", False),
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


def stated_dimensions(path: Path, config: Mapping[str, Any]) -> Dimensions:
    """Return the sizes in a ``config.json``; raises ``FormatError`` for those that cannot be."""
    sizes: dict[str, int] = {}
    wrong: list[str] = []
    for name, key in SIZE_KEYS.items():
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIZES[name]:
            sizes[name] = value
        elif f"{key} is" not in " ".join(wrong):
            wrong.append(f"{key} is {'missing' if value is None else repr(value)[:40]}")
    if wrong:
        raise FormatError(
            f"{path}: {', '.join(wrong)}",
            hint="copy config.json from where the model came from",
        )
    return Dimensions(**sizes)


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


def _tokenizer(path: Path, dims: Dimensions) -> tuple[Tokenizer, str]:
    """Return a folder's tokenizer; its parent's, and what to say of that, where a training keeps it there."""
    note = ""
    if not _has_tokenizer(path):
        if not _has_tokenizer(path.absolute().parent):
            raise FormatError(
                f"{path}: no tokenizer.json and no vocab.json",
                hint="copy the tokenizer from the model it was trained from",
            )
        path, note = path.absolute().parent, f"{path}: has no tokenizer; that of {path.absolute().parent} is taken"
    is_fast = (path / "tokenizer.json").is_file()
    tokenizer = read_tokenizer(path / "tokenizer.json") if is_fast else _slow_tokenizer(path)
    check_rows(path, tokenizer, dims)
    return tokenizer, note


def _has_tokenizer(path: Path) -> bool:
    return (path / "tokenizer.json").is_file() or (path / "vocab.json").is_file()


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
