"""OpenAI's own checkpoints, ``.pt``: a torch zip of ``{"dims": {…}, "model_state_dict": {…}}``; and those of trainers.

Source: openai/whisper, ``whisper/__init__.py`` and ``model.py``. A trainer's has no ``dims``, and names in OpenAI's or
transformers' way behind its own prefix; then shapes tell the sizes. Neither has a vocabulary. Whisper has two, one for
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
from whisq.formats.agreement import check_agreement
from whisq.formats.checkpoint import state_of
from whisq.formats.cursor import DAMAGED, first_bytes
from whisq.formats.huggingface import stated_dimensions
from whisq.formats.mel import mel_filters
from whisq.formats.refusals import refuse_unread
from whisq.formats.state_names import dimensions_of, find_whisper
from whisq.formats.stored import check_layers, left_out, refs_of
from whisq.formats.tied import check_tied
from whisq.formats.tokenizer_json import read_json, read_text, read_tokenizer
from whisq.formats.vocabulary import check_rows
from whisq.model import Model, Tokenizer
from whisq.source_file import SourceFile
from whisq.whisper import LARGEST_SIZES, Dimensions

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
_MULTILINGUAL_ID, _ENGLISH_ID = "openai/whisper-tiny", "openai/whisper-tiny.en"


def detect(path: Path) -> bool:
    """Return whether this is a file that ``torch.save`` may have written."""
    start = first_bytes(path, 4) or b""
    return start == torch_zip.MAGIC or (path.suffix in _SUFFIXES and start[:1] == torch_zip.PICKLE_MAGIC)


def open(path: Path) -> Model:
    """Open a file that ``torch.save`` wrote: OpenAI's checkpoint or a trainer's, with Whisper's weights in it.

    Raises ``FormatError`` for anything else, and when no vocabulary is found.
    """
    file = SourceFile(path)
    try:
        saved = torch_zip.read_checkpoint(file, 0)
        stated = _stated_dimensions(path, saved.value)
        state = state_of(path, saved)
        found = find_whisper(path, state.arrays)
        refuse_unread(path, found, state.arrays, {})
        config = {} if stated is not None else _config_beside(path)
        dims = stated or (
            stated_dimensions(path.parent / "config.json", config) if config else dimensions_of(path, found)
        )
        tensors = refs_of(path, found.arrays, dims, found.source_name, [file])
        check_tied(path, found, [file])
        ignored = found.left_over(dims)
        check_layers(path, ignored, dims)
        tokenizer, where = _vocabulary(path, dims)
        generation = _json_beside(path, "generation_config.json")
        check_agreement(path, tokenizer, dims, {"config.json": config, "generation_config.json": generation})
    except BaseException:
        file.close()
        raise
    notes = [*found.notes(path), *state.notes(path)]
    if state.place not in ("", "model_state_dict"):
        notes.append(f"{path}: the weights are those under {state.place!r}")
    if stated is None and not config:
        notes.append(f"{path}: states no sizes; they are taken from the shapes, with heads of 64")
    if where:
        notes.append(f"{path}: has no vocabulary; it was taken from {where}")
    return Model(
        path=path,
        format="openai",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=mel_filters(dims.n_mels),
        tensors=tensors,
        files=(file,),
        metadata={"config": config, "generation_config": generation} if config else {},
        warnings=(*state.warnings(path), *left_out(path, ignored)),
        notes=tuple(notes),
    )


def _config_beside(path: Path) -> dict[str, Any]:
    """Return transformers' description of a Whisper beside a file, nothing where there is none."""
    config = _json_beside(path, "config.json")
    return config if config.get("model_type") == "whisper" else {}


def _json_beside(path: Path, name: str) -> dict[str, Any]:
    beside = path.parent / name
    document = read_json(beside) if beside.is_file() else None
    return document if isinstance(document, dict) else {}


def _stated_dimensions(path: Path, saved: Any) -> Dimensions | None:
    """Return the sizes that OpenAI's checkpoints state, None where there are none."""
    stated = saved.get("dims") if isinstance(saved, dict) else None
    if not isinstance(stated, dict):
        return None
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


def _vocabulary(path: Path, dims: Dimensions) -> tuple[Tokenizer, str]:
    """Return a vocabulary that fits, and where it is from when that is not beside the file."""
    name = "multilingual.tiktoken" if dims.is_multilingual else "gpt2.tiktoken"
    beside = path.absolute().parent
    for home in (beside, beside.parent):
        if (home / "tokenizer.json").is_file():
            tokenizer = read_tokenizer(home / "tokenizer.json")
            check_rows(path, tokenizer, dims)
            return tokenizer, "" if home == beside else str(home)
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
