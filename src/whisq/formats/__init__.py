"""Model files to ``Model`` and back. One module per container; no arithmetic on weights here.

A format is one file in this package with two functions: ``detect(path) -> bool`` (cheap, never raises on content) and
``open(path) -> Model``. A container that can be written has a ``layout(model, outputs, provenance) -> Layout`` too.
List the module in ``_READERS``, and what is written in ``layout.CONTAINERS``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from whisq.errors import FormatError
from whisq.formats.cursor import NOT_WHISPER
from whisq.formats.layout import CONTAINERS, ContainerName, Layout, Output
from whisq.formats.released import ggml_file, released_id
from whisq.formats.vocabulary import check_complete
from whisq.model import Model
from whisq.whisper import N_FFT_BINS

_READERS = ("ggml", "gguf", "huggingface", "openai", "ctranslate2")
_ONLY_READ = frozenset({".safetensors", ".pt", ".pth", ".json", ".onnx", ".mlmodelc"})
_RELEASED_WIDTHS, _HEAD_WIDTH = (384, 512, 768, 1024, 1280), 64
_LARGEST_FILTER = 1000.0
"""Whisper's largest value is 0.026."""
_KNOWN_KINDS = (
    "name one of what whisq reads: whisper.cpp .bin (magic 0x67676d6c), GGUF, OpenAI .pt, a folder of Hugging Face"
    " (config.json beside model.safetensors) or of CTranslate2 (config.json beside model.bin)"
)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"whisq.formats.{name}")


def open_model(path: str | Path) -> Model:
    """Open a Whisper model of any known kind: a file or folder on disk, or an id on the Hugging Face hub.

    A released model's short name (``tiny.en``) stands for its id, where no file is named so. Raises ``FormatError``
    when it is missing, of no known kind, or damaged, and for an id that cannot be fetched.
    """
    where = Path(path)
    if where.exists():
        return _open_on_disk(where)
    hub = _module("hub")
    short = released_id(str(path))
    name = short or hub.id_at(str(path)) or str(path)
    if not hub.looks_like_id(name):
        raise FormatError(f"{where}: no such file or directory", hint=_meant(where))
    try:
        where, card = hub.download(name)
    except FormatError as error:
        raise (
            FormatError(f"{path}: no such file here; on the hub, {error}", hint=error.hint) if short else error
        ) from None
    model = _open_on_disk(where)
    model.metadata["hub"] = {**model.metadata.get("hub", {}), **card}
    if short:
        model.notes = (f"{path}: no such file here; {short} on the hub is taken", *model.notes)
    return model


def _meant(missing: Path) -> str:
    """Return what to name in place of a path that is not there: a file of nearly that name, one on the hub."""
    from difflib import get_close_matches

    if re.match(r"https?:/", str(missing)):
        return "download it first, or name a model on the hub: openai/whisper-small"
    folder = missing.parent
    if not folder.is_dir():
        return f"check the path: there is no folder {folder}"
    near = get_close_matches(missing.name, [entry.name for entry in folder.iterdir()], n=1, cutoff=0.75)
    if near:
        return f"check the path; did you mean {folder / near[0]}?"
    fetched = ggml_file(missing.name)
    return f"check the path, or name whisper.cpp's own file on the hub: {fetched}" if fetched else "check the path"


def _open_on_disk(where: Path) -> Model:
    _module("stand_ins").refuse_stand_in(where)
    for name in _READERS:
        reader = _module(name)
        if reader.detect(where):
            model: Model = reader.open(where)
            try:
                _check_widths(model)
                _check_filters(model)
            except BaseException:
                model.close()
                raise
            model.warnings += _strange_heads(model)
            return model
    refusals = _module("refusals")
    if where.is_dir():
        refusals.refuse_folder(where)
    else:
        refusals.refuse_file(where)
    raise FormatError(f"{where}: not a model that whisq knows" + _what_it_looks_like(where), hint=_KNOWN_KINDS)


