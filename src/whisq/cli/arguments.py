"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from whisq.cli.paths import Clips
from whisq.errors import PlanError
from whisq.units import megabytes

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KiB|MB|MiB|GB|GiB)?", re.IGNORECASE)
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def count(text: str) -> int:
    """Return a number of at least 1, as argparse wants it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def count_or_none(text: str) -> int:
    """Return a number of at least 0, as argparse wants it."""
    return 0 if text == "0" else count(text)


def thread_count(text: str) -> int:
    """Return a number of threads, as argparse wants it."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 1024")
    return int(text)


def whole_number(text: str) -> int:
    """Return a whole number, as argparse wants it."""
    if not text.removeprefix("-").isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def above_zero(text: str) -> float:
    """Return a number greater than 0, as argparse wants it."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0, such as 5.5")
    return found


def device(text: str) -> str:
    """Return a device as torch names it, or auto, as argparse wants it."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", text) is None:
        meant = " (did you mean cuda?)" if re.match(r"gpu|nvidia|cuda", text, re.IGNORECASE) else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not one of cpu, cuda, cuda:1, mps, auto{meant}")
    return text


def add_device(group: argparse.ArgumentParser | argparse._ArgumentGroup, what: str = "run") -> None:
    """Declare ``--device``, which ``Console.settle_device`` reads."""
    group.add_argument(
        "--device",
        type=device,
        default="cpu",
        metavar="NAME",
        help=f"{what} on cpu, with torch on cuda or mps, or on what auto finds (default: cpu)",
    )


class WithoutUnit(str):
    """A size that could be anything: only the command, which knows the model, can say what is possible."""


def size_bytes(text: str) -> int | WithoutUnit:
    """Return the bytes that ``45MB`` means, as argparse wants it: MB is 10⁶ bytes, MiB 2²⁰."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected e.g. 45MB")
    if match.group(2) is None:
        return WithoutUnit(match.group(1))
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def check_unit(size: int | WithoutUnit | None, possible: Callable[[], Sequence[int]]) -> None:
    """Raise ``PlanError`` for a size without a unit, with the smallest of the possible sizes."""
    if not isinstance(size, WithoutUnit):
        return
    smallest = min(possible())
    meant = max(float(size), math.ceil(megabytes(smallest)))
    raise PlanError(
        f"--size {size} has no unit; the smallest possible file has {megabytes(smallest):.2f} MB",
        hint=f"--size {meant:g}MB",
    )


def type_names(text: str) -> tuple[str, ...]:
    """Return names of types, separated by commas, as argparse wants it."""
    return tuple(text.split(",")) if text else ()


def cache_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder that ``--cache`` and ``--no-cache`` mean."""
    from whisq.writing import default_cache_folder

    if args.no_cache:
        return None
    return Path(args.cache) if args.cache else default_cache_folder()


def add_cache(group: argparse._ArgumentGroup, what: str) -> None:
    """Declare ``--cache`` and ``--no-cache``, which ``cache_folder`` reads."""
    group.add_argument(
        "--cache",
        metavar="FOLDER",
        help=f"keep {what} there (default: $WHISQ_CACHE, else whisq in the user's cache)",
    )
    group.add_argument("--no-cache", action="store_true", help=f"do not keep {what}")


def add_ray(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--ray``, which ``Console.executor`` reads."""
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="do the work on the nodes of a Ray cluster: HOST:PORT, or auto for the one that this machine belongs to"
        " (default: $WHISQ_RAY, else this machine)",
    )


def add_plan(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--plan``, which stops where ``Console.outline`` has told what is to be done."""
    group.add_argument(
        "--plan",
        action="store_true",
        help="print units, bytes to send and core-hours of what --ray shares out; do nothing",
    )


def add_other_model(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str) -> None:
    """Declare that what was measured on other weights is taken."""
    parser.add_argument(
        "--other-model", action="store_true", help=f"take {what} of other weights of the same shape, too"
    )


def add_overwrite(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare what every command has that writes files."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing files of other kinds than what is written, too"
    )


def add_overwrite_and_quiet(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare how a command that writes files treats those that are there, and what it says."""
    add_overwrite(parser)
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")


def add_json(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare what every command has whose result a script may want."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the result, or the error, as JSON (docs/scripts.md), with --quiet too",
    )


def add_goal(parser: argparse.ArgumentParser) -> None:
    """Declare what is searched for: a size, bits per weight, or a divergence."""
    goal = parser.add_argument_group("the goal, one of").add_mutually_exclusive_group(required=True)
    goal.add_argument("--size", type=size_bytes, help="limit the file to SIZE, such as 80MB (10^6 bytes each)")
    goal.add_argument("--bits", type=above_zero, metavar="N", help="limit the file to N bits per weight")
    goal.add_argument(
        "--divergence",
        type=above_zero,
        metavar="NATS",
        help="limit the expected divergence per token to NATS, in the smallest file",
    )


def add_space(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare what a search may choose from; returns the group, for what else belongs there."""
    space = parser.add_argument_group("search space")
    space.add_argument(
        "--types",
        type=type_names,
        default=(),
        metavar="TYPE,…",
        help="choose among these types (default: all that the target loads)",
    )
    space.add_argument(
        "--target",
        metavar="RUNTIME",
        default="transcribe.cpp",
        help="choose what this runtime loads (default: transcribe.cpp); for whisper.cpp, the best file of one type",
    )
    space.add_argument(
        "--embedding",
        metavar="TYPE",
        help="give the token embedding TYPE; f16 keeps it whole (default: q8_0 where that helps a mix)",
    )
    space.add_argument("--unprotect", metavar="PATTERN", action="append", default=[], help="also include PATTERN")
    space.add_argument("--protect", metavar="PATTERN", action="append", default=[], help="exclude PATTERN")
    return space


def add_clips(group: argparse._ArgumentGroup, *, what: str, seed_of: str, required: bool = True) -> None:
    """Declare ``--data`` and what chooses and reads its clips."""
    group.add_argument("--data", type=Clips, metavar="CLIPS", required=required, help=what)
    group.add_argument("--limit", type=count, metavar="N", help="use N clips, drawn at random")
    group.add_argument("--seed", type=whole_number, default=0, metavar="N", help=f"seed {seed_of} (default: 0)")
    group.add_argument(
        "--language", metavar="CODE", help="take clips whose data names no language as CODE (default: en)"
    )
    group.add_argument("--skip-bad", action="store_true", help="skip unusable clips, and list them")
