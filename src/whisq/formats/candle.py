"""candle's GGUF: transformers' tensor names; sizes and tokens are in ``config.json`` and ``tokenizer.json`` beside it.

Sources: candle-transformers' ``models/whisper/quantized_model.rs`` and ``mod.rs`` (``Config``), candle-core's
``quantized/gguf_file.rs``. It reads no metadata; filters and the encoder's positions are its own, as Whisper's are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats.agreement import check_agreement
from whisq.formats.byte_pairs import merges_of, printable
from whisq.formats.cursor import INCOMPLETE
from whisq.formats.ggml import checked_type
from whisq.formats.gguf_container import Container, Described, StoredTensor, check_extents, encode
from whisq.formats.gguf_metadata import general_metadata
from whisq.formats.huggingface import SIZE_KEYS, stated_dimensions
from whisq.formats.layout import Beside, Layout, Output
from whisq.formats.mel import mel_filters
from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.formats.tokenizer_json import read_json, read_tokenizer
from whisq.formats.vocabulary import check_rows, ids_of
from whisq.model import Location, Model, TensorRef
from whisq.source_file import SourceFile
from whisq.whisper import Dimensions, expected_tensors, name_in_dialect

_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_OUTPUT_MATRIX = "proj_out.weight"
"""In files made from a checkpoint with it. candle takes the embedding, which it is tied to, and so does whisq."""
_NAMED = re.compile(r"model-(.+)-[^-]+\.gguf")
"""As candle's example names files, with ``config-tiny-en.json`` beside ``model-tiny-en-q80.gguf``."""
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")


def has_its_names(tensors: Iterable[StoredTensor]) -> bool:
    """Return whether a GGUF's tensors are named as transformers names Whisper's."""
    return any(stored.name.startswith("model.decoder.") for stored in tensors)


def open_container(file: SourceFile, container: Container) -> Model:
    """Return the model in a GGUF of candle's, whose sizes and tokens are in files beside it.

    Raises ``FormatError`` where these are absent or damaged, and for missing, unknown or misshapen tensors.
    """
    path = file.path
    config_path = _beside(path, _CONFIG)
    config = read_json(config_path)
    dims = stated_dimensions(config_path, config if isinstance(config, dict) else {})
    tensors = _tensors(file, container, dims)
    tokenizer = read_tokenizer(_beside(path, _TOKENIZER))
    check_rows(path, tokenizer, dims)
    check_agreement(path, tokenizer, dims, {config_path.name: config})
    return Model(
        path=path,
        format="candle",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=mel_filters(dims.n_mels),
        tensors=tensors,
        files=(file,),
        metadata={"gguf": dict(container.metadata), "config": config},
    )


def _beside(path: Path, name: str) -> Path:
    """Return the file of this name beside a GGUF, or the one that candle's example would take."""
    stem, suffix = name.split(".")
    match = _NAMED.fullmatch(path.name)
    particular = path.with_name(f"{stem}-{match[1]}.{suffix}") if match else None
    if particular is not None and particular.is_file():
        return particular
    found = path.with_name(name)
    if not found.is_file():
        raise FormatError(
            f"{path}: is candle's GGUF, which states no sizes and no tokens, and there is no {name} beside it",
            hint=f"copy {_CONFIG} and {_TOKENIZER} from the model that it was made from, or name that model",
        )
    return found


def _tensors(file: SourceFile, container: Container, dims: Dimensions) -> tuple[TensorRef, ...]:
    specs = {name_in_dialect(name, "huggingface"): spec for name, spec in expected_tensors(dims).items()}
    tensors: list[TensorRef] = []
    extents: list[tuple[StoredTensor, int]] = []
    for stored in container.tensors:
        if stored.name == _OUTPUT_MATRIX:
            continue
        spec = specs.pop(stored.name, None)
        expected = None if spec is None else tuple(reversed(spec.shape))
        if spec is None or stored.sizes != expected:
            found = "unknown tensor" if spec is None else f"sizes {list(stored.sizes)}, expected {list(expected or ())}"
            raise FormatError(
                f"{file.path}: {stored.name!r}: {found}",
                hint=f"copy {_CONFIG} from the model that it was made from: this one describes another",
            )
        kind = checked_type(file.path, stored.name, stored.type, spec)
        location = Location(0, stored.offset, spec.n_rows * kind.row_bytes(spec.n_columns))
        tensors.append(TensorRef(spec, stored.name, kind, location))
        extents.append((stored, location.size_bytes))
    if specs:
        raise FormatError(
            f"{file.path}: {len(specs)} tensors are missing, the first is {next(iter(specs))}", hint=INCOMPLETE
        )
    check_extents(file.path, extents, file.size_bytes)
    return tuple(tensors)


