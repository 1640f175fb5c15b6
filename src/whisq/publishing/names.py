"""What files are called: as the users of each runtime look for them, and never as another Whisper is called.

whisper.cpp's files are ``ggml-NAME-q5_1.bin`` (its ``models/README.md``), transcribe.cpp's ``whisper-NAME-Q5_1.gguf``
(its README's examples).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.errors import PlanError
from whisq.formats.gguf_metadata import variant_of_sizes

if TYPE_CHECKING:
    from whisq.formats.layout import ContainerName
    from whisq.model import Model

MIX = "mix-"
RELEASED_BY = ("openai", "distil-whisper", "systran", "ggerganov", "ggml-org")
"""Owners on the hub whose repositories have the released weights under the released names."""
_SAYS_NOTHING = re.compile(
    r"(ggml-)?(models?|outputs?|final|best|last|weights|export|snapshots?|[0-9a-f]{40}|checkpoint.*)"
)
_PRECISION = re.compile(r"[-_.](f16|fp16|bf16|f32|fp32|float16|float32)$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SIZES_OF = {
    **{
        f"{size}{english}": f"whisper-{size}{english}"
        for size in ("tiny", "base", "small", "medium")
        for english in ("", ".en")
    },
    **dict.fromkeys(("large", "large-v1", "large-v2"), "whisper-large"),
    "large-v3": "whisper-large-v3",
    **dict.fromkeys(("turbo", "large-v3-turbo"), "whisper-large-v3-turbo"),
    **{f"distil-{size}.en": f"distil-{size}.en" for size in ("small", "medium")},
    "distil-large-v2": "distil-large-v2",
    **dict.fromkeys(("distil-large-v3", "distil-large-v3.5"), "distil-large-v3"),
}
"""Every name that belongs to somebody's released weights, and what ``variant_of_sizes`` says of their sizes."""


def model_name(model: Model, asked: str | None = None) -> str:
    """Return the NAME in the files' names: what was asked for, else what the source is called.

    Raises ``PlanError`` for a source whose name says nothing (``model.bin``, ``checkpoint-400``), for a name that is
    none for a file, and for that of a released Whisper where these are other weights, by their sizes or their owner.
    """
    name = asked if asked is not None else _called(model)
    shortened = name.removeprefix("whisper-")
    if not _NAME.fullmatch(shortened):
        raise PlanError(f"{name!r} is no name for a file", hint="use letters, digits, dots and dashes: --name small-hi")
    _refuse_another_whisper(model, shortened)
    return shortened


def file_name(name: str, edition: str, container: ContainerName) -> str:
    """Return what the file of an edition (a type, or ``mix-NAME``) is called."""
    if container == "gguf":
        kind = edition if edition.startswith(MIX) else edition.upper()
        return f"whisper-{name}-{kind}.gguf"
    return f"ggml-{name}-{edition}.bin"


def hub_id(model: Model) -> str | None:
    """Return the model's id on the hub where it was fetched from there."""
    stated = model.metadata.get("hub")
    name = stated.get("name") if isinstance(stated, Mapping) else None
    return name if isinstance(name, str) and "/" in name else None


def _called(model: Model) -> str:
    name = (hub_id(model) or "").rpartition("/")[2]
    if not name:
        path = Path(model.path).resolve()
        name = path.name if path.is_dir() else path.stem
        name = _PRECISION.sub("", name).removeprefix("ggml-")
        if _SAYS_NOTHING.fullmatch(name.lower()):
            likely = variant_of_sizes(model.dims).removeprefix("whisper-")
            raise PlanError(
                f"{model.path}: its name, {path.name}, says nothing of the model that people could look for",
                hint=f"name it: --name {likely}-mine (its sizes are those of {likely})",
            )
    return name.removeprefix("faster-").lower().replace(" ", "-")


def _refuse_another_whisper(model: Model, name: str) -> None:
    theirs = _SIZES_OF.get(name.lower())
    if theirs is None:
        return
    sizes = variant_of_sizes(model.dims)
    mine = sizes.removeprefix("whisper-")
    if sizes != theirs:
        raise PlanError(
            f"{model.path}: {name} is the name of a released Whisper of other sizes; these are those of {mine}",
            hint=f"give it one of its own: --name {mine}-mine",
        )
    owner = (hub_id(model) or "").partition("/")[0].lower()
    if owner and owner not in RELEASED_BY:
        raise PlanError(
            f"{model.path}: {name} is the name of OpenAI's weights, and these are {owner}'s",
            hint=f"give it one of its own: --name {name}-{owner}",
        )
