"""The metadata that transcribe.cpp wants of a Whisper GGUF (general.architecture "whisper").

Source of the keys and their types: transcribe.cpp, ``src/arch/whisper/weights.cpp`` and its converter. What is not
known of a model is left out: a missing key gives a clearer loader error than an invented value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from whisq.formats.byte_pairs import merges_of, printable
from whisq.formats.gguf_container import Value
from whisq.formats.layout import Output
from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.model import Model
from whisq.types import QUANTIZATION_VERSION, TensorType
from whisq.version import __version__
from whisq.whisper import Dimensions

VOCABULARY_COUNT_KEY = "whisq.vocabulary_count"
"""How many of the tokens a ``.bin`` of the same model lists; the rest are special."""

NORMAL, CONTROL = 1, 3
"""ggml's token types."""

_SAMPLE_RATE_HZ, _N_FFT, _HOP_LENGTH = 16000, 400, 160
_SAMPLES_PER_POSITION = 2 * _HOP_LENGTH
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
_CARRIED_OVER = ("general.", "whisq.", "quantize.")
_OF_ONE_RUN = ("whisq.recipe", "whisq.method", "whisq.calibration.", "quantize.imatrix.")
"""What a run of the quantizer says of itself: it does not hold for the next one's file."""
_STATED_ANEW = {
    "general.alignment",
    "general.architecture",
    "general.file_type",
    "general.quantization_version",
    VOCABULARY_COUNT_KEY,
}

# (encoder layers, decoder layers, width) of every released Whisper and Distil-Whisper.
_RELEASED = {
    (4, 4, 384): "whisper-tiny",
    (6, 6, 512): "whisper-base",
    (12, 12, 768): "whisper-small",
    (24, 24, 1024): "whisper-medium",
    (32, 32, 1280): "whisper-large",
    (32, 4, 1280): "whisper-large-v3-turbo",
    (12, 4, 768): "distil-small",
    (24, 2, 1024): "distil-medium",
    (32, 2, 1280): "distil-large",
}


def metadata_of(model: Model, outputs: Sequence[Output], provenance: Mapping[str, Any]) -> dict[str, Value]:
    """Return all keys of a GGUF that holds these outputs, in the order in which they are written."""
    special = special_tokens(model)
    keys = _general(model, outputs, special)
    keys |= _tokenizer(model, special)
    keys |= _sizes(model.dims)
    keys |= _decoding(special)
    keys |= _frontend(model.dims)
    keys |= _provenance(model, provenance)
    return keys


def general_metadata(
    model: Model, outputs: Sequence[Output], special: SpecialTokens, provenance: Mapping[str, Any]
) -> dict[str, Value]:
    """Return what a GGUF says of the model and of where it comes from, for a runtime that reads no metadata."""
    return _general(model, outputs, special) | _provenance(model, provenance)


def variant_of(model: Model) -> str:
    """Return a model's name as hubs spell it (``whisper-tiny.en``): what the source says, else what the sizes say."""
    for source, key in (("gguf", "stt.variant"), ("hub", "name"), ("config", "_name_or_path")):
        section = model.metadata.get(source)
        stated = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(stated, str) and stated.strip("./\\ "):
            return re.split(r"[/\\]", stated.rstrip("/\\"))[-1].lower()
    return variant_of_sizes(model.dims)


def variant_of_sizes(dims: Dimensions) -> str:
    """Return the released model that has these sizes, or ``whisper``."""
    name = _RELEASED.get((dims.n_audio_layer, dims.n_text_layer, dims.n_audio_state), "whisper")
    if name in ("whisper-large", "distil-large"):
        if dims.n_mels == 128:
            return f"{name}-v3"
        return f"{name}-v2" if name == "distil-large" else name
    return name if dims.is_multilingual or name == "whisper-large-v3-turbo" else f"{name}.en"


