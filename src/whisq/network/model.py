"""A whisq Model as ``transformers``' own Whisper, its weights dequantized: for what no runtime shows.

Needs the optional extra ``calibrate`` (torch and transformers); nothing here is imported before it is used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from whisq.errors import DataError, FormatError, MissingExtraError
from whisq.model import Model, Tokenizer
from whisq.whisper import N_FFT_BINS, Dimensions, name_in_dialect

if TYPE_CHECKING:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""Samples that one run of the encoder sees."""
HOP_SAMPLES = 160
FRAME_SAMPLES = 2 * HOP_SAMPLES
"""Samples behind one row of the encoder's output: the second convolution halves the frames."""

_EXTRA_HINT = "install the extra: pip install 'whisq[calibrate]'"


def require_torch() -> None:
    """Raise ``MissingExtraError`` unless torch and transformers can be imported."""
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{' and '.join(missing)} needed for measures inside the model, not installed", hint=_EXTRA_HINT
        )


def whisper_config(dims: Dimensions) -> WhisperConfig:
    """Return the ``WhisperConfig`` of a model with these dimensions.

    Raises ``FormatError`` for encoder and decoder of different width, which transformers cannot express.
    """
    require_torch()
    from transformers import WhisperConfig

    if dims.n_audio_state != dims.n_text_state:
        raise FormatError(
            f"encoder width {dims.n_audio_state} and decoder width {dims.n_text_state} differ",
            hint="transformers' Whisper has one width for both",
        )
    special = special_tokens(dims)
    return WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=4 * dims.n_text_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        decoder_start_token_id=special["startoftranscript"],
        bos_token_id=special["endoftext"],
        eos_token_id=special["endoftext"],
        pad_token_id=special["endoftext"],
        scale_embedding=False,
        tie_word_embeddings=True,
    )


def load_torch_whisper(
    model: Model, *, dtype: torch.dtype | None = None, device: str = "cpu"
) -> WhisperForConditionalGeneration:
    """Return transformers' Whisper in eval mode with the weights of ``model``, dequantized to ``dtype``.

    ``dtype`` is float32 unless given. The weights are read tensor by tensor and the file's pages let go, so
    the peak is one copy of the model in ``dtype`` and one tensor in float32. Raises ``FormatError`` with the
    names of the tensors that are missing.
    """
    config = whisper_config(model.dims)
    import torch
    from transformers import WhisperForConditionalGeneration

    dtype = dtype or torch.float32
    with torch.device("meta"):
        network = WhisperForConditionalGeneration(config)
    state: dict[str, torch.Tensor] = {}
    for tensor in model.tensors:
        weights = torch.from_numpy(np.array(model.array(tensor), dtype=np.float32, copy=True))
        state[name_in_dialect(tensor.name, "huggingface")] = weights.to(dtype=dtype, device=device)
        model.release(tensor)
    embedding = name_in_dialect("decoder.token_embedding.weight", "huggingface")
    if embedding in state:
        state["proj_out.weight"] = state[embedding]
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise FormatError(
            f"{model.path}: not a whole Whisper: missing {', '.join(missing) or 'nothing'}; "
            f"unknown {', '.join(unexpected) or 'nothing'}",
            hint="open the file with `whisq inspect` to see what it holds",
        )
    network.tie_weights()
    network.requires_grad_(False)
    return network.eval()


