"""What a command reads is never what it writes: one look at all its paths, before any work.

Arguments say what they are by their type, ``Read`` or ``Written``; a command that writes more (a sidecar, files in a
folder) lists it in its ``more_outputs(args)``. A new argument of these types is covered as it is declared.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from whisq.errors import DataError, OutputError

MOST_FILES = 1 << 17
"""Files looked at in a folder that is read; a data set beyond that is compared by place only."""
_BESIDE_A_MODEL = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
"""Files that a reader may open beside a weight file."""
_READ_WITH_OTHERS = (".pt", ".pth", ".ckpt", ".safetensors")


class Read(str):
    """An argument that names what is read: a file, a folder, a preset, or an id on the hub."""

    __slots__ = ()


class Clips(Read):
    """An argument that names clips: the files that a manifest names are read, too."""

    __slots__ = ()


class Written(str):
    """An argument that names a file to write."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is read, and the argument it belongs to."""

    path: Path
    argument: str


def check_paths(args: argparse.Namespace, more_outputs: Iterable[Path] = ()) -> None:
    """Raise ``OutputError`` where a command would write what it reads, or one file twice.

    The same file is found by inode, by hard or symbolic link, and by a name that differs in case only.
    """
    given = [item for value in vars(args).values() for item in (value if isinstance(value, list) else [value])]
    outputs = [*(str(item) for item in given if isinstance(item, Written)), *map(str, more_outputs)]
    _refuse_twice(outputs)
    existing = [output for output in outputs if Path(output).exists()]
    if not existing:
        return
    for argument in (item for item in given if isinstance(item, Read) and Path(item).exists()):
        for output in existing:
            if Path(output).samefile(argument):
                raise OutputError(f"{output}: is the input itself", hint="give the output another name")
    for file in _files_read(given):
        for output in existing:
            if _is_same(output, file.path):
                raise OutputError(
                    f"{output}: is read by this command: it is {file.path}, which belongs to {file.argument}",
                    hint="give the output another name",
                )


def _refuse_twice(outputs: list[str]) -> None:
    seen: dict[str, str] = {}
    for output in outputs:
        # On some file systems names that differ in case are one file, and the file is not there yet to be asked.
        place = str(Path(output).resolve()).casefold()
        if place in seen:
            raise OutputError(f"{seen[place]} and {output}: one file, for two outputs", hint="name two files")
        seen[place] = output


def _files_read(given: Iterable[object]) -> Iterator[_File]:
    for item in given:
        if not isinstance(item, Read):
            continue
        path, argument = Path(item), str(item)
        if path.is_dir():
            yield from (_File(file, argument) for file in _inside(path))
        elif path.is_file():
            yield _File(Path(f"{path}.json"), argument)  # a model's sidecar
            if path.suffix.lower() in _READ_WITH_OTHERS:
                yield from (_File(path.parent / name, argument) for name in _BESIDE_A_MODEL)
            if isinstance(item, Clips):
                yield from (_File(file, argument) for file in _named_in(path))


def _inside(folder: Path) -> Iterator[Path]:
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            yield Path(place) / name
            count += 1
            if count == MOST_FILES:
                return


def _named_in(manifest: Path) -> Iterator[Path]:
    from whisq.clips.datasets import find_clips

    try:
        _, clips, _ = find_clips(manifest, need_text=False)
    except DataError:
        return  # the command itself says what is wrong with it
    yield from (clip.path for clip in clips)


def _is_same(output: str, file: Path) -> bool:
    try:
        return Path(output).samefile(file)
    except OSError:
        return False