def layout(model: Model, outputs: Sequence[Output], provenance: dict[str, Any]) -> Layout:
    """Return where everything goes in a GGUF of these outputs, and the two files beside it.

    Raises ``DataError`` for a vocabulary without the tokens that candle looks up by name.
    """
    described = [
        Described(
            name_in_dialect(output.tensor.name, "huggingface"),
            tuple(reversed(output.tensor.shape)),
            output.type.ggml_type,
            output.size_bytes,
        )
        for output in outputs
    ]
    special = special_tokens(model)
    head, offsets, size_bytes = encode(general_metadata(model, outputs, special, provenance), described)
    beside = (
        Beside(_CONFIG, _json_bytes(_config(model, special)), partial(_is_config_of, model.dims)),
        Beside(_TOKENIZER, _json_bytes(_tokenizer(model, special)), partial(_is_tokenizer_of, model, special)),
    )
    return Layout(size_bytes, ((0, head),), offsets, beside)


def _json_bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _config(model: Model, special: SpecialTokens) -> dict[str, Any]:
    """Return a configuration as transformers writes it, as much of it as is known of any model."""
    width = 4 * model.dims.n_audio_state
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        **{key: getattr(model.dims, name) for name, key in SIZE_KEYS.items()},
        "encoder_ffn_dim": width,
        "decoder_ffn_dim": width,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "decoder_start_token_id": special.required("start"),
        "eos_token_id": special.required("end"),
        "suppress_tokens": list(special.suppress),
        "begin_suppress_tokens": list(special.begin_suppress),
    }


def _is_config_of(dims: Dimensions, path: Path) -> bool:
    config = read_json(path)
    return isinstance(config, dict) and all(config.get(key) == getattr(dims, name) for name, key in SIZE_KEYS.items())


def _tokenizer(model: Model, special: SpecialTokens) -> dict[str, Any]:
    """Return the tokenizer in the form of Hugging Face's ``tokenizers``: byte-level BPE without a prefix space."""
    for needed in ("transcribe", "no_timestamps"):
        special.required(needed)
    tokens = model.tokenizer.tokens
    texts = [_spelled(token) for token in tokens]
    markers = {number: text for number, text in enumerate(texts) if text.startswith("<|") and text.endswith("|>")}
    named = dict(sorted({**markers, **special.texts}.items()))
    spoken = tokens[: special.required("end")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, text) for number, text in named.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": list(model.tokenizer.merges or merges_of(spoken)),
        },
    }


def _spelled(token: bytes) -> str:
    return token.decode("utf-8", "replace") if token.startswith(b"<|") else printable(token)


def _added(number: int, text: str) -> dict[str, Any]:
    """Return an added token; timestamps and a fine-tune's words are text to a decoder, the other markers are not."""
    is_special = text.startswith("<|") and text.endswith("|>") and not _TIMESTAMP.fullmatch(text)
    stripped = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **stripped, "special": is_special}


def _is_tokenizer_of(model: Model, special: SpecialTokens, path: Path) -> bool:
    found = read_tokenizer(path)
    end = special.required("end")
    ids = ids_of(found)
    needed = [special.required(name) for name in ("start", "end", "transcribe", "no_timestamps")]
    same_markers = {ids.get(special.texts[number]) for number in needed} == set(needed)
    return found.tokens[:end] == model.tokenizer.tokens[:end] and same_markers