@lru_cache(maxsize=8)
def _mel_filters(raw: bytes, n_mels: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(raw, dtype="<f4").reshape(n_mels, N_FFT_BINS).astype(np.float32)


def log_mel(samples: npt.NDArray[np.float32], model: Model, *, device: str = "cpu") -> torch.Tensor:
    """Return the encoder's input, float32 ``[1, n_mels, 3000]``, for up to 30 s of 16 kHz mono samples.

    The frontend of OpenAI's Whisper: 25 ms periodic Hann windows every 10 ms, power spectrum, the model's own
    mel filters, log10 cut 8 below its maximum, shifted and scaled. Shorter audio is padded with silence.
    """
    require_torch()
    import torch

    if samples.ndim != 1 or samples.size > WINDOW_SAMPLES:
        raise DataError(
            f"log_mel takes up to {WINDOW_SAMPLES} samples in one dimension, got shape {samples.shape}",
            hint="cut the audio with `windows` first",
        )
    filters = torch.from_numpy(_mel_filters(bytes(model.mel_filters), model.dims.n_mels).copy()).to(device)
    audio = torch.zeros(WINDOW_SAMPLES, dtype=torch.float32, device=device)
    audio[: samples.size] = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(device)
    spectrum = torch.stft(
        audio,
        n_fft=400,
        hop_length=HOP_SAMPLES,
        window=torch.hann_window(400, device=device),
        return_complex=True,
    )
    power = spectrum[:, :-1].abs() ** 2
    decades = (filters @ power).clamp(min=1e-10).log10()
    decades = torch.maximum(decades, decades.max() - 8.0)
    return ((decades + 4.0) / 4.0).unsqueeze(0)


def windows(samples: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Return the samples cut into consecutive windows of 30 s; a tail under one second is left out.

    Audio shorter than a second is one window all the same.
    """
    starts = range(0, max(1, samples.size), WINDOW_SAMPLES)
    pieces = [samples[start : start + WINDOW_SAMPLES] for start in starts]
    return [piece for index, piece in enumerate(pieces) if index == 0 or piece.size >= SAMPLE_RATE]


def special_tokens(dims: Dimensions) -> dict[str, int]:
    """Return the ids of Whisper's control tokens, by their text without ``<|`` and ``|>``.

    The vocabulary's layout follows from its size (OpenAI's ``whisper/tokenizer.py``): text tokens,
    endoftext, startoftranscript, one token a language (99, or 100 in large-v3), six tasks, timestamps.
    """
    end = 50_257 if dims.is_multilingual else 50_256
    n_languages = dims.n_vocab - 51_765 - 1 if dims.is_multilingual else 99
    task = end + 2 + n_languages
    return {
        "endoftext": end,
        "startoftranscript": end + 1,
        "translate": task,
        "transcribe": task + 1,
        "startoflm": task + 2,
        "startofprev": task + 3,
        "nospeech": task + 4,
        "notimestamps": task + 5,
    }


def language_token(dims: Dimensions, language: str) -> int:
    """Return the id of a language's token; ``language`` is a code such as ``de``.

    Raises ``DataError`` for a language that Whisper, or this vocabulary, does not know.
    """
    require_torch()
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    codes = list(LANGUAGES)
    first = special_tokens(dims)["startoftranscript"] + 1
    n_languages = special_tokens(dims)["translate"] - first
    if language not in codes[:n_languages]:
        raise DataError(
            f"language {language!r} is not one of Whisper's", hint="use a two-letter code such as en, de, es"
        )
    return first + codes.index(language)


def prompt_tokens(dims: Dimensions, language: str | None = None) -> list[int]:
    """Return the tokens that ask for a transcription without timestamps.

    A multilingual model gets ``language``, English where it is None; an English-only one takes none.
    """
    special = special_tokens(dims)
    if not dims.is_multilingual:
        return [special["startoftranscript"], special["notimestamps"]]
    return [
        special["startoftranscript"],
        language_token(dims, language or "en"),
        special["transcribe"],
        special["notimestamps"],
    ]


@lru_cache(maxsize=2)
def _ranks(tokens: tuple[bytes, ...]) -> dict[bytes, int]:
    return {token: rank for rank, token in reversed(list(enumerate(tokens)))}


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of ``text`` by byte-level BPE, without control tokens.

    A ``.bin`` holds no merges, and needs none: Whisper's ids are in the order of its merges, so the pair
    whose join has the lowest id is merged first.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    ranks = _ranks(tokenizer.tokens)
    pieces = ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str(text)
    ids: list[int] = []
    for _, (start, stop) in pieces:
        ids.extend(_merge(text[start:stop].encode(), ranks))
    return ids


def _merge(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    parts = [word[i : i + 1] for i in range(len(word))]
    while len(parts) > 1:
        joins = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
        rank, at = min(joins)
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    unknown = [part for part in parts if part not in ranks]
    if unknown:
        raise FormatError(f"the vocabulary has no token for {unknown[0]!r}", hint="is it a whole Whisper vocabulary?")
    return [ranks[part] for part in parts]
