"""``whisq quantize``: the command that people know from whisper.cpp, with rules that say what they did."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.cli.arguments import (
    add_cache,
    add_json,
    add_other_model,
    add_overwrite_and_quiet,
    add_plan,
    add_ray,
    cache_folder,
    thread_count,
)
from whisq.cli.console import Console
from whisq.cli.mistakes import check_order
from whisq.cli.paths import Clips, Read, Written, WrittenModel, WrittenRecipe, WrittenSidecar
from whisq.errors import PlanError, RecipeError
from whisq.formats.layout import CONTAINERS
from whisq.quantization.rounding import METHODS, best_method, method_names, parse_method
from whisq.runtimes.registry import RUNTIMES, container_for, parse_runtime
from whisq.types import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whisq.calibration import Calibration
    from whisq.evaluation.gate import Checked
    from whisq.model import Model
    from whisq.quantization.method import Method
    from whisq.quantization.plan import Plan
    from whisq.quantization.write import Written as Result
    from whisq.recipe import Recipe
    from whisq.work import Executor

_EPILOG = r"""
A rule's PATTERN is a regular expression that must match a whole tensor name; the first rule that matches wins.
TYPE, any case: {types}, or a ggml_ftype number.

  quantize --tensor-type 'encoder\.blocks\.[0-2]\..*'=q8_0 --tensor-type '.*mlp.*\.weight'=q4_0 \
           --tensor-type '.*attn.*\.weight'=q6_k  model-f32.bin model-mixed.bin q5_0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG.replace("{types}", " ".join(TYPES))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "input", type=Read, metavar="INPUT", help="a model in any form: .bin, GGUF, .pt, a folder, or a hub id"
    )
    parser.add_argument("output", type=WrittenModel, metavar="OUTPUT", help="the file to write: .bin or .gguf")
    parser.add_argument("type", metavar="TYPE", nargs="?", help="give this type to the matrices that no rule matches")
    rules = parser.add_argument_group("what becomes of the tensors")
    rules.add_argument(
        "--tensor-type",
        metavar="PATTERN=TYPE",
        action="append",
        default=[],
        help="give TYPE to the tensors that PATTERN matches; repeatable",
    )
    rules.add_argument(
        "--recipe",
        type=Read,
        metavar="NAME|FILE",
        help="apply a preset (conservative, balanced, compact) or a .toml file",
    )
    rules.add_argument("--protect", metavar="PATTERN", action="append", default=[], help="never quantize these too")
    rules.add_argument("--unprotect", metavar="PATTERN", action="append", default=[], help="lift the protection")
    rules.add_argument(
        "--embedding", metavar="TYPE", help="give the token embedding TYPE; otherwise it is protected, in f16"
    )
    rules.add_argument(
        "--on-misfit",
        choices=("fallback", "error"),
        help="where rows do not fit a type's blocks: take a type that fits (default), or stop",
    )
    rules.add_argument("--keep-f32", action="store_true", help="keep conv kernels and kept matrices of an f32 source")
    rules.add_argument("--allow-requantize", action="store_true", help="accept a source that is already quantized")
    known = ", ".join(runtime.name for runtime in RUNTIMES)
    rules.add_argument("--target", metavar="RUNTIME", help=f"refuse what this runtime does not load: {known}")
    rules.add_argument("--strict", action="store_true", help="warnings are errors")
    _add_method(parser.add_argument_group("how matrices are rounded"))
    runs = parser.add_argument_group("how it runs")
    runs.add_argument(
        "--check", action="store_true", help="read the file back and hear with it, in a runtime that loads it"
    )
    runs.add_argument("--dry-run", action="store_true", help="print the plan and the exact size, write no model")
    runs.add_argument(
        "--format", choices=tuple(CONTAINERS), help="write this container (default: by OUTPUT's suffix and --target)"
    )
    runs.add_argument("--sidecar", action="store_true", help="write where the file comes from to OUTPUT.json")
    runs.add_argument("--recipe-out", type=WrittenRecipe, metavar="FILE", help="save what was asked as a recipe")
    runs.add_argument("--threads", type=thread_count, metavar="N", help="use N threads (default: all CPUs)")
    runs.add_argument(
        "--verbose", action="store_true", help="print a line for every tensor, as the plain `quantize` always does"
    )
    add_cache(runs, "calibrations")
    add_ray(runs)
    add_plan(runs)
    add_overwrite_and_quiet(runs)
    add_json(runs)


