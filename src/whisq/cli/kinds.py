"""What kind of file stands where a command would write, by its first bytes: another kind is not lost by mistake."""

from __future__ import annotations

import re
from pathlib import Path

HEAD_BYTES = 4096
"""Read of a file; all that whisq writes says within these what it is."""

MODEL = "a model"
IMATRIX = "an imatrix"
CALIBRATION = "a calibration"
RECIPE = "a recipe"
RESULTS = "results of an evaluation"
SENSITIVITY = "a search's sensitivity"
SIDECAR = "a sidecar"
STEPS = "a record of steps"
PAGE = "an HTML page"
TABLES = "tables in Markdown"

_GGML, _GGUF = b"lmgg", b"GGUF"
_OF_AN_IMATRIX = (b"general.type\x08\0\0\0\x07\0\0\0\0\0\0\0imatrix", b"crispasr-imatrix")
"""The key with its value, a string of seven bytes, as llama.cpp writes it, and CrispASR's architecture."""
_TABLE_OF_TOML = re.compile(r"\[\[?[A-Za-z_][\w.-]*\]\]?[ \t]*(#.*)?$", re.MULTILINE)
"""The first line of a settings file, which JSON never has."""
_BINARY = {
    b"RIFF": "audio", b"fLaC": "audio", b"OggS": "audio", b"ID3": "audio", b"\xff\xfb": "audio",
    b"PK\x03\x04": "a zip file or a checkpoint", b"\x80": "a pickle", b"%PDF": "a PDF file",
}  # fmt: skip


def kind_of_file(path: Path) -> str:
    """Return what a file is, nothing for one that is empty; raises ``OSError`` where it cannot be read."""
    with path.open("rb") as stream:
        return kind_of(stream.read(HEAD_BYTES))


def kind_of(head: bytes) -> str:
    """Return what begins like this: one of the kinds above, or words for another; nothing for an empty file."""
    if not head:
        return ""
    if head.startswith((_GGML, _GGUF)):
        return IMATRIX if any(words in head for words in _OF_AN_IMATRIX) else MODEL
    if head[8:10] == b'{"':
        return CALIBRATION if b'"whisq.calibration"' in head else "a file of safetensors"
    for magic, name in _BINARY.items():
        if head.startswith(magic):
            return name
    text = head.decode("utf-8", "replace")
    # The last character of the head may be cut.
    if "\0" in text or "\ufffd" in text[:-4]:
        return "a file that whisq does not write"
    return _kind_of_text(text)


def _kind_of_text(text: str) -> str:
    begins = text.lstrip()
    if begins.lower().startswith(("<!doctype html", "<html")):
        return PAGE
    if begins.startswith(("{", "[")) and not _TABLE_OF_TOML.match(begins):
        return _kind_of_json(begins)
    if any(line.partition("#")[0].rstrip() in ("[recipe]", "[[rules]]") for line in text.splitlines()):
        return RECIPE
    return TABLES if begins.startswith("### ") else "a text file"


def _kind_of_json(text: str) -> str:
    if '"schema": "whisq-evaluation"' in text:
        return RESULTS
    if '"whisq.sensitivity": ' in text:
        return SENSITIVITY
    if '"model.calib": [' in text or text.strip() == "{}":
        return STEPS
    return SIDECAR if '"version": ' in text and '"source": ' in text else "a JSON file"
