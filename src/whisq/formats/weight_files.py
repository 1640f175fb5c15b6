"""Which files of a transformers folder hold the weights, and all arrays of them by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisq.errors import FormatError
from whisq.formats import safetensors, torch_zip
from whisq.formats.checkpoint import state_of
from whisq.formats.stored import StoredArray
from whisq.source_file import SourceFile

_EXACT = (safetensors.SINGLE, safetensors.INDEX, torch_zip.SINGLE, torch_zip.INDEX)
"""In the order in which they are taken: one file before shards, which often are of another precision."""
_VARIANT = re.compile(
    r"model\.(?P<a>[\w-]+)\.safetensors|pytorch_model\.(?P<b>[\w-]+)\.bin"
    r"|model\.safetensors\.index\.(?P<c>[\w-]+)\.json|pytorch_model\.bin\.index\.(?P<d>[\w-]+)\.json"
)
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}\.(?:safetensors|bin)")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """A file with weights, or the index of several. ``note`` says what was taken where that is not obvious."""

    path: Path
    note: str = ""


@dataclass(frozen=True, slots=True)
class ReadWeights:
    """All arrays by name, what to say of what was left out, and of what was passed over beside the weights."""

    arrays: dict[str, StoredArray]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights under a name of transformers'."""
    if any((folder / name).is_file() for name in _EXACT):
        return True
    try:
        return any(_VARIANT.fullmatch(entry.name) for entry in folder.iterdir())
    except OSError:
        return False


def weights_in(folder: Path) -> WeightFiles | None:
    """Return the weights of a folder, None where it has none under a name of transformers'.

    Raises ``FormatError`` for several variants, of which none is the plain one.
    """
    for name in _EXACT:
        if (folder / name).is_file():
            return WeightFiles(folder / name)
    variant = variant_among(str(folder), [entry.name for entry in folder.iterdir() if entry.is_file()])
    if variant is None:
        return None
    word, name = variant
    return WeightFiles(folder / name, f"{folder}: the variant {word} is taken: {name}")


def variant_among(place: str, names: Iterable[str]) -> tuple[str, str] | None:
    """Return the variant that there is among files' names, and its file or index; None where there is none.

    Raises ``FormatError`` for several; ``place`` is what a file's name is written behind.
    """
    variants: dict[str, str] = {}
    for name in sorted(names):
        match = _VARIANT.fullmatch(name)
        if match is not None:
            variants.setdefault(next(word for word in match.groups() if word), name)
    if len(variants) > 1:
        raise FormatError(
            f"{place}: has weights of several variants, {', '.join(variants)}, and none without",
            hint=f"name one: {place}/{next(iter(variants.values()))}",
        )
    return next(iter(variants.items()), None)


def weights_named(path: Path) -> WeightFiles:
    """Return the weights that a file of a transformers folder stands for: its own, or those of all its shards."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return WeightFiles(path)
    for index in sorted(path.parent.glob("*.index*.json")):
        shards, _ = safetensors.shards_of(path.parent, index.name)
        if path in shards:
            return WeightFiles(index, f"{path}: is one of {len(shards)} shards; all that {index.name} names are read")
    raise FormatError(
        f"{path}: is one of several shards, and no index beside it names them",
        hint=f"download model.safetensors.index.json and the other shards into {path.parent}",
    )


def read_weights(weights: WeightFiles, files: list[SourceFile]) -> ReadWeights:
    """Return all arrays of the files; opens each into ``files``."""
    path = weights.path
    if path.suffix == ".json":
        return _sharded(path, files)
    files.append(SourceFile(path))
    return _arrays(files[-1], 0)


def _arrays(file: SourceFile, number: int) -> ReadWeights:
    if file.path.suffix == ".safetensors":
        return ReadWeights(safetensors.read_arrays(file, number))
    state = state_of(file.path, torch_zip.read_checkpoint(file, number))
    return ReadWeights(state.arrays, tuple(state.warnings(file.path)), tuple(state.notes(file.path)))


def _sharded(index: Path, files: list[SourceFile]) -> ReadWeights:
    shards, weight_map = safetensors.shards_of(index.parent, index.name)
    arrays: dict[str, StoredArray] = {}
    warnings: list[str] = []
    notes: list[str] = []
    for number, shard in enumerate(shards):
        files.append(SourceFile(shard))
        read = _arrays(files[-1], number)
        found = read.arrays
        warnings += read.warnings
        notes += read.notes
        twice = [name for name in found if name in arrays or weight_map.get(name, shard.name) != shard.name]
        if twice:
            raise FormatError(
                f"{shard}: holds {twice[0]}, which {index.name} places in {weight_map.get(twice[0], 'no other shard')},"
                " or which another shard holds, too",
                hint="download index and shards again: they are of different versions",
            )
        absent = _absent(weight_map, shard.name, found)
        if absent:
            raise FormatError(
                f"{shard}: lacks {len(absent)} tensors that {index.name} places there, the first is {absent[0]}",
                hint="download index and shards again: they are of different versions, or the shard is incomplete",
            )
        arrays.update(found)
    return ReadWeights(arrays, tuple(warnings), tuple(notes))


def _absent(weight_map: dict[str, str], shard: str, found: dict[str, StoredArray]) -> Sequence[str]:
    return [name for name, home in weight_map.items() if home == shard and name not in found]
