"""``whisq search``: the mix of types that costs least for a size, found by measuring."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from whisq.cli.arguments import (
    add_cache,
    add_clips,
    add_device,
    add_goal,
    add_json,
    add_other_model,
    add_overwrite_and_quiet,
    add_plan,
    add_ray,
    add_space,
    cache_folder,
    check_unit,
    count,
)
from whisq.cli.console import Console
from whisq.cli.paths import Read, WrittenRecipe, WrittenSensitivity
from whisq.errors import PlanError
from whisq.formats.layout import CONTAINERS
from whisq.quantization.rounding import best_method, method_names, parse_method
from whisq.runtimes.registry import parse_runtime
from whisq.stopping import begin
from whisq.types import parse_type
from whisq.units import megabytes
from whisq.writing import check_writable, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whisq.calibration import Calibration
    from whisq.model import Model
    from whisq.recipe import Recipe
    from whisq.runtimes.runtime import Runtime
    from whisq.search import Mix, Searched, SearchSettings, Sensitivity, Space
    from whisq.work import Executor

_EPILOG = """
  whisq calibrate base-f16.bin --data clips -o base.calib
  whisq search base-f16.bin --calibration base.calib --size 80MB -o mix.toml --sensitivity base.json
  whisq search base-f16.bin --calibration base.calib --size 90MB -o other.toml --reuse base.json
  whisq quantize base-f16.bin base-mix.bin --recipe mix.toml --calibration base.calib
  whisq search --target whisper.cpp base-f16.bin --calibration base.calib --size 60MB -o best.toml

