"""Whisper's tensors among the arrays of a state dictionary, whoever named them.

A wrapper (DataParallel, torch.compile, Lightning, PEFT after merging) puts its own word in front of every name, some in
their midst; OpenAI and transformers name the tensors differently. What counts is how a name ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whisq.errors import FormatError
from whisq.formats.stored import StoredArray
from whisq.whisper import LARGEST_SIZES, TOKEN_EMBEDDING, Dimensions, canonical_name, expected_tensors, name_in_dialect

_WITHIN = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch puts into the midst of names where a part of a model was compiled or wrapped."""
_START = re.compile(r"(?<![^.])(?:encoder|decoder)\.")
_PROJECTION = re.compile(r"(?:.*\.)?proj_out\.weight")
_DISPENSABLE = re.compile(r"(?:.*\.)?(?:decoder\.mask|alignment_heads|_?mel_filters)")
_MARKS = ("encoder.conv1.weight", TOKEN_EMBEDDING, "decoder.positional_embedding")
"""A model has these, whatever is missing of it."""
_HEAD_WIDTH = 64
"""Of every released Whisper."""


@dataclass(frozen=True, slots=True)
class Found:
    """Whisper's tensors by canonical name. ``prefix`` stood before their names, ``others`` are arrays of no use.

    ``projection`` is the output matrix where it is stored beside the embedding.
    """

    arrays: dict[str, StoredArray]
    prefix: str = ""
    projection: StoredArray | None = None
    others: tuple[str, ...] = ()
    in_transformers_names: bool = False

    def source_name(self, canonical: str) -> str:
        """Return what a tensor is or would be called in this file."""
        if canonical in self.arrays:
            return self.arrays[canonical].name
        if not self.in_transformers_names:
            return self.prefix + canonical
        return self.prefix + name_in_dialect(canonical, "huggingface").removeprefix("model.")

    def notes(self, path: Path) -> list[str]:
        """Return what to say of the names; nothing of transformers' own classes."""
        names = [array.name for array in self.arrays.values()]
        odd = next((name for name in names if _WITHIN.search(name)), names[0] if names else "")
        start = _START.search(odd)
        shown = odd[: start.start()] if start is not None else ""
        if shown in ("", "model."):
            shown = "".join(_WITHIN.findall(odd)[:1])
        return [f"{path}: {shown!r} is left out of the names of the tensors: a wrapper put it there"] if shown else []

    def left_over(self, dims: Dimensions) -> list[str]:
        """Return the names of arrays of which a model of these sizes makes no use."""
        expected = expected_tensors(dims)
        beyond = (array.name for canonical, array in self.arrays.items() if canonical not in expected)
        return [*beyond, *self.others]


@dataclass(slots=True)
class _Group:
    """All that stands behind one prefix."""

    arrays: dict[str, StoredArray] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    n_of_transformers: int = 0


def find_whisper(path: Path, arrays: Mapping[str, StoredArray]) -> Found:
    """Return Whisper's tensors among arrays; none where no name is Whisper's.

    Raises ``FormatError`` for arrays of two whole models, and for two arrays that are the same tensor.
    """
    groups: dict[str, _Group] = {}
    projections, rest = [], []
    for name, array in arrays.items():
        split = _split(name)
        if split is not None:
            prefix, canonical = split
            group = groups.setdefault(prefix, _Group())
            if canonical in group.arrays:
                group.twice.append(name)
            group.arrays[canonical] = array
            group.n_of_transformers += ".layers." in name
        elif _PROJECTION.fullmatch(name):
            projections.append(array)
        elif not _DISPENSABLE.fullmatch(name):
            rest.append(name)
    if not groups:
        return Found({}, others=tuple(arrays))
    _refuse_two_models(path, groups)
    prefix = max(groups, key=lambda key: len(groups[key].arrays))
    group = groups.pop(prefix)
    if group.twice:
        raise FormatError(
            f"{path}: {len(group.twice)} tensors are there twice but for a wrapper's word, the first is"
            f" {group.twice[0]}",
            hint="save the state dictionary of the model itself, not that of its wrapper",
        )
    mine = {f"{base}proj_out.weight" for base in (prefix, prefix.removesuffix("model."))}
    projection = next((array for array in projections if _WITHIN.sub("", array.name) in mine), None)
    rest += [array.name for other in groups.values() for array in other.arrays.values()]
    rest += [array.name for array in projections if array is not projection]
    if projection is not None and TOKEN_EMBEDDING not in group.arrays:
        group.arrays[TOKEN_EMBEDDING], projection = projection, None
    return Found(group.arrays, prefix, projection, tuple(rest), group.n_of_transformers > 0)


