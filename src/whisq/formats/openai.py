"""OpenAI's own checkpoints, ``.pt``: a torch zip of ``{"dims": {…}, "model_state_dict": {…}}``.

Source: openai/whisper, ``whisper/__init__.py`` and ``model.py``. The file has no vocabulary. Whisper has two, one for
English and one for the rest, and either is found beside the file, in an installed ``openai-whisper``, or on the hub.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats import hub, torch_zip
from whisq.formats.cursor import DAMAGED, first_bytes
from whisq.formats.mel import mel_filters
from whisq.formats.stored import StoredArray, check_layers, left_over, refs_of
from whisq.formats.tokenizer_json import read_text, read_tokenizer
from whisq.formats.vocabulary import check_rows
from whisq.model import Model, Tokenizer
from whisq.source_file import SourceFile
from whisq.whisper import LARGEST_SIZES, Dimensions, expected_tensors

_UNUSED = ("decoder.mask", "alignment_heads")
_MULTILINGUAL_ID, _ENGLISH_ID = "openai/whisper-tiny", "openai/whisper-tiny.en"


def detect(path: Path) -> bool:
    """Return whether this is a file that ``torch.save`` may have written."""
    start = first_bytes(path, 4) or b""
    return start == torch_zip.MAGIC or (path.suffix in (".pt", ".pth") and start[:1] == torch_zip.PICKLE_MAGIC)


def open(path: Path) -> Model:
    """Open an OpenAI checkpoint, or any ``.pt`` that holds its ``dims`` and ``model_state_dict``.

    Raises ``FormatError`` for anything else, and when no vocabulary is found.
    """
    file = SourceFile(path)
    try:
        saved = torch_zip.read_checkpoint(file, 0)
        dims = _dimensions(path, saved)
        arrays = {name: a for name, a in _state(path, saved).items() if isinstance(a, StoredArray)}
        tensors = refs_of(path, arrays, dims, {name: name for name in expected_tensors(dims)})
        ignored = left_over(arrays, tensors, _UNUSED)
        check_layers(path, ignored, dims)
        tokenizer, where = _vocabulary(path, dims)
    except BaseException:
        file.close()
        raise
    warnings = [f"{path}: has no vocabulary; it was taken from {where}"] if where else []
    if ignored:
        warnings.append(f"{path}: {len(ignored)} tensors are not Whisper's and are left out: {', '.join(ignored[:3])}")
    return Model(
        path=path,
        format="openai",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=mel_filters(dims.n_mels),
        tensors=tensors,
        files=(file,),
        warnings=tuple(warnings),
    )


def _dimensions(path: Path, saved: Any) -> Dimensions:
    stated = saved.get("dims") if isinstance(saved, dict) else None
    if not isinstance(stated, dict):
        keys = ", ".join(str(key) for key in list(saved)[:4]) if isinstance(saved, dict) else "no dictionary"
        raise FormatError(
            f"{path}: expected dims and model_state_dict, found {keys or 'an empty dictionary'}",
            hint="OpenAI's checkpoints have both; for transformers' weights name the folder that has config.json",
        )
    wrong = [
        f"{name} is {_shown(stated.get(name))}"
        for name, most in LARGEST_SIZES.items()
        if not isinstance(stated.get(name), int) or not 0 < stated[name] <= most
    ]
    if wrong:
        raise FormatError(f"{path}: impossible dimensions: {', '.join(wrong)}", hint=DAMAGED)
    return Dimensions(**{name: stated[name] for name in LARGEST_SIZES})


def _shown(value: object) -> str:
    # Python refuses to print a number of thousands of digits.
    return hex(value)[:40] if isinstance(value, int) and value.bit_length() > 64 else repr(value)[:40]


def _state(path: Path, saved: dict[str, Any]) -> dict[str, Any]:
    state = saved.get("model_state_dict")
    if not isinstance(state, dict):
        raise FormatError(f"{path}: has no model_state_dict", hint="name one of OpenAI's checkpoints, which have one")
    return state


def _vocabulary(path: Path, dims: Dimensions) -> tuple[Tokenizer, str]:
    """Return a vocabulary that fits, and where it is from when that is not beside the file."""
    name = "multilingual.tiktoken" if dims.is_multilingual else "gpt2.tiktoken"
    if (path.parent / "tokenizer.json").is_file():
        tokenizer = read_tokenizer(path.parent / "tokenizer.json")
        check_rows(path, tokenizer, dims)
        return tokenizer, ""
    if (path.parent / name).is_file():
        return _read_ranks(path.parent / name), ""
    installed = importlib.util.find_spec("whisper")
    for folder in (installed.submodule_search_locations or ()) if installed is not None else ():
        if (Path(folder) / "assets" / name).is_file():
            return _read_ranks(Path(folder) / "assets" / name), "the installed openai-whisper"
    source = _MULTILINGUAL_ID if dims.is_multilingual else _ENGLISH_ID
    try:
        return read_tokenizer(hub.fetch(hub.Source(source, None, hub.unreachable(source)), "tokenizer.json")), source
    except FormatError as error:
        raise FormatError(
            f"{path}: OpenAI's checkpoints have no vocabulary, and none was found: {error}",
            hint=f"put tokenizer.json of {source} or openai-whisper's assets/{name} beside the file",
        ) from None


def _read_ranks(path: Path) -> Tokenizer:
    """Return the vocabulary of a tiktoken file: a token in base64 and its rank on each line."""
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(read_text(path).split("\n")):
        if not line:
            continue
        try:
            token, rank = line.split()
            if int(rank) in ranks:
                raise ValueError(f"rank {int(rank)} occurs twice")
            ranks[int(rank)] = base64.b64decode(token, validate=True)
        except (ValueError, binascii.Error) as error:
            raise FormatError(
                f"{path}: line {number + 1} is not a token and a rank: {error}", hint="download it again"
            ) from None
    if sorted(ranks) != list(range(len(ranks))) or not ranks:
        raise FormatError(f"{path}: the ranks are not 0, 1, 2 … without a gap", hint="download it again")
    return Tokenizer(tuple(ranks[rank] for rank in range(len(ranks))))
