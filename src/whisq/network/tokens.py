"""Texts as the decoder's token ids, and which ids are text. What is asked of the decoder: ``SpecialTokens.prompt``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from whisq.errors import FormatError
from whisq.formats.byte_pairs import split
from whisq.formats.special_tokens import SpecialTokens
from whisq.model import Model, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_TEXT = 224
"""Tokens for a window at most, written or shown: half the text context, OpenAI's ``sample_len``."""


@lru_cache(maxsize=2)
def _ranks(tokens: tuple[bytes, ...]) -> dict[bytes, int]:
    return {token: rank for rank, token in reversed(list(enumerate(tokens)))}


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of ``text`` by byte-level BPE, without control tokens.

    A ``.bin`` holds no merges, and needs none: Whisper's ids are in the order of its merges, so the pair
    whose join has the lowest id is merged first. Raises ``FormatError`` for bytes that the vocabulary lacks.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    ranks = _ranks(tokenizer.tokens)
    pieces = ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str(text)
    ids: list[int] = []
    for _, (start, stop) in pieces:
        parts = split(text[start:stop].encode(), ranks)
        unknown = [part for part in parts if part not in ranks]
        if unknown:
            raise FormatError(
                f"the vocabulary has no token for {unknown[0]!r}",
                hint="copy the tokenizer from the model that this one was trained from, and convert it again",
            )
        ids += [ranks[part] for part in parts]
    return ids


def text_ids(model: Model, special: SpecialTokens) -> NDArray[np.bool_]:
    """Return of each id of the vocabulary whether it is text: a token of the tokenizer's, and not a special one.

    Raises ``FormatError`` for a model that lists no tokens: of it, nothing but the end could ever be written.
    """
    if not model.tokenizer.tokens:
        raise FormatError(
            f"{model.path}: lists no tokens, so that no text can be written or read",
            hint="convert the model again from a source that has its tokenizer",
        )
    found = np.zeros(model.dims.n_vocab, bool)
    found[: len(model.tokenizer.tokens)] = True
    found[[number for number in special.texts if number < len(found)]] = False
    return found


def likeliest_language(special: SpecialTokens, scores: NDArray[np.float32]) -> str | None:
    """Return the code of the language whose token scores highest, None for an English-only vocabulary.

    ``scores`` are the logits ``[vocabulary]`` of what follows the start token: so Whisper tells the language.
    """
    return max(special.languages, key=lambda code: float(scores[special.languages[code]]), default=None)
