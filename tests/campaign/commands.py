"""The commands' own argument tables: what each reads and writes, and words with which it gets as far as its paths.

Attacks are made of these, so that a new command or option is attacked on the day it is added.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_ctranslate2, write_huggingface, write_model, write_openai
from tests.support.models import WIDE, tiny_weights
from whisq.cli import COMMANDS
from whisq.cli.paths import Clips, Read, Written

_VALUES = {"type": "q4_0", "runtime": "transcribe.cpp"}
_MODELS = ("model", "input", "source", "reference", "candidates")


@dataclass(frozen=True)
class Argument:
    """One argument of a command, as argparse has it."""

    command: str
    action: argparse.Action

    @property
    def reads(self) -> bool:
        """Whether it names what is read."""
        return isinstance(self.action.type, type) and issubclass(self.action.type, Read)

    @property
    def writes(self) -> bool:
        """Whether it names a file to write."""
        return isinstance(self.action.type, type) and issubclass(self.action.type, Written)

    @property
    def flag(self) -> str:
        """Its longest name, nothing for one that goes by its place."""
        return max(self.action.option_strings, key=len, default="")

    @property
    def takes_clips(self) -> bool:
        """Whether it names clips."""
        return self.action.type is Clips

    @property
    def takes_a_model(self) -> bool:
        """Whether it names a model."""
        return self.reads and self.action.dest in _MODELS

    def words(self, value: object) -> list[str]:
        """Return what gives it a value."""
        return [self.flag, str(value)] if self.flag else [str(value)]


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return a command's arguments."""
    parser = argparse.ArgumentParser()
    import_module(f"whisq.cli.{command}").add_arguments(parser)
    return parser


def arguments_of(command: str) -> list[Argument]:
    """Return what a command takes, but for its help."""
    return [Argument(command, action) for action in parser_of(command)._actions if action.dest != "help"]


def writing_commands() -> list[str]:
    """Return the commands that write files which their arguments name."""
    return [command for command in COMMANDS if any(argument.writes for argument in arguments_of(command))]


def _needed(command: str) -> Iterator[Argument]:
    parser = parser_of(command)
    for action in parser._actions:
        argument = Argument(command, action)
        if action.required or (not action.option_strings and (argument.reads or argument.writes)):
            yield argument
    for group in parser._mutually_exclusive_groups:
        if group.required:
            yield Argument(command, group._group_actions[0])


def words_for(command: str, given: dict[str, object], folder: Path) -> list[str]:
    """Return a whole command line with these arguments, by ``dest``, and every other that it cannot do without."""
    arguments = {argument.action.dest: argument for argument in arguments_of(command)}
    needed = {argument.action.dest: argument for argument in _needed(command)}
    placed, options = [], []
    for name in (name for name in arguments if name in given or name in needed):
        argument = arguments[name]
        words = argument.words(given[name] if name in given else _value(argument, folder))
        (options if argument.flag else placed).extend(words)
    return [command, *placed, *options]


def _value(argument: Argument, folder: Path) -> object:
    if argument.writes:
        return folder / f"new-{argument.action.dest}.bin"
    if argument.takes_clips:
        return folder / "clips.csv"
    if argument.takes_a_model:
        return folder / "in.bin"
    if argument.reads:
        return folder / "a.calib"
    if argument.action.choices:
        return next(iter(argument.action.choices))
    return _VALUES.get(argument.action.dest, "9")


def write_sources(folder: Path) -> None:
    """Write what commands read: models in every container, a calibration, a recipe, clips."""
    weights = tiny_weights()
    write_model(folder / "in.bin", WIDE)
    (folder / "in.bin.json").write_text('{"version": "0"}')
    write_huggingface(folder / "hf", weights)
    write_huggingface(folder / "sharded", weights, shards=3)
    write_ctranslate2(folder / "ct2", weights)
    (folder / "openai").mkdir()
    write_openai(folder / "openai" / "in.pt", weights)
    write_calibration(folder / "a.calib")
    (folder / "mine.toml").write_text("[recipe]\ndefault = 'q4_0'\n")
    (folder / "results.json").write_text("{}")
    (folder / "audio").mkdir()
    for name in ("one", "two"):
        (folder / "audio" / f"{name}.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
        (folder / "audio" / f"{name}.txt").write_text("hello\n")
    (folder / "clips.csv").write_text("path,text\naudio/one.wav,hello\naudio/two.wav,hello\n")


def sources_of(argument: Argument, folder: Path) -> list[Path]:
    """Return what an argument that reads can be given."""
    if argument.takes_clips:
        return [folder / "clips.csv", folder / "audio"]
    if argument.takes_a_model:
        return [folder / name for name in ("in.bin", "hf", "sharded", "ct2", "openai/in.pt")]
    return [folder / name for name in ("a.calib", "mine.toml", "results.json")]


def files_of(argument: Argument, source: Path) -> list[Path]:
    """Return the files that a command reads where this argument names this source."""
    files = [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]
    if argument.takes_clips and source.is_file():
        files += sorted((source.parent / "audio").glob("*.wav"))
    if argument.takes_a_model and source.is_file():
        files += [path for path in sorted(source.parent.iterdir()) if source.suffix == ".pt" and path != source]
        files += [Path(f"{source}.json")] if Path(f"{source}.json").exists() else []
    return files


def more_outputs_of(command: str, given: dict[str, object], folder: Path) -> tuple[list[str], list[Path]]:
    """Return words with which a command writes all that it can beside its outputs, and where that is."""
    switches = [
        argument for argument in arguments_of(command) if isinstance(argument.action, argparse._StoreTrueAction)
    ]
    words = words_for(command, given, folder)
    module = import_module(f"whisq.cli.{command}")
    if not hasattr(module, "more_outputs"):
        return words, []
    found = module.more_outputs(parser_of(command).parse_args(words[1:]))
    for switch in switches:
        outputs = module.more_outputs(parser_of(command).parse_args([*words[1:], switch.flag]))
        if len(outputs) > len(found):
            words, found = [*words, switch.flag], outputs
    return words, [Path(output) for output in found]
