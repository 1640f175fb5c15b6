"""The output matrix is the token embedding in every runtime: a model that stores both must store the same values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whisq.errors import FormatError
from whisq.formats.state_names import Found
from whisq.formats.stored import StoredArray, values_of
from whisq.source_file import SourceFile
from whisq.types import BF16, F16
from whisq.whisper import TOKEN_EMBEDDING

_COMPARED_WEIGHTS = 1 << 19
_ROUNDING = {F16: (2.0**-10, 2.0**-24), BF16: (2.0**-7, 2.0**-133)}
"""Relative and absolute: as far as a value moves when it is cut to this type instead of rounded."""


def check_tied(path: Path, found: Found, files: Sequence[SourceFile]) -> None:
    """Raise ``FormatError`` for an output projection that is not the embedding, up to the rounding of their types."""
    if found.projection is None:
        return
    projection, embedding = found.projection, found.arrays[TOKEN_EMBEDDING]
    if not _equal(projection, embedding, files):
        raise FormatError(
            f"{path}: {projection.name} differs from {embedding.name}, and no runtime keeps them apart",
            hint="give up the projection by tying the two: model.config.tie_word_embeddings = True;"
            " model.tie_weights(); model.save_pretrained(folder)",
        )


def _equal(a: StoredArray, b: StoredArray, files: Sequence[SourceFile]) -> bool:
    import numpy as np

    if a.shape != b.shape or len(a.shape) != 2 or a.type is None or b.type is None:
        return False
    relative = absolute = 0.0
    if a.element != b.element:
        coarsest = [_ROUNDING[kind] for kind in (a.type, b.type) if kind in _ROUNDING]
        relative, absolute = max(coarsest, default=(2.0**-23, 2.0**-149))
    first, second = files[a.location.file], files[b.location.file]
    step = max(1, _COMPARED_WEIGHTS // max(1, a.shape[1]))
    for start in range(0, a.shape[0], step):
        stop = min(start + step, a.shape[0])
        mine, theirs = values_of(first, a, start, stop), values_of(second, b, start, stop)
        if not np.allclose(mine, theirs, relative, absolute, equal_nan=True):
            return False
    return True
