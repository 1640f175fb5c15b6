"""``whisq search``: the mix of types that costs least for a size, found by measuring."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.cli.arguments import count
from whisq.cli.calibrate import stages
from whisq.cli.console import Console, megabytes
from whisq.errors import OutputError, PlanError
from whisq.quantization.rounding import best_method, method_names, parse_method
from whisq.writing import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whisq.calibration import Calibration
    from whisq.model import Model
    from whisq.search import Mix, Searched, Sensitivity, Space

_EPILOG = """
  whisq calibrate base-f16.bin --data clips -o base.calib
  whisq search base-f16.bin --calibration base.calib --size 80MB -o mix.toml --sensitivity base.json
  whisq search base-f16.bin --calibration base.calib --size 90MB -o other.toml --reuse base.json
  whisq quantize base-f16.bin base-mix.bin --recipe mix.toml --calibration base.calib

What is measured once serves every budget: --reuse takes it from a file and answers at once.
"""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|MiB|GB|GiB)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "mib": 1 << 20, "gb": 1 << 30, "gib": 1 << 30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL", help="the f16 or f32 model, in any form")
    parser.add_argument("--calibration", metavar="FILE", required=True, help="what `whisq calibrate` wrote")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the recipe to write (.toml)")
    goal = parser.add_argument_group("the goal, one of").add_mutually_exclusive_group(required=True)
    goal.add_argument("--size", type=size_bytes, metavar="SIZE", help="of the file at most, such as 80MB (MB = 2^20)")
    goal.add_argument("--bits", type=float, metavar="N", help="bits per weight at most, over all tensors")
    goal.add_argument("--divergence", type=float, metavar="NATS", help="expected a token at most; the smallest file")
    parser.add_argument("--format", choices=("bin", "gguf"), default="bin", help="of the file that --size means")
    what = parser.add_argument_group("what it may choose")
    what.add_argument("--types", metavar="TYPE,…", help="candidates (default: all that the target loads)")
    what.add_argument("--target", metavar="RUNTIME", default="transcribe.cpp", help="default: transcribe.cpp")
    what.add_argument("--unprotect", metavar="PATTERN", action="append", default=[], help="these take part, too")
    what.add_argument(
        "--prefer-fast", action="store_true",
        help="of the mixes that diverge at most a tenth more, the fastest in transcribe.cpp, timed here",
    )  # fmt: skip
    what.add_argument("--protect", metavar="PATTERN", action="append", default=[], help="these do not")
    how = parser.add_argument_group("how it measures")
    how.add_argument("--method", choices=method_names(), help="of rounding (default: feedback, or --reuse's)")
    how.add_argument(
        "--measure", metavar="HOW", default="auto",
        help="every matrix in 'all' types; in 'one', the others following by output error; or a 'few' of them, all"
        " others predicted from gradients (default: one up to base's size, few beyond)",
    )  # fmt: skip
    how.add_argument("--probes", type=count, default=8, metavar="N", help="pieces of audio to measure on (default: 8)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the random mixes (default: 0)")
    how.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    how.add_argument("--sensitivity", metavar="FILE", help="keep what was measured, as JSON")
    how.add_argument("--reuse", metavar="FILE", help="take what was measured from this file, and measure nothing")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")


def size_bytes(text: str) -> int:
    """Return the bytes that ``45MB`` means; MB is 2^20 as everywhere in whisq."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, expected something like 45MB")
    return int(float(match.group(1)) * _UNITS[(match.group(2) or "").lower()])


def run(args: argparse.Namespace, console: Console) -> int:
    """Search; returns the exit code."""
    for path in filter(None, (args.output, args.sensitivity)):
        if not Path(path).resolve().parent.is_dir():
            raise OutputError(f"{path}: there is no directory {Path(path).resolve().parent}", hint="create it")
    from whisq.calibration import read_calibration
    from whisq.formats import open_model
    from whisq.recipe import save_recipe

    calibration = read_calibration(args.calibration).check_factors()
    with open_model(args.model) as model:
        calibration.check_fits(model)
        searched = _search(args, console, model, calibration)
        write_text(args.output, save_recipe(searched.recipe))
        for line in lines_of(searched, args.output):
            console.data(line)
    return 0


