"""What a vocabulary must be for a model to speak with it, whichever file it was in.

A token's id is its row in the embedding: one that is lost, doubled or moved makes the model say other words, or none,
without a loader noticing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats.byte_pairs import bytes_of, is_printable
from whisq.model import Model, Tokenizer
from whisq.whisper import Dimensions

END_OF_TEXT = "<|endoftext|>"
_IN_A_ROW = (END_OF_TEXT, "<|startoftranscript|>", "<|notimestamps|>")
"""Between text and timestamps, all ids have a token."""
_WHOLE = "copy the whole tokenizer from where the model came from"
_MOST_TOKENS = 1 << 20
_N_ENGLISH_VOCAB, _N_ENGLISH_TEXT = 51864, 50256
"""Rows and text tokens of Whisper's smaller vocabulary; the larger one has a text token more."""


def tokenizer_of(path: Path, vocabulary: Any, added: Mapping[str, Any], merges: Sequence[Any]) -> Tokenizer:
    """Return the tokenizer that a file describes: tokens and added tokens with their ids, and merges.

    Raises ``FormatError`` for anything but a byte-level one whose ids are 0, 1, 2 … without a gap or a double.
    """
    text_of = _text_of(path, vocabulary, added)
    if END_OF_TEXT not in vocabulary and END_OF_TEXT not in added:
        raise _error(path, f"it has no {END_OF_TEXT}: it was cut, or is not Whisper's")
    # Behind these, timestamps may have no names, and fine-tunes put their words behind timestamps.
    last = max(names[text] for names in (vocabulary, added) for text in _IN_A_ROW if text in names)
    missing = [number for number in range(last) if number not in text_of]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise _error(path, f"{len(missing)} ids have no token: {shown}")
    strange = [text for text in vocabulary if not text.startswith("<|") and not is_printable(text)]
    if strange:
        raise _error(path, f"token {vocabulary[strange[0]]}, {ascii(strange[0])[:40]}, is not in byte-level spelling")
    tokens: list[bytes] = []
    while (text := text_of.get(len(tokens))) is not None and text in vocabulary:
        tokens.append(bytes_of(text, markers_as_text=True))
    if not tokens:
        raise _error(path, "the vocabulary has no token 0")
    return Tokenizer(tuple(tokens), _merges(path, vocabulary, merges), dict(added))


def _text_of(path: Path, vocabulary: Any, added: Mapping[str, Any]) -> dict[int, str]:
    if not isinstance(vocabulary, dict):
        raise _error(path, "its vocabulary is not a mapping from token to id, as that of byte-level BPE is")
    text_of: dict[int, str] = {}
    for text, number in (*vocabulary.items(), *added.items()):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _MOST_TOKENS:
            raise _error(path, f"the id of token {ascii(text)[:40]} is {ascii(number)[:40]}, expected a whole number")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _error(path, f"the token with id {number} is half a character: {ascii(text)[:40]}")
        if text_of.setdefault(number, text) != text:
            raise _error(path, f"two tokens have id {number}: {ascii(text_of[number])[:40]} and {ascii(text)[:40]}")
    doubled = [text for text in added if vocabulary.get(text, added[text]) != added[text]]
    if doubled:
        raise _error(path, f"{ascii(doubled[0])[:40]} has two ids: {vocabulary[doubled[0]]} and {added[doubled[0]]}")
    return text_of


def _merges(path: Path, vocabulary: Mapping[str, int], merges: Sequence[Any]) -> tuple[str, ...]:
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise _error(path, f"the merge {ascii(merge)[:40]} is not of two tokens")
        if parts[0] + parts[1] not in vocabulary or " " in parts[0] + parts[1]:
            raise _error(path, f"the merge {ascii(merge)[:40]} makes no token of the vocabulary")
        pairs.append(f"{parts[0]} {parts[1]}")
    return tuple(pairs)


def check_rows(path: Path, tokenizer: Tokenizer, dims: Dimensions) -> None:
    """Raise ``FormatError`` for more tokens than the embedding has rows, and for text behind the special tokens."""
    if len(tokenizer.tokens) > dims.n_vocab:
        raise FormatError(
            f"{path}: the tokenizer has {len(tokenizer.tokens)} tokens, the model {dims.n_vocab}",
            hint="copy the tokenizer from where the weights came from",
        )
    _check_text_first(path, tokenizer)


def _check_text_first(path: Path, tokenizer: Tokenizer) -> None:
    end = ids_of(tokenizer).get(END_OF_TEXT, len(tokenizer.tokens))
    after = sum(not token.startswith(b"<|") for token in tokenizer.tokens[end + 1 :])
    if after:
        # Every runtime takes ids from the end of text on for special, and writes none of them.
        raise FormatError(
            f"{path}: {after} tokens of text come after {END_OF_TEXT}, which is {end}; runtimes take all ids from there"
            " on for special tokens, and write nothing",
            hint="train with Whisper's own tokenizer, whose special tokens come last; no converter can move them",
        )


def ids_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of a tokenizer's markers, whether they are in its vocabulary or were added."""
    markers = {
        token.decode("utf-8", "replace"): number
        for number, token in enumerate(tokenizer.tokens)
        if token.startswith(b"<|") and token.endswith(b"|>")
    }
    return markers | dict(tokenizer.special)


def check_complete(model: Model) -> None:
    """Raise ``FormatError`` for a model whose vocabulary lacks what its rows say that Whisper's has.

    Loaders fill in the special tokens only. Of a model with fewer rows than any Whisper nothing is known.
    """
    n_rows, n_tokens = model.dims.n_vocab, len(model.tokenizer.tokens)
    least = _N_ENGLISH_TEXT + (n_rows > _N_ENGLISH_VOCAB)
    if n_rows >= _N_ENGLISH_VOCAB and n_tokens < least:
        raise FormatError(
            f"{model.path}: the vocabulary has {n_tokens} tokens of text, a Whisper with {n_rows} rows has {least}:"
            " it would say wrong words",
            hint="convert the model again, with the whole tokenizer from where the model came from",
        )


def _error(path: Path, reason: str) -> FormatError:
    return FormatError(f"{path}: not Whisper's tokenizer: {reason}", hint=_WHOLE)