def _general(model: Model, outputs: Sequence[Output], special: SpecialTokens) -> dict[str, Value]:
    variant = variant_of(model)
    commonest, mixed = _most_common_type(outputs)
    keys = {
        "general.architecture": Value("string", "whisper"),
        "general.type": Value("string", "model"),
        "general.name": Value("string", _title(variant)),
        "general.basename": Value("string", "whisper"),
        "general.size_label": Value("string", _size_label(model.n_weights)),
        "general.file_type": Value("u32", commonest.llama_ftype_of_a_mix if mixed else commonest.llama_ftype),
        "general.languages": Value("string", list(special.languages) or ["en"]),
    }
    if any(output.type.is_quantized for output in outputs):
        keys["general.quantization_version"] = Value("u32", QUANTIZATION_VERSION)
    for key in ("license", "repo_url"):
        stated = model.metadata.get("hub", {}).get(key)
        if isinstance(stated, str):
            keys[f"general.{key}"] = Value("string", stated)
    multilingual = bool(special.languages)
    keys |= {
        "stt.variant": Value("string", variant),
        "stt.capability.lang_detect": Value("bool", multilingual),
        "stt.capability.translate": Value("bool", multilingual),
        "stt.capability.timestamps": Value("bool", True),
    }
    if multilingual:
        keys["stt.translation.target_languages"] = Value("string", ["en"])
    return keys


def _title(variant: str) -> str:
    name, english = variant.removesuffix(".en"), variant.endswith(".en")
    words = [word if re.fullmatch(r"v\d+", word) else word.capitalize() for word in re.split(r"[-_ ]", name) if word]
    return " ".join(words) + (" (English)" if english else "")


def _size_label(n_weights: int) -> str:
    for scale, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n_weights >= scale:
            return f"{n_weights / scale:.1f}{letter}" if letter == "B" else f"{n_weights / scale:.0f}{letter}"
    return str(n_weights)


def _most_common_type(outputs: Sequence[Output]) -> tuple[TensorType, bool]:
    counts: Counter[TensorType] = Counter()
    for output in outputs:
        if output.tensor.spec.is_matrix and output.tensor.role != "token_embedding":
            counts[output.type] += output.tensor.n_weights
    ((kind, _),) = counts.most_common(1)
    return kind, len(counts) > 1


def _tokenizer(model: Model, special: SpecialTokens) -> dict[str, Value]:
    tokens, types = _tokens(model, special)
    text_tokens = model.tokenizer.tokens[: special.end] if special.end is not None else model.tokenizer.tokens
    keys = {
        "tokenizer.ggml.model": Value("string", "gpt2"),
        "tokenizer.ggml.pre": Value("string", "gpt2"),
        "tokenizer.ggml.tokens": Value("string", tokens),
        "tokenizer.ggml.token_type": Value("i32", types),
        "tokenizer.ggml.merges": Value("string", model.tokenizer.merges or merges_of(text_tokens)),
    }
    if special.end is not None:
        for use in ("bos", "eos", "padding"):
            keys[f"tokenizer.ggml.{use}_token_id"] = Value("u32", special.end)
    keys["tokenizer.ggml.add_bos_token"] = Value("bool", False)
    keys[VOCABULARY_COUNT_KEY] = Value("u32", len(model.tokenizer.tokens))
    return keys


def _tokens(model: Model, special: SpecialTokens) -> tuple[list[str], list[int]]:
    """Return text and type of every token up to ``n_vocab``: GPT-2's printable spelling, special ones as they are."""
    tokens = [printable(token) for token in model.tokenizer.tokens]
    types = [NORMAL] * len(tokens)
    if special.end is not None and special.end < len(tokens):
        types[special.end] = CONTROL
    for number in range(len(tokens), model.dims.n_vocab):
        text = special.texts.get(number, f"<|unused_{number}|>")
        is_marker = text.startswith("<|") and text.endswith("|>")
        tokens.append(text if is_marker else printable(text.encode()))
        # Timestamps and words that a fine-tune added are text to a decoder; the other markers are not.
        speaks = not is_marker or number not in special.texts or _TIMESTAMP.fullmatch(text)
        types.append(NORMAL if speaks else CONTROL)
    return tokens, types


