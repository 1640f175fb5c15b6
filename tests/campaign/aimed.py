"""Outputs aimed at what the same command reads: refused with exit 1, and not a byte has changed."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.campaign.commands import (
    Argument,
    arguments_of,
    files_of,
    more_outputs_of,
    sources_of,
    words_for,
    write_sources,
    writing_commands,
)
from whisq.cli import main

_REASONS = ("is the input itself", "is read by this command", "one file, for two outputs")


def aims(folder: Path) -> list[tuple[Argument, Path, Argument, Path]]:
    """Return every output of every command with every source, and every file that belongs to it."""
    found = []
    for command in writing_commands():
        arguments = arguments_of(command)
        for output in (argument for argument in arguments if argument.writes):
            for reader in (argument for argument in arguments if argument.reads):
                for source in sources_of(reader, folder):
                    found += [(output, file, reader, source) for file in files_of(reader, source)]
    return found


def tries(random: Random, folder: Path) -> Iterator[str | None]:
    """Aim every output at every input, under one of the names that the input has."""
    write_sources(folder)
    aimed = aims(folder)
    random.shuffle(aimed)
    for number, (output, file, reader, source) in enumerate(aimed):
        name = _another_name(random, file, folder / f"alias-{number}")
        words = words_for(output.command, {output.action.dest: name, reader.action.dest: source}, folder)
        yield wrong_with(words, folder)
        name.unlink() if name.name.startswith("alias-") else None
    yield from _on_more_outputs(random, folder)


def _on_more_outputs(random: Random, folder: Path) -> Iterator[str | None]:
    """Have what a command writes beside its outputs be links to what it reads."""
    for command in writing_commands():
        readers = [argument for argument in arguments_of(command) if argument.reads]
        for reader in readers:
            source = random.choice(sources_of(reader, folder))
            words, outputs = more_outputs_of(command, {reader.action.dest: source}, folder)
            for output in outputs:
                output.parent.mkdir(exist_ok=True)
                output.symlink_to(random.choice(files_of(reader, source)))
                yield wrong_with(words, folder)
                output.unlink()


def _another_name(random: Random, file: Path, alias: Path) -> Path:
    """Return the file itself, a way round to it, or a link to it."""
    how = random.choice(("itself", "round", "symbolic", "hard"))
    if how == "round":
        return file.parent / ".." / file.parent.name / file.name
    if how == "symbolic":
        alias.symlink_to(file)
        return alias
    if how == "hard":
        os.link(file, alias)
        return alias
    return file


def contents(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return all files of a folder with what changes when they are written: inode, size and time."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def wrong_with(words: list[str], folder: Path) -> str | None:
    """Run a command that must be refused; returns what it did instead."""
    before = contents(folder)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    shown = " ".join(words)
    after = contents(folder)
    if after != before:
        lost = [str(path) for path in before if after.get(path) != before[path]]
        return f"{shown}: changed {lost or sorted(map(str, set(after) - set(before)))}, exit {code}"
    if code != 1 or not any(reason in said.getvalue() for reason in _REASONS):
        return f"{shown}: exit {code}, said {said.getvalue()!r}"
    return None