def _add_method(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method",
        choices=method_names(),
        help="round matrices this way (default: ggml; with a calibration, the best that it allows)",
    )
    speech = group.add_mutually_exclusive_group()
    speech.add_argument(
        "--calibration",
        type=Read,
        metavar="FILE",
        help="use what `whisq calibrate` wrote, or an imatrix GGUF of another tool",
    )
    add_other_model(group, "a calibration")
    speech.add_argument(
        "--data", type=Clips, metavar="CLIPS", help="calibrate on these (default for a --method: the built-in speech)"
    )


def check_words(args: argparse.Namespace) -> None:
    """Raise the right order where the arguments are in another."""
    check_order(args)


def more_outputs(args: argparse.Namespace) -> list[Written]:
    """Return what is written beside OUTPUT."""
    from whisq.provenance import sidecar_path

    return [WrittenSidecar(sidecar_path(args.output))] if args.sidecar else []


def run(args: argparse.Namespace, console: Console) -> int:
    """Quantize; returns the exit code."""
    from whisq.calibration.calibration import foreseen_calibration
    from whisq.cli.notes import notes_on, weights_note
    from whisq.formats import open_model
    from whisq.provenance import provenance_of
    from whisq.quantization.plan import make_plan, recipe_for
    from whisq.quantization.write import check_output

    asked = recipe_from(args)
    target = parse_runtime(args.target) if args.target else None
    container = container_for(Path(args.output), args.format, target)
    given, method = calibration_from(args)
    with open_model(args.input) as model, contextlib.ExitStack() as stack:
        recipe = asked if target is None else recipe_for(target, model, asked)

        def planned(calibration: Calibration | None) -> Plan:
            stated = CONTAINERS[container].has_provenance or args.sidecar
            return make_plan(
                model,
                recipe,
                container=container,
                target=args.target,
                keep_f32=args.keep_f32,
                allow_requantize=args.allow_requantize,
                provenance=provenance_of(model, recipe, method, calibration) if stated else None,
                calibration=calibration,
                method=method,
            )

        # What can be refused is, before a calibration is made.
        foreseen = foreseen_calibration(model) if given is None and method.needs != "nothing" else None
        plan = planned(foreseen or given)
        _warn(plan, console, strict=args.strict)
        if given is not None and (note := weights_note(given, model)):
            console.note_always(note)
        if args.plan:
            _foresee(args, console, plan, makes_calibration=foreseen is not None)
            return 0
        executor: Executor | None = None
        if not args.dry_run:
            check_output(plan, args.output)
            if plan.slow or foreseen is not None:
                executor = stack.enter_context(console.executor(args.ray))
            elif args.ray:
                console.note("--ray: this is rounded as fast as it is read: done here")
            if foreseen is not None:
                plan = planned(stack.enter_context(_calibrated(args, model, console, executor)))
        _print_plan(plan, console, verbose=args.verbose)
        written = _write(args, console, plan, recipe, executor)
        _conclude(args, console, plan, written.duration_s if written else None)
        for note in notes_on(plan, asked, target, args.output):
            console.note_always(note)
    return 0


def _foresee(args: argparse.Namespace, console: Console, plan: Plan, *, makes_calibration: bool) -> None:
    """Say what would be shared out, a calibration that has to be made included."""
    from whisq.work import Outline

    outline = Outline()
    if makes_calibration:
        from whisq.calibration.run import CalibrationSettings, foresee_calibration

        foresee_calibration(plan.model, args.data, outline, settings=CalibrationSettings(threads=args.threads))
    if plan.slow:
        from whisq.quantization.bench import foresee_rounding

        foresee_rounding(plan, outline)
    console.outline("quantize", outline)


def _write(
    args: argparse.Namespace, console: Console, plan: Plan, recipe: Recipe, executor: Executor | None
) -> Result | None:
    """Write what is asked for; returns nothing where no model is."""
    from whisq.provenance import sidecar
    from whisq.quantization.write import quantize

    with contextlib.ExitStack() as beside:
        if args.recipe_out:
            from whisq.recipe import save_recipe
            from whisq.writing import text_with

            beside.enter_context(text_with(args.recipe_out, save_recipe(recipe)))
        if args.dry_run:
            return None
        if args.sidecar:
            beside.enter_context(sidecar(plan, args.output))
        checking = _Checking(plan, args.target) if args.check else None
        with console.progress(plan.model.n_weights, "quantizing") as advance:
            written = quantize(
                plan, args.output, threads=args.threads, progress=advance, check=checking, executor=executor
            )
        if executor is not None and (told := executor.account.line()):
            console.note(f"units by node: {told}")
        if checking is not None:
            checking.tell(console)
    return written


