"""What a command reads is never what it writes, nor is what is plainly something else: one look before any work.

Arguments say what they are by their type, ``Read`` or a ``Written…``; a command that writes more (a sidecar, files in a
folder) lists it in its ``more_outputs(args)``. A new argument of these types is covered as it is declared.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from whisq.cli.kinds import (
    CALIBRATION,
    IMATRIX,
    MODEL,
    PAGE,
    RECIPE,
    RESULTS,
    SENSITIVITY,
    SIDECAR,
    STEPS,
    TABLES,
    kind_of_file,
)
from whisq.errors import DataError, OutputError
from whisq.writing import check_writable

MOST_FILES = 1 << 17
"""Files looked at in a folder that is read; a data set beyond that is compared by place only."""
_BESIDE_A_MODEL = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
"""Files that a reader may open beside a weight file."""
STDOUT = "-"
_READ_WITH_OTHERS = (".pt", ".pth", ".ckpt", ".safetensors")


class Read(str):
    """An argument that names what is read: a file, a folder, a preset, or an id on the hub."""

    __slots__ = ()


class Clips(Read):
    """An argument that names clips: the files that a manifest names are read, too."""

    __slots__ = ()


class Written(str):
    """An argument that names a file to write; each subclass says what: its ``kinds`` are those of ``kinds.py``.

    An existing file of these kinds is replaced, one of another only with ``--overwrite``.
    """

    __slots__ = ()
    kinds: ClassVar[tuple[str, ...]] = ()
    takes_stdout: ClassVar[bool] = False


class WrittenModel(Written):
    """A model."""

    __slots__ = ()
    kinds = (MODEL,)


class WrittenRecipe(Written):
    """A recipe."""

    __slots__ = ()
    kinds = (RECIPE,)


class WrittenCalibration(Written):
    """A calibration."""

    __slots__ = ()
    kinds = (CALIBRATION,)


class WrittenImatrix(Written):
    """An imatrix."""

    __slots__ = ()
    kinds = (IMATRIX,)


class WrittenSensitivity(Written):
    """What a search measured."""

    __slots__ = ()
    kinds = (SENSITIVITY,)


class WrittenResults(Written):
    """An evaluation; ``-`` is stdout."""

    __slots__ = ()
    kinds = (RESULTS,)
    takes_stdout = True


class WrittenReport(Written):
    """A report, as a page or as tables."""

    __slots__ = ()
    kinds = (PAGE, TABLES)


class WrittenSidecar(Written):
    """What stands beside a model."""

    __slots__ = ()
    kinds = (SIDECAR,)


class WrittenSteps(Written):
    """What `whisq optimize` resumes by."""

    __slots__ = ()
    kinds = (STEPS,)


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is read, and the argument it belongs to."""

    path: Path
    argument: str


def check_here() -> None:
    """Raise ``OutputError`` in a folder that was removed: no relative path means anything there."""
    try:
        Path.cwd()
    except OSError as error:
        raise OutputError(
            f"the current folder cannot be used: {error.strerror}", hint="cd to one that exists"
        ) from None


def _refuse_no_names(given: Iterable[object]) -> None:
    # An empty word is a variable that was not set: as a path it would be the current folder.
    for item in given:
        if isinstance(item, Read | Written) and not item.strip():
            raise DataError("a file's name is empty", hint="is a variable in the command not set?")
        if isinstance(item, Written) and item == STDOUT and not item.takes_stdout:
            raise OutputError("-: whisq writes files, never to stdout", hint="name a file")


def check_paths(args: argparse.Namespace, more_outputs: Iterable[Written] = ()) -> None:
    """Raise ``OutputError`` where a command would write what it reads, one file twice, or what cannot be written.

    The same file is found by inode, by hard or symbolic link, and by a name that differs in case only. Nor is a file
    of another kind replaced, unless ``--overwrite`` says so.
    """
    given = [item for value in vars(args).values() for item in (value if isinstance(value, list) else [value])]
    _refuse_no_names(given)
    outputs = [*(item for item in given if isinstance(item, Written) and item != STDOUT), *more_outputs]
    _refuse_twice(outputs)
    existing = [output for output in outputs if Path(output).exists()]
    if existing:
        _refuse_what_is_read(given, existing)
    if getattr(args, "dry_run", False):
        outputs = [output for output in outputs if output != args.output]
    # Folders for what is made on the way are made when its turn comes.
    check_writable(*(output for output in outputs if output in given or Path(output).parent.is_dir()))
    if not getattr(args, "overwrite", False):
        _refuse_other_kinds(outputs)


def _refuse_what_is_read(given: Sequence[object], existing: Sequence[Written]) -> None:
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


def _refuse_other_kinds(outputs: Iterable[Written]) -> None:
    wrong = []
    for output in outputs:
        try:
            kind = kind_of_file(Path(output))
        except OSError:
            continue  # there is none, or it says nothing of itself
        if kind and kind not in output.kinds:
            wrong.append(f"{output}: is {kind}, and {' or '.join(output.kinds)} would take its place")
    if wrong:
        raise OutputError("; ".join(wrong), hint="give the output another name, or add --overwrite")


def _refuse_twice(outputs: Iterable[str]) -> None:
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
