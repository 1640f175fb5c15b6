"""Released Whispers by the short names that other tools give them: ``tiny.en``, ``large-v3``, ``turbo``."""

from __future__ import annotations

import re

_OPENAI = re.compile(
    r"(?:openai[-_])?(?:whisper[-_]?)?((?:tiny|base|small|medium)(?:\.en)?|large(?:-v[123])?|(?:large(?:-v3)?-)?turbo)"
)
_DISTILLED = re.compile(r"(?:distil-whisper[-_])?distil-(?:whisper-)?((?:small|medium)\.en|large-v(?:2|3|3\.5))")
_GGML = re.compile(r"ggml-[\w.\-]+\.bin")
_ON_THE_HUB = {
    # What openai-whisper and faster-whisper mean by "large"; the hub's whisper-large is the first version.
    "large": "large-v3",
    "large-v1": "large",
    "turbo": "large-v3-turbo",
    "large-turbo": "large-v3-turbo",
}


def released_id(name: str) -> str | None:
    """Return the id on the hub of a released model's short name, None for another text."""
    match = _OPENAI.fullmatch(name.lower())
    if match is not None:
        return f"openai/whisper-{_ON_THE_HUB.get(match[1], match[1])}"
    match = _DISTILLED.fullmatch(name.lower())
    return f"distil-whisper/distil-{match[1]}" if match is not None else None


def ggml_file(name: str) -> str | None:
    """Return where on the hub a file of whisper.cpp's may be that is named like this one, None for another name."""
    return f"ggerganov/whisper.cpp/{name}" if _GGML.fullmatch(name) and released_id(_size_of(name)) else None


def _size_of(name: str) -> str:
    return re.sub(r"-q\d_\d$", "", name.removeprefix("ggml-").removesuffix(".bin"))