For a target that loads one type only it is the best type and method, judged on clips that calibrated nothing: CLIPS, or
synthetic speech that comes with whisq. What is measured once serves every budget: --reuse takes it from a file and
answers at once. Measurements are kept as they come: the same command resumes an interrupted run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Read, metavar="MODEL", help="the f16 or f32 model, in any form")
    parser.add_argument(
        "--calibration", type=Read, metavar="FILE", required=True, help="measure with what `whisq calibrate` wrote"
    )
    parser.add_argument(
        "-o", "--output", type=WrittenRecipe, metavar="FILE", required=True, help="the recipe to write (.toml)"
    )
    add_goal(parser)
    parser.add_argument(
        "--format", choices=tuple(CONTAINERS), default="bin", help="take --size as that of such a file (default: bin)"
    )
    add_space(parser).add_argument(
        "--prefer-fast",
        action="store_true",
        help="take the fastest in transcribe.cpp, timed here, of the mixes that diverge at most a tenth more",
    )
    judging = parser.add_argument_group("what judges files of one type")
    add_clips(
        judging,
        what="audio that was not calibrated on (default: built-in synthetic speech)",
        seed_of="the draw, and the random mixes",
        required=False,
    )
    how = parser.add_argument_group("how it measures")
    how.add_argument(
        "--method", choices=method_names(), help="round matrices this way (default: feedback, or --reuse's)"
    )
    how.add_argument(
        "--measure",
        metavar="HOW",
        default="auto",
        help="measure every matrix in 'all' types; in 'one', the others following by output error; or a 'few' of them,"
        " all others predicted from gradients (default: one up to base's size, few beyond)",
    )
    how.add_argument("--probes", type=count, default=8, metavar="N", help="measure on N pieces of audio (default: 8)")
    add_device(how)
    add_cache(how, "measurements")
    add_ray(how)
    add_plan(how)
    how.add_argument("--sensitivity", type=WrittenSensitivity, metavar="FILE", help="keep what was measured, as JSON")
    how.add_argument(
        "--reuse", type=Read, metavar="FILE", help="take what was measured from this file, and measure nothing"
    )
    add_other_model(how, "what was measured")
    add_json(how)
    add_overwrite_and_quiet(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Search; returns the exit code."""
    console.settle_device(args)
    check_writable(args.output, args.sensitivity)
    from whisq.calibration import read_calibration
    from whisq.calibration.factors import check_factors
    from whisq.cli.notes import weights_note
    from whisq.formats import open_model
    from whisq.recipe import save_recipe

    calibration = replace(read_calibration(args.calibration), takes_other_model=args.other_model)
    with open_model(args.model) as model, console.executor("" if args.plan else args.ray) as executor:
        # Before the moments are factored, which takes seconds.
        calibration.check_fits(model)
        calibration.check_weights(model)
        note = weights_note(calibration, model)
        calibration = check_factors(calibration)
        if args.plan:
            _foresee(args, console, model, calibration)
            return 0
        if parse_runtime(args.target).loads_mixes:
            searched = _search(args, console, model, calibration, executor)
            write_text(args.output, save_recipe(searched.recipe))
            for line in lines_of(searched, args.output):
                console.data(line)
            console.result("search", _document(args, searched))
        else:
            if args.ray:
                console.note("--ray: files of one type are judged here")
            _uniform(args, console, model, calibration)
        if note:
            console.note_always(note)
    return 0


def _uniform(args: argparse.Namespace, console: Console, model: Model, calibration: Calibration) -> None:
    """Write the recipe of the best type throughout, and say with which method."""
    from whisq.cli.ladder import answer_line, ladder_lines
    from whisq.clips.builtin import builtin_clips
    from whisq.clips.datasets import load_clips
    from whisq.evaluation.results_json import which_file_document
    from whisq.formats.special_tokens import special_tokens
    from whisq.optimization.choices import Choices, ladder_for
    from whisq.recipe import save_recipe
    from whisq.search import Goal, refuse_out_of_reach
    from whisq.search.uniform import which_file_of

    given = {"--sensitivity": args.sensitivity, "--reuse": args.reuse, "--prefer-fast": args.prefer_fast}
    given["--method"] = args.method
    for option in (name for name, value in given.items() if value):
        raise PlanError(f"{option} is for mixes, and {args.target} loads one type only", hint=f"leave out {option}")
    choices = Choices.of(
        model,
        args.format,
        target=args.target,
        types=args.types,
        protect=args.protect,
        unprotect=args.unprotect,
        embedding=args.embedding,
    )
    check_unit(args.size, choices.sizes)
    goal = Goal(args.size, args.bits, args.divergence, args.format)
    refuse_out_of_reach(goal, choices.sizes(), model)
    if args.data is None:
        clips = builtin_clips("judge", special_tokens(model))
    else:
        clips = load_clips(args.data, limit=args.limit, seed=args.seed, language=args.language, skip_bad=args.skip_bad)
    with console.stages() as progress:
        ladder = ladder_for(choices, goal, calibration, clips, device=args.device, seed=args.seed, progress=progress)
    write_text(args.output, save_recipe(ladder.chosen.candidate.plan.recipe))
    for line in (*ladder_lines(ladder, clips), answer_line(ladder, ladder.chosen.candidate.plan)):
        console.data(line)
    method = ladder.chosen.candidate.method
    how = "" if method.is_plain else f" --calibration {args.calibration} --method {method}"
    console.data(f"wrote {args.output}; for whisq quantize: --target {args.target} --recipe {args.output}{how}")
    found = ladder.chosen
    more = {"chosen": found.name, "judged": which_file_document(which_file_of(ladder)), "mixes": []}
    console.result("search", _common(args, found.candidate.plan.recipe, found.size_bytes, str(method)) | more)


def _common(args: argparse.Namespace, recipe: Recipe, size_bytes: int, method: str) -> dict[str, Any]:
    from whisq.recipe import save_recipe

    names = {"output": args.output, "target": args.target, "sensitivity": args.sensitivity}
    return names | {"size_bytes": size_bytes, "method": method, "recipe": save_recipe(recipe)}


def _document(args: argparse.Namespace, searched: Searched) -> dict[str, Any]:
    method = str(searched.sensitivity.provenance.get("method"))
    mixes = [asdict(mix) for mix in (searched.mix, *searched.others)]
    more = {"chosen": searched.mix.name, "judged": None, "mixes": mixes}
    return _common(args, searched.recipe, searched.mix.size_bytes, method) | more


def _search(
    args: argparse.Namespace, console: Console, model: Model, calibration: Calibration, executor: Executor
) -> Searched:
    from whisq.search import (
        Goal,
        measure_space,
        refuse_out_of_reach,
        sizes_of_mixes,
        solve,
        write_sensitivity,
    )

    space = _space(args, model)
    check_unit(args.size, lambda: sizes_of_mixes(space))
    goal = Goal(args.size, args.bits, args.divergence, args.format)
    meter = None
    if args.reuse:
        sensitivity = _reused(args, console, model, calibration)
    else:
        settings = _settings(args, calibration, executor)
        begin(resumes=settings.cache is not None)
        refuse_out_of_reach(goal, sizes_of_mixes(space), model)
        with console.stages(executor.account) as progress:
            sensitivity, meter = measure_space(model, calibration, space, settings=settings, progress=progress)
    # What was measured is kept before anything is solved.
    if args.sensitivity:
        write_sensitivity(args.sensitivity, sensitivity)
    if args.prefer_fast and sensitivity.seconds is None:
        sensitivity = replace(sensitivity, seconds=_seconds(model, space, parse_runtime(args.target)))
        if args.sensitivity:
            write_sensitivity(args.sensitivity, sensitivity)
    return solve(model, calibration, goal, space, sensitivity, meter=meter, prefer_fast=args.prefer_fast)


def _space(args: argparse.Namespace, model: Model) -> Space:
    from whisq.search import Space

    embedding = parse_type(args.embedding) if args.embedding else None
    return Space.of(model, args.types, args.target, tuple(args.protect), tuple(args.unprotect), embedding)


def _settings(args: argparse.Namespace, calibration: Calibration, executor: Executor) -> SearchSettings:
    from whisq.search import SearchSettings
    from whisq.search.measure import parse_how

    method = parse_method(args.method) if args.method else best_method(calibration)
    how = parse_how(args.measure)
    return SearchSettings(method, args.probes, args.seed, args.device, how, cache_folder(args), executor)


def _foresee(args: argparse.Namespace, console: Console, model: Model, calibration: Calibration) -> None:
    """Say what would be shared out: nothing where files of one type are judged, or what was measured is reused."""
    from whisq.search.measure import foresee_measuring
    from whisq.work import Outline

    outline = Outline()
    if parse_runtime(args.target).loads_mixes and not args.reuse:
        space, settings = _space(args, model), _settings(args, calibration, outline)
        foresee_measuring(model, calibration, space.tensors, space.types, outline, settings=settings)
    console.outline("search", outline)


def _seconds(model: Model, space: Space, runtime: Runtime) -> dict[str, float]:
    from whisq.demo import speech_path
    from whisq.search.speed import seconds_by_type

    kinds = {kind for types in space.types.values() for kind in types}
    return seconds_by_type(model, sorted(kinds, key=lambda kind: kind.bits_per_weight), speech_path(), runtime)


def _reused(args: argparse.Namespace, console: Console, model: Model, calibration: Calibration) -> Sensitivity:
    from whisq.search import read_sensitivity

    found = read_sensitivity(args.reuse)
    _check_measured_weights(args, console, model, found)
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


def _check_measured_weights(args: argparse.Namespace, console: Console, model: Model, found: Sensitivity) -> None:
    """Raise ``PlanError`` for what was measured on other weights, unless those are to be taken."""
    fingerprint, sha256 = (found.provenance.get(key) for key in ("model_fingerprint", "model_sha256"))
    if fingerprint is None and sha256 is None:
        console.note_always(
            f"{args.reuse}: does not say of which weights it is; that these are {model.path}'s cannot be checked"
        )
    elif fingerprint == model.fingerprint if fingerprint is not None else sha256 == model.sha256:
        return
    elif not args.other_model:
        # One of whisq 0.1 names a file: other files of the same weights cannot be told from other weights.
        raise PlanError(
            f"{args.reuse}: was measured on another model",
            hint="measure this one: leave out --reuse; or take it all the same: --other-model",
        )
    else:
        console.note_always(f"{args.reuse}: was measured on another model, taken for --other-model")


def lines_of(searched: Searched, output: str) -> Iterator[str]:
    """Yield what was found, beside the uniform types and presets."""
    sensitivity = searched.sensitivity
    yield from measured_lines(sensitivity)
    yield f"{'':>24} {'size':>11} {'predicted':>10} {'measured':>10}"
    for mix in [searched.mix, *searched.others]:
        yield _line(mix)
    if searched.better_than_all is False:
        yield "the mix is not better than all of these: a smaller or equal file is expected to do at least as well"
    embedding = searched.recipe.embedding
    if embedding is not None:
        yield f"embedding: {embedding}; --embedding f16 keeps it whole"
    yield f"wrote {output}"


def measured_lines(sensitivity: Sensitivity) -> Iterator[str]:
    """Yield what was measured and what was predicted, and how well they agree."""
    from whisq.search.prediction import correlation

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