def _search(args: argparse.Namespace, console: Console, model: Model, calibration: Calibration) -> Searched:
    from whisq.search import Goal, Settings, Space, search
    from whisq.search.measure import parse_how
    from whisq.search.sensitivity import write_sensitivity

    goal = Goal(args.size, args.bits, args.divergence)
    types = tuple(args.types.split(",")) if args.types else ()
    space = Space.of(model, types, args.target, tuple(args.protect), tuple(args.unprotect))
    method = parse_method(args.method) if args.method else best_method(calibration)
    settings = Settings(method, args.probes, args.seed, args.device, parse_how(args.measure))
    reused = _reused(args, console, model, calibration) if args.reuse else None

    def keep(found: Sensitivity) -> None:
        if args.sensitivity:
            write_sensitivity(args.sensitivity, found)

    if reused is not None:
        keep(reused)
    with stages(console) as progress:
        return search(
            model, calibration, goal, space, settings=settings, reuse=reused,
            prefer_fast=partial(_seconds, model, space) if args.prefer_fast else None,
            container=args.format, on_measured=keep, progress=progress,
        )  # fmt: skip


def _seconds(model: Model, space: Space) -> dict[str, float]:
    from whisq.demo import speech_path
    from whisq.search.speed import seconds_by_type

    kinds = {kind for types in space.types.values() for kind in types}
    return seconds_by_type(model, sorted(kinds, key=lambda kind: kind.bits_per_weight), speech_path())


def _reused(args: argparse.Namespace, console: Console, model: Model, calibration: Calibration) -> Sensitivity:
    from whisq.hashing import source_sha256
    from whisq.search.sensitivity import read_sensitivity

    found = read_sensitivity(args.reuse)
    if found.provenance.get("model_sha256") != source_sha256(model):
        raise PlanError(f"{args.reuse}: was measured on another model", hint="measure this one: leave out --reuse")
    method = found.provenance.get("method")
    if args.method not in (None, method):
        raise PlanError(
            f"{args.reuse}: was measured with --method {method}, not {args.method}",
            hint="leave out --method, or --reuse",
        )
    if found.provenance.get("calibration_data_sha256") != calibration.audio.get("data_sha256"):
        console.warn(
            f"{args.reuse}: was measured with a calibration on other audio than {calibration.path.name}",
            hint="measure again, without --reuse, unless the two are much alike",
        )
    return found


def lines_of(searched: Searched, output: str) -> Iterator[str]:
    """Yield what was found, beside the uniform types and presets."""
    sensitivity = searched.sensitivity
    yield from measured_lines(sensitivity)
    yield f"{'':>24} {'size':>11} {'predicted':>10} {'measured':>10}"
    for mix in [searched.mix, *searched.others]:
        yield _line(mix)
    if searched.better_than_all is False:
        yield "the mix is not better than all of these: one of no larger size is expected to diverge as little, or less"
    yield f"wrote {output}"


def measured_lines(sensitivity: Sensitivity) -> Iterator[str]:
    """Yield what was measured and what was predicted, and how well they agree."""
    from whisq.search.measure import correlation

    total = sum(kind != "f16" for harms in sensitivity.harms.values() for kind in harms)
    how = sensitivity.provenance
    yield (
        f"{total} harms of {len(sensitivity.harms)} matrices: {sensitivity.n_measured} measured on"
        f" {how.get('tokens')} tokens, the others predicted; rounded with {how.get('method')};"
        f" {how.get('seconds')} s"
    )
    if sensitivity.checks:
        found = correlation(sensitivity.checks)
        yield f"  of {len(sensitivity.checks)} matrices, predicted and measured correlate {found:.3f}"
    yield (
        f"  of {len(sensitivity.mixes)} random mixes, predicted and measured totals correlate"
        f" {sensitivity.correlation:.3f} (measured = {sensitivity.scale:.2f} x predicted)"
    )


def _line(mix: Mix) -> str:
    measured = f"{mix.measured:.5f}" if mix.measured is not None else "-"
    return f"{mix.name:>24} {megabytes(mix.size_bytes):8.2f} MB {mix.predicted:10.5f} {measured:>10}"