class _Checking:
    """Hears with the file before it has its name, and keeps what was found."""

    def __init__(self, plan: Plan, target: str | None) -> None:
        self._plan, self._target = plan, target
        self._found: Checked | None = None

    def __call__(self, path: Path) -> None:
        from whisq.evaluation.gate import check_file

        self._found = check_file(self._plan, path, target=self._target)

    def tell(self, console: Console) -> None:
        """Say what was found: a warning where nothing could be heard, which was asked for."""
        if self._found is None:
            return
        if self._found.unheard:
            console.warn(str(self._found), self._found.hint)
        else:
            console.note_always(str(self._found))


def calibration_from(args: argparse.Namespace) -> tuple[Calibration | None, Method]:
    """Return the calibration that the arguments name, and the method: the best it allows unless one is asked for.

    A method that needs a calibration where none is named will have one made. Moments are factored, where whisq 0.1 has
    not, only for a method that uses them.
    """
    asked = parse_method(args.method) if args.method else None
    if args.calibration is None:
        if args.data and asked is not None and asked.needs == "nothing":
            raise PlanError(f"--method {asked} takes no --data", hint="leave out one of the two")
        return None, asked or (METHODS[-1] if args.data else best_method(None))
    from whisq.calibration import read_calibration
    from whisq.calibration.factors import check_factors

    calibration = replace(read_calibration(args.calibration), takes_other_model=args.other_model)
    if asked is None or asked.needs == "second moments":
        calibration = check_factors(calibration)
    return calibration, asked or best_method(calibration)


@contextlib.contextmanager
def _calibrated(
    args: argparse.Namespace, model: Model, console: Console, executor: Executor | None
) -> Iterator[Calibration]:
    from whisq.calibration.kept import calibration_on
    from whisq.calibration.run import CalibrationSettings
    from whisq.stopping import begin

    settings = CalibrationSettings(threads=args.threads, cache=cache_folder(args), executor=executor)
    begin(resumes=settings.cache is not None)
    with contextlib.ExitStack() as stack:
        with console.stages() as progress:
            made = calibration_on(model, args.data, settings, say=console.note, progress=progress)
            found = stack.enter_context(made)
        begin()
        yield found


def _print_plan(plan: Plan, console: Console, *, verbose: bool) -> None:
    from whisq.cli.plan_groups import group_lines, wrapped
    from whisq.cli.plan_text import plan_lines

    for line in plan_lines(plan) if verbose else wrapped(group_lines(plan), console.width):
        console.data(line)


def _conclude(args: argparse.Namespace, console: Console, plan: Plan, duration_s: float | None) -> None:
    from whisq.cli.plan_groups import conclusion_lines, wrapped
    from whisq.cli.plan_text import plan_as_json, summary_lines

    console.result("quantize", plan_as_json(plan, args.output, duration_s))
    brief = wrapped(conclusion_lines(plan, args.output, duration_s), console.width)
    for line in summary_lines(plan, args.output, duration_s) if args.verbose else brief:
        console.data(line)


def recipe_from(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the arguments describe: command-line rules before the recipe's own."""
    from whisq.recipe import Recipe, load_recipe, parse_rule
    from whisq.types import parse_type

    rules = tuple(parse_rule(text) for text in args.tensor_type)
    if args.recipe is None and args.type is None:
        raise RecipeError(
            "neither TYPE nor --recipe says what becomes of the matrices",
            hint="add a type (q5_0) after OUTPUT, or --recipe balanced",
        )
    if args.recipe is not None:
        recipe = load_recipe(args.recipe).with_rules_first(rules)
        if args.type is not None:
            recipe = replace(recipe, default=parse_type(args.type))
    else:
        recipe = Recipe(parse_type(args.type), rules)
    if args.embedding is not None:
        recipe = replace(recipe, embedding=parse_type(args.embedding))
    return replace(
        recipe,
        protect=recipe.protect + tuple(args.protect),
        unprotect=recipe.unprotect + tuple(args.unprotect),
        on_misfit=args.on_misfit or recipe.on_misfit,
    )


def _warn(plan: Plan, console: Console, *, strict: bool) -> None:
    from whisq.cli.notes import miscounted_tokens

    for note in plan.model.notes:
        console.note_always(note)
    warnings: list[tuple[str, str | None]] = [(warning, None) for warning in plan.model.warnings]
    warnings += miscounted_tokens(plan)
    warnings += [(finding.message, finding.hint) for finding in plan.findings]
    if strict and warnings:
        listed = "\n".join(f"  {message}" + (f"\n  hint: {hint}" if hint else "") for message, hint in warnings)
        few = "warning" if len(warnings) == 1 else "warnings"
        raise PlanError(
            f"--strict makes errors of {len(warnings)} {few}:\n{listed}",
            hint="mend what is named, or leave out --strict",
        )
    for message, hint in warnings:
        console.warn(message, hint)
