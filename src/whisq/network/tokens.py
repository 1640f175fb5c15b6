"""Texts and prompts as the decoder's token ids."""

from __future__ import annotations

from functools import lru_cache

from whisq.errors import DataError, FormatError
from whisq.extras import require_torch
from whisq.model import Tokenizer
from whisq.whisper import Dimensions


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


LONGEST_TEXT = 224
"""Tokens that Whisper writes for a window at most (OpenAI's ``sample_len``: half the text context)."""
