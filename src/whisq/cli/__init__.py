"""The command line: ``whisq COMMAND …`` and the plain ``quantize …``.

One file per command, each with ``add_arguments(parser)`` and ``run(args, console) -> exit code``, with
``more_outputs(args)`` where it writes more than its arguments name, and ``check_words(args)`` where their order can be
mistaken; its help line is in ``COMMANDS``. Only the command that was asked for is imported. Exit code 0 is fine, 1 a
user error, 2 an internal error, 3 that a condition of ``--fail-if`` holds, 128 + its number a signal.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NoReturn

from whisq.cli.console import INTERNAL, Console, prepare_streams
from whisq.cli.mistakes import check_command, check_options, shape_of, too_many, value_meant
from whisq.cli.paths import STDOUT, check_here, check_paths
from whisq.errors import WhisqError
from whisq.stopping import begin, last_line
from whisq.version import __version__

COMMANDS = {
    "quantize": "make a smaller model, with a precision per tensor",
    "convert": "convert a model to another container, without quantizing it",
    "inspect": "show what a file contains, and which runtimes load it",
    "compare": "compare two files of one model, tensor by tensor",
    "evaluate": "measure what quantizing cost: word error rates and a report",
    "report": "make the HTML report of an evaluation again",
    "calibrate": "collect input statistics from audio, for better bytes",
    "search": "find the mix of types that costs least for a size, by measuring",
    "optimize": "calibrate, search, quantize, evaluate and report in one go",
    "publish": "make all files of a model as its users expect them, with a card, and upload them",
    "demo": "quantize real weights and transcribe a sentence with both",
}
"""Every command and its line in ``whisq --help``."""


_EPILOG = """\
what people come for:
  a smaller file for whisper.cpp, and what is built on it
      whisq quantize --target whisper.cpp --method feedback model-f16.bin model-q5_1.bin q5_1
  the best file of a size
      whisq optimize --target whisper.cpp model-f16.bin model-best.bin --size 30MB
  what a smaller file gets wrong, on speech of one's own
      whisq evaluate model-f16.bin model-q5_1.bin --data clips/ --report report.html