def _sizes(dims: Dimensions) -> dict[str, Value]:
    encoder = {
        "n_layers": dims.n_audio_layer,
        "d_model": dims.n_audio_state,
        "n_heads": dims.n_audio_head,
        "ffn_dim": 4 * dims.n_audio_state,
        "num_mel_bins": dims.n_mels,
        "max_source_positions": dims.n_audio_ctx,
    }
    decoder = {
        "n_layers": dims.n_text_layer,
        "d_model": dims.n_text_state,
        "n_heads": dims.n_text_head,
        "ffn_dim": 4 * dims.n_text_state,
        "max_target_positions": dims.n_text_ctx,
        "vocab_size": dims.n_vocab,
    }
    keys = {f"stt.whisper.encoder.{name}": Value("u32", size) for name, size in encoder.items()}
    keys["stt.whisper.encoder.activation"] = Value("string", "gelu")
    keys |= {f"stt.whisper.decoder.{name}": Value("u32", size) for name, size in decoder.items()}
    keys["stt.whisper.decoder.activation"] = Value("string", "gelu")
    keys["stt.whisper.decoder.tie_word_embeddings"] = Value("bool", True)
    keys["stt.whisper.decoder.scale_embedding"] = Value("bool", False)
    return keys


def _decoding(special: SpecialTokens) -> dict[str, Value]:
    ids = {
        "decoder_start": special.start,
        "no_timestamps": special.no_timestamps,
        "sot": special.start,
        "transcribe": special.transcribe,
        "translate": special.translate,
        "prev_sot": special.previous,
    }
    keys = {f"stt.whisper.{name}_token_id": Value("u32", number) for name, number in ids.items() if number is not None}
    keys["stt.whisper.suppress_tokens"] = Value("i32", special.suppress)
    keys["stt.whisper.begin_suppress_tokens"] = Value("i32", special.begin_suppress)
    return keys


def _frontend(dims: Dimensions) -> dict[str, Value]:
    n_samples = dims.n_audio_ctx * _SAMPLES_PER_POSITION
    values: dict[str, Value] = {
        "type": Value("string", "mel"),
        "num_mels": Value("u32", dims.n_mels),
        "sample_rate": Value("u32", _SAMPLE_RATE_HZ),
        "n_fft": Value("u32", _N_FFT),
        "win_length": Value("u32", _N_FFT),
        "hop_length": Value("u32", _HOP_LENGTH),
        "window": Value("string", "hann_periodic"),
        "normalize": Value("string", "whisper_logmel"),
        "dither": Value("f32", 0.0),
        "pre_emphasis": Value("f32", 0.0),
        "f_min": Value("f32", 0.0),
        "f_max": Value("f32", _SAMPLE_RATE_HZ / 2),
        "pad_mode": Value("string", "reflect"),
        "center": Value("bool", True),
        "mel_norm": Value("string", "slaney"),
        "chunk_length": Value("u32", n_samples // _SAMPLE_RATE_HZ),
        "n_samples": Value("u32", n_samples),
        "nb_max_frames": Value("u32", n_samples // _HOP_LENGTH),
    }
    return {f"stt.frontend.{name}": value for name, value in values.items()}


def _provenance(model: Model, provenance: Mapping[str, Any]) -> dict[str, Value]:
    """Return where the file comes from: what a source GGUF said of that, and on top of it this run."""
    keys: dict[str, Value] = {}
    superseded = _OF_ONE_RUN if "recipe" in provenance else ()
    for key, stated in model.metadata.get("gguf", {}).items():
        if key.startswith(_CARRIED_OVER) and key not in _STATED_ANEW and not key.startswith(superseded):
            value = _value_of(stated)
            if value is not None:
                keys[key] = value
    keys["whisq.version"] = Value("string", __version__)
    for key, stated in _flattened(provenance):
        value = _value_of(stated)
        if value is not None:
            keys[key if "." in key and key.split(".")[0] in ("quantize", "general", "whisq") else f"whisq.{key}"] = (
                value
            )
    return keys


def _flattened(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in section.items():
        pairs += _flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _value_of(stated: object) -> Value | None:
    """Return a Python value as GGUF's; None for what it has no room for (None, empty or mixed lists)."""
    if isinstance(stated, bool):
        return Value("bool", stated)
    if isinstance(stated, int):
        if 0 <= stated < 1 << 32:
            return Value("u32", stated)
        return Value("i64" if stated < 1 << 63 else "u64", stated)
    if isinstance(stated, float):
        return Value("f64", stated)
    if isinstance(stated, str | bytes):
        return Value("string", stated)
    if isinstance(stated, list | tuple) and stated and all(isinstance(item, str | bytes) for item in stated):
        return Value("string", list(stated))
    return None
