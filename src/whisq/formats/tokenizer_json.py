"""The tokenizer of Hugging Face's ``tokenizer.json``, which CTranslate2 folders carry too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whisq.documents import Document
from whisq.errors import FormatError
from whisq.formats.byte_pairs import bytes_of
from whisq.formats.cursor import DOWNLOAD_AGAIN
from whisq.model import Tokenizer
from whisq.whisper import Dimensions


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.json``.

    Tokens are those of the base vocabulary with ids counted from 0 without a gap. Raises ``FormatError``.
    """
    document = read_json(path)
    try:
        vocabulary: dict[str, int] = document["model"]["vocab"]
        text_of = {number: text for text, number in vocabulary.items()}
        merges = document["model"].get("merges", [])
        pairs = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)
        added = {entry["content"]: int(entry["id"]) for entry in document.get("added_tokens", [])}
        # JSON can spell half a surrogate pair, which no container can store.
        "".join([*pairs, *added]).encode("utf-8")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{path}: not a byte-level BPE tokenizer: {type(error).__name__} {error}",
            hint="save it again with transformers, which writes model.vocab, model.merges and added_tokens",
        ) from None
    tokens: list[bytes] = []
    while (text := text_of.get(len(tokens))) is not None:
        tokens.append(bytes_of(text, markers_as_text=True))
    if not tokens:
        raise FormatError(
            f"{path}: the vocabulary has no token 0", hint="copy the whole tokenizer from where the model came from"
        )
    return Tokenizer(tuple(tokens), pairs, added)


_FILE = Document("a file of a model's folder", FormatError, DOWNLOAD_AGAIN, 1 << 26)


def read_json(path: Path) -> Any:
    """Return a JSON document of a model's folder; raises ``FormatError`` when it is missing, too large or not JSON."""
    return _FILE.json(path)


def read_text(path: Path) -> str:
    """Return a text file of a model's folder; raises ``FormatError`` when it is missing, too large or not UTF-8."""
    return _FILE.text(path)


def check_vocabulary(path: Path, tokenizer: Tokenizer, dims: Dimensions) -> None:
    """Raise ``FormatError`` for a tokenizer with more tokens than the embedding has rows."""
    if len(tokenizer.tokens) > dims.n_vocab:
        raise FormatError(
            f"{path}: the tokenizer has {len(tokenizer.tokens)} tokens, the model {dims.n_vocab}",
            hint="copy the tokenizer from where the weights came from",
        )
