"""The tokenizer of Hugging Face's ``tokenizer.json``, which CTranslate2 folders carry too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whisq.documents import Document
from whisq.errors import FormatError
from whisq.formats.cursor import DOWNLOAD_AGAIN
from whisq.formats.vocabulary import tokenizer_of
from whisq.model import Tokenizer

_SAVE_AGAIN = "copy tokenizer.json from where the model came from"


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.json``; raises ``FormatError`` for any but a whole byte-level one."""
    document = read_json(path)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise FormatError(f"{path}: not a tokenizer: it has no model", hint=_SAVE_AGAIN)
    kind = model.get("type", "BPE")
    if kind != "BPE" or model.get("byte_fallback"):
        found = f"of type {ascii(kind)[:40]}" if kind != "BPE" else "of SentencePiece's kind"
        raise FormatError(f"{path}: a tokenizer {found}, Whisper's is byte-level BPE", hint=_SAVE_AGAIN)
    added, merges = document.get("added_tokens", []), model.get("merges", [])
    if not isinstance(added, list) or not isinstance(merges, list):
        raise FormatError(f"{path}: added_tokens or merges are not a list", hint=_SAVE_AGAIN)
    return tokenizer_of(path, model.get("vocab"), _ids_of(path, added), merges)


def _ids_of(path: Path, entries: list[Any]) -> dict[str, Any]:
    """Return the ids of added tokens by their text."""
    added: dict[str, Any] = {}
    for entry in entries:
        text = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(text, str) or added.setdefault(text, entry.get("id")) != entry.get("id"):
            raise FormatError(
                f"{path}: the added token {ascii(entry)[:80]} has no text, or a second id", hint=_SAVE_AGAIN
            )
    return added


_FILE = Document("a file of a model's folder", FormatError, DOWNLOAD_AGAIN, 1 << 26)


def read_json(path: Path) -> Any:
    """Return a JSON document of a model's folder; raises ``FormatError`` when it is missing, too large or not JSON."""
    return _FILE.json(path)


def read_text(path: Path) -> str:
    """Return a text file of a model's folder; raises ``FormatError`` when it is missing, too large or not UTF-8."""
    return _FILE.text(path)
