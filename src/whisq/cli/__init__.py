"""The command line: ``whisq COMMAND …`` and the plain ``quantize …``.

One file per command, each with ``add_arguments(parser)`` and ``run(args, console) -> exit code``, and with
``more_outputs(args)`` where it writes more than its arguments name; its help line is in ``COMMANDS``. Only the command
that was asked for is imported. Exit code 0 is fine, 1 a user error, 2 an internal error, 128 + its number a signal.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from whisq.cli.console import Console, discard_stdout, prepare_streams
from whisq.cli.paths import check_paths
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
    "demo": "quantize real weights and transcribe a sentence with both",
}
"""Every command and its line in ``whisq --help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``whisq``; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(
        prog="whisq",
        description="Quantize Whisper models into ggml formats, and measure what it cost.",
        formatter_class=_one_line_per_command,
        epilog="see `whisq COMMAND --help`",
    )
    parser.add_argument("--version", action="version", version=f"whisq {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    asked = next((word for word in words if not word.startswith("-")), None)
    for name, help_line in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_line, description=help_line)
        if name == asked:
            _command(name).add_arguments(subparser)
    return _run(parser, words)


def quantize_main(arguments: Sequence[str] | None = None) -> int:
    """Run the plain ``quantize``; returns the exit code."""
    parser = _Parser(prog="quantize", description=COMMANDS["quantize"])
    parser.add_argument("--version", action="version", version=f"whisq {__version__}")
    _command("quantize").add_arguments(parser)
    # Tools read its lines: one for every tensor, as whisper.cpp's own prints them.
    parser.set_defaults(command="quantize", verbose=True)
    return _run(parser, list(sys.argv[1:] if arguments is None else arguments))


def _one_line_per_command(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=32)


class _Parser(argparse.ArgumentParser):
    """Argparse, with our error style and exit code 1 for what the user typed."""

    def error(self, message: str) -> NoReturn:
        Console().error(WhisqError(message, hint=f"{self.prog} --help"))
        sys.exit(1)


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"whisq.cli.{name}")


def _run(parser: argparse.ArgumentParser, words: list[str]) -> int:
    prepare_streams()
    args = parser.parse_args(words)
    console = Console(quiet=getattr(args, "quiet", False))
    begin()
    try:
        command = _command(args.command)
        check_paths(args, command.more_outputs(args) if hasattr(command, "more_outputs") else ())
        code: int = command.run(args, console)
        sys.stdout.flush()
    except WhisqError as error:
        console.error(error)
        return 1
    except KeyboardInterrupt:
        # In the program it never comes to this: there a signal ends it, see `whisq.stopping`.
        print(last_line(), file=sys.stderr)
        return 130
    except BrokenPipeError:
        discard_stdout()
        return 0
    except Exception as error:
        if os.environ.get("WHISQ_TRACEBACK"):
            raise
        internal = WhisqError(
            f"internal: {type(error).__name__}: {error}",
            hint="this is a bug in whisq: set WHISQ_TRACEBACK=1 and report what it prints",
        )
        console.error(internal)
        return 2
    return code