def _check_widths(model: Model) -> None:
    """Raise ``FormatError`` for sizes that are each possible and together are not."""
    dims = model.dims
    wrong = [
        f"{side} of width {width} in {heads} heads"
        for side, width, heads in (
            ("an encoder", dims.n_audio_state, dims.n_audio_head),
            ("a decoder", dims.n_text_state, dims.n_text_head),
        )
        if width % heads
    ]
    if dims.n_audio_state != dims.n_text_state:
        wrong.append(f"an encoder of width {dims.n_audio_state} and a decoder of {dims.n_text_state}")
    if wrong:
        raise FormatError(f"{model.path}: has {', '.join(wrong)}", hint=NOT_WHISPER)


def _check_filters(model: Model) -> None:
    """Raise ``FormatError`` for mel filters with which no sound can be heard."""
    values = memoryview(model.mel_filters).cast("f")
    # NaN compares as false.
    wrong = next((number for number, value in enumerate(values) if not 0 <= value < _LARGEST_FILTER), None)
    if wrong is not None:
        raise FormatError(
            f"{model.path}: mel filter {wrong // N_FFT_BINS} holds {values[wrong]}, expected 0 to {_LARGEST_FILTER:g}",
            hint="download or convert the model again: the filters are damaged",
        )


def _strange_heads(model: Model) -> tuple[str, ...]:
    """Return a warning for heads that no model of this width has: a wrong count is loaded, and says nonsense."""
    sides = {"encoder": (model.dims.n_audio_state, model.dims.n_audio_head)}
    sides["decoder"] = (model.dims.n_text_state, model.dims.n_text_head)
    return tuple(
        f"{model.path}: the {side} of width {width} has {heads} heads, every Whisper of that width has"
        f" {width // _HEAD_WIDTH}"
        for side, (width, heads) in sides.items()
        if width in _RELEASED_WIDTHS and heads != width // _HEAD_WIDTH
    )


def _what_it_looks_like(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"; the folder holds {', '.join(names[:6]) or 'nothing'}{', …' if len(names) > 6 else ''}"
    if not path.is_file():
        return "; it is a pipe or a device: write it to a file first"
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}", hint="check its permissions") from None
    if not start:
        return "; it is empty"
    if start[8:9] == b"{" and path.suffix == ".calib":
        return "; it is a calibration, for --calibration"
    if start.removeprefix(b"\xef\xbb\xbf").isascii() and b"\0" not in start:
        line = start.decode("utf-8", "replace").lstrip("\ufeff").split("\n")[0].strip()
        return f"; it is text that begins {line[:24]!r}"
    return f"; it begins with the bytes {start[:4].hex(' ')}, expected 6c 6d 67 67 for a ggml file"


def container_of(path: Path, asked: str | None = None) -> ContainerName:
    """Return the container to write: what was asked for, else what OUTPUT's suffix says, else ``.bin``.

    Raises ``FormatError`` for a suffix of a container that is read only.
    """
    if asked is not None:
        named = next((name for name in CONTAINERS if name == asked), None)
        if named is None:
            raise FormatError(f"unknown output format {asked!r}", hint=f"use one of: {' '.join(CONTAINERS)}")
        return named
    suffix = path.suffix.lower()
    if suffix in _ONLY_READ:
        raise FormatError(f"{path}: {suffix} is not written", hint="name it .bin or .gguf, or say which: --format")
    return next((name for name, container in CONTAINERS.items() if container.suffix == suffix), "bin")


def layout_of(
    container: ContainerName, model: Model, outputs: Sequence[Output], provenance: dict[str, Any] | None = None
) -> Layout:
    """Return the layout of a file that holds these outputs; raises ``FormatError`` for a vocabulary with losses."""
    check_complete(model)
    result: Layout = _module(CONTAINERS[container].module).layout(model, outputs, provenance or {})
    return result