def is_whispers(name: str) -> bool:
    """Return whether an array's name is that of one of Whisper's tensors, behind whatever prefix."""
    return _split(name) is not None or _PROJECTION.fullmatch(name) is not None


def _split(name: str) -> tuple[str, str] | None:
    """Return what stands before a tensor's name, and the canonical name; None for an array of another kind."""
    plain = _WITHIN.sub("", name)
    for match in _START.finditer(plain):
        canonical = canonical_name(plain[match.start() :])
        if canonical is not None:
            return plain[: match.start()], canonical
    return None


def _refuse_two_models(path: Path, groups: Mapping[str, _Group]) -> None:
    whole = [prefix for prefix, group in groups.items() if all(mark in group.arrays for mark in _MARKS)]
    if len(whole) > 1:
        raise FormatError(
            f"{path}: holds {len(whole)} models, whose names begin with {' and '.join(map(repr, whole))}",
            hint="save the one that is wanted alone: torch.save(model.state_dict(), path)",
        )


def dimensions_of(path: Path, found: Found) -> Dimensions:
    """Return the sizes that the shapes tell; heads are 64 wide, as in every released Whisper.

    Raises ``FormatError`` where a tensor that tells one is missing or of another shape than Whisper's.
    """
    if not found.arrays:
        raise FormatError(
            f"{path}: no tensor in it has a name of Whisper's; it has {', '.join(found.others[:3]) or 'none'}",
            hint="name a Whisper model: whisq quantizes no others",
        )

    def shape(canonical: str, rank: int) -> Sequence[int]:
        array = found.arrays.get(canonical)
        if array is None or len(array.shape) != rank:
            what = "is missing" if array is None else f"has shape {list(array.shape)}"
            raise FormatError(
                f"{path}: {found.source_name(canonical)} {what}",
                hint="download or save the model again: it is incomplete",
            )
        return array.shape

    def n_layers(stack: str) -> int:
        return 1 + max(
            (int(name.split(".")[2]) for name in found.arrays if name.startswith(f"{stack}.blocks.")), default=0
        )

    n_audio_state, n_mels, _ = shape("encoder.conv1.weight", 3)
    n_audio_ctx, _ = shape("encoder.positional_embedding", 2)
    n_text_ctx, n_text_state = shape("decoder.positional_embedding", 2)
    n_vocab, _ = shape(TOKEN_EMBEDDING, 2)
    sizes = {
        "n_vocab": n_vocab,
        "n_audio_ctx": n_audio_ctx,
        "n_audio_state": n_audio_state,
        "n_audio_head": n_audio_state // _HEAD_WIDTH,
        "n_audio_layer": n_layers("encoder"),
        "n_text_ctx": n_text_ctx,
        "n_text_state": n_text_state,
        "n_text_head": n_text_state // _HEAD_WIDTH,
        "n_text_layer": n_layers("decoder"),
        "n_mels": n_mels,
    }
    wrong = [f"{name} = {size}" for name, size in sizes.items() if not 0 < size <= LARGEST_SIZES[name]]
    if wrong or n_audio_state % _HEAD_WIDTH or n_text_state % _HEAD_WIDTH:
        raise FormatError(
            f"{path}: the shapes are not those of a Whisper with heads of {_HEAD_WIDTH}:"
            f" {', '.join(wrong) or f'width {n_audio_state}'}",
            hint="put config.json of the model that this one was trained from beside the file",
        )
    return Dimensions(**sizes)