see `whisq COMMAND --help`"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``whisq``; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, parsers = _parsers()
    if not words:
        words = ["--help"]
    if words[0].partition("=")[0] in ("--completion", "--man"):
        return _told_to_a_shell(parser, parsers, words)
    place = next((number for number, word in enumerate(words) if not word.startswith("-")), len(words))
    asked = words[place] if place < len(words) else None
    if asked in parsers:
        _command(asked).add_arguments(parsers[asked])
        parser.as_json = parsers[asked].as_json = _wants_json(words[place + 1 :], asked)
        return _run(parser, parsers[asked], words)
    if asked is not None and not {"-h", "--help", "--version"} & set(words[:place]):
        wanted = _wants_json(words, asked)
        return _refused(lambda: check_command(asked, COMMANDS, words[place + 1 :]), as_json=wanted)
    return _run(parser, parser, words)


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of ``whisq``, and that of every command, without its arguments."""
    parser = _Parser(
        prog="whisq",
        description="Quantize Whisper models into ggml formats, and measure what it cost.",
        formatter_class=_one_line_per_command,
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"whisq {__version__}")
    parser.add_argument("--completion", metavar="SHELL", help="print what completes commands in bash, fish or zsh")
    parser.add_argument("--man", action="store_true", help="print the manual page: whisq --man | man -l -")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    return parser, {name: subparsers.add_parser(name, help=line, description=line) for name, line in COMMANDS.items()}


def _told_to_a_shell(parser: _Parser, parsers: dict[str, _Parser], words: Sequence[str]) -> int:
    """Print the script or the page that was asked for; returns the exit code."""
    from whisq.cli.shell import SHELLS, completion, manual

    asked = " ".join(words).replace("=", " ").split(" ")
    if asked[0] == "--completion" and (len(asked) != 2 or asked[1] not in SHELLS):
        parser.error(f"--completion wants one of: {' '.join(SHELLS)}")
    for name, of_command in parsers.items():
        _command(name).add_arguments(of_command)
    prepare_streams()
    text = manual(parser, parsers, __version__) if asked[0] == "--man" else completion(asked[1], parsers)
    sys.stdout.write(text)
    return 0


def quantize_main(arguments: Sequence[str] | None = None) -> int:
    """Run the plain ``quantize``; returns the exit code."""
    parser = _Parser(prog="quantize", description=COMMANDS["quantize"])
    parser.add_argument("--version", action="version", version=f"whisq {__version__}")
    _command("quantize").add_arguments(parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser.as_json = _wants_json(given, "quantize")
    # Tools read its lines: one for every tensor, as whisper.cpp's own prints them.
    parser.set_defaults(command="quantize", verbose=True)
    return _run(parser, parser, given)


def _one_line_per_command(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


class _Parser(argparse.ArgumentParser):
    """Argparse, with our error style and exit code 1 for what the user typed."""

    as_json = False

    def error(self, message: str) -> NoReturn:
        hint = f"{self.prog} --help"
        if "required" in message and self.prog != "whisq":
            hint = f"the form: {shape_of(self)}"
        for action in self._actions:
            if action.option_strings and message.endswith(f"{action.option_strings[-1]}: expected one argument"):
                value = action.default if isinstance(action.default, int) and action.default else action.metavar
                hint = f"it takes a value: {action.option_strings[-1]} {value or action.dest.upper()}"
        Console(as_json=self.as_json).error(WhisqError(message, hint=hint))
        sys.exit(1)

    def _print_message(self, message: str, file: Any = None) -> None:
        # Argparse says nothing of a help that did not get there.
        if file is not sys.stdout:
            return super()._print_message(message, file)
        console = Console()
        for line in message.splitlines():
            console.data(line)
        try:
            return console.flush()
        except WhisqError as error:
            console.error(error)
            sys.exit(1)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, value_meant(action, value))


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"whisq.cli.{name}")


def _wants_json(words: Sequence[str], command: str) -> bool:
    """Return whether stdout is to have JSON, before the words are read: `evaluate` names a file, or - for stdout."""
    options = list(words[: list(words).index("--")] if "--" in words else words)
    if command == "evaluate":
        return "--json=-" in options or ("--json", "-") in pairwise(options)
    return "--json" in options


def _gives_json(args: argparse.Namespace) -> bool:
    return getattr(args, "json", None) in (True, STDOUT)


def _refused(check: Callable[[], None], *, as_json: bool = False) -> int:
    prepare_streams()
    try:
        check()
    except WhisqError as error:
        Console(as_json=as_json).error(error)
        return 1
    return 0


def _places_after_options(
    of_command: argparse.ArgumentParser, args: argparse.Namespace, words: list[str], rest: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return arguments and what is left, with the places filled that options stand before.

    Argparse takes a place that may stay empty as empty at the first option: TYPE, REPORT and the candidates.
    """
    if any("=" not in rule for rule in getattr(args, "tensor_type", ())):
        return args, rest  # the word is the rule's missing half
    after = words[words.index(args.command) + 1 :] if of_command.prog != "quantize" else words
    found, left = of_command.parse_known_intermixed_args(after, argparse.Namespace(command=args.command))
    return (found, left) if len(left) < len(rest) else (args, rest)


def _run(parser: _Parser, of_command: _Parser, words: list[str]) -> int:
    if _refused(lambda: check_options(of_command, words), as_json=of_command.as_json):
        return 1
    args, rest = parser.parse_known_args(words)
    if rest:
        args, rest = _places_after_options(of_command, args, words, rest)
    console = Console(quiet=getattr(args, "quiet", False), as_json=of_command.as_json or _gives_json(args))
    begin()
    try:
        command = _command(args.command)
        if rest:
            raise too_many(of_command, args, rest)
        check_here()
        if hasattr(command, "check_words"):
            command.check_words(args)
        check_paths(args, command.more_outputs(args) if hasattr(command, "more_outputs") else ())
        code: int = command.run(args, console)
        console.flush()
    except WhisqError as error:
        console.error(error)
        return 1
    except KeyboardInterrupt:
        # In the program it never comes to this: there a signal ends it, see `whisq.stopping`.
        Console().note(last_line())
        return 130
    except Exception as error:
        if os.environ.get("WHISQ_TRACEBACK"):
            raise
        internal = WhisqError(
            f"internal: {type(error).__name__}: {error}",
            hint="this is a bug in whisq: set WHISQ_TRACEBACK=1 and report what it prints",
        )
        console.error(internal, INTERNAL)
        return INTERNAL
    return code
