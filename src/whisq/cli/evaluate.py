"""``whisq evaluate``: what quantizing cost, in words that a model gets wrong."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from whisq.cli.arguments import (
    above_zero,
    add_clips,
    add_device,
    add_overwrite_and_quiet,
    add_plan,
    add_ray,
    cache_folder,
    count,
    count_or_none,
)
from whisq.cli.console import CONDITION_MET, Console
from whisq.cli.paths import STDOUT, Read, WrittenReport, WrittenResults
from whisq.errors import DataError, PlanError
from whisq.stopping import begin
from whisq.units import megabytes
from whisq.writing import check_writable, write_text

if TYPE_CHECKING:
    from whisq.evaluation.conditions import Condition
    from whisq.evaluation.run import EvaluationSettings
    from whisq.search import Mix
    from whisq.work import Executor

_EPILOG = """
CLIPS is a .csv, .tsv, .json or .jsonl manifest with columns path and text (and language), a folder of audio with
a .txt of the same name beside each, one in the layout of LibriSpeech, MLS, LJSpeech, Common Voice, Kaldi, NeMo
or AudioFolder, or a Hugging Face dataset saved on disk or as .parquet. Audio may be wav, flac, ogg or mp3, of any
rate, length and number of channels, and with ffmpeg m4a, aac and others.

  whisq evaluate base-f16.bin base-q5_0.bin base-balanced.bin --data dev-clean --report report.html --json
  out.json

Transcripts are cached as they come: the same command resumes an interrupted run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("reference", type=Read, metavar="REFERENCE", help="the model to compare with, usually f16")
    parser.add_argument(
        "candidates", type=Read, metavar="CANDIDATE", nargs="*", default=[], help="models to compare with it"
    )
    data = parser.add_argument_group("the data")
    add_clips(data, what="audio and what is said in it: see below", seed_of="the draw and the bootstrap")
    _add_how(parser.add_argument_group("how it is measured"))
    _add_output(parser.add_argument_group("output"))


def _add_how(how: argparse._ArgumentGroup) -> None:
    from whisq.runtimes.registry import runnable_runtimes

    how.add_argument(
        "--runtime",
        type=_runtime_name,
        choices=[runtime.name for runtime in runnable_runtimes()],
        help="run all models in this one (default: one that loads all the files)",
    )
    how.add_argument("--threads", type=count, metavar="N", help="use N threads per model (default: up to 4)")
    how.add_argument("--jobs", type=count, default=1, metavar="N", help="run N models at the same time (default: 1)")
    how.add_argument(
        "--temperature-fallback",
        action="store_true",
        help="let the runtime retry unlikely text at higher temperatures (default: greedy, repeatable)",
    )
    how.add_argument(
        "--inside",
        type=count_or_none,
        default=20,
        metavar="N",
        help="measure divergence on N clips, 0 for none (default: 20); in whisper.cpp itself where it loads all files",
    )
    how.add_argument(
        "--long-form",
        action="store_true",
        help="hear one recording of five minutes too, built of the clips: loops, empty stretches, length",
    )
    how.add_argument(
        "--long-form-minutes", type=above_zero, metavar="N", help="the same with a recording of N minutes at least"
    )
    add_device(how, "transcribe where the runtime can, and run --inside in the forward pass,")
    how.add_argument(
        "--cache",
        metavar="FOLDER",
        help="keep measurements there (default: $WHISQ_CACHE, else whisq in the user's cache)",
    )
    how.add_argument("--no-cache", action="store_true", help="measure everything again, and keep nothing")
    add_ray(how)
    add_plan(how)


def _add_output(output: argparse._ArgumentGroup) -> None:
    output.add_argument(
        "--divergence",
        type=above_zero,
        metavar="NATS",
        help="also name the smallest file that diverges no more than NATS per token (default: 0.01)",
    )
    output.add_argument(
        "--fail-if",
        type=_condition,
        metavar="CONDITION",
        action="append",
        default=[],
        help="exit with 3 where this holds for a candidate: 'divergence > 0.02', words (points), changed (%%), size"
        " (MB), .low and .high for the interval's bounds; repeatable",
    )
    output.add_argument("--report", type=WrittenReport, metavar="FILE", help="write an HTML report")
    output.add_argument(
        "--search",
        type=Read,
        metavar="FILE",
        help="show the curve of this search in the report (its --sensitivity file)",
    )
    output.add_argument(
        "--json",
        type=WrittenResults,
        metavar="FILE",
        help="write all results, for scripts and `whisq report`; - for stdout",
    )
    add_overwrite_and_quiet(output)


def _runtime_name(text: str) -> str:
    from whisq.runtimes.registry import find_runtime

    found = find_runtime(text)
    return found.name if found else text


def _condition(text: str) -> Condition:
    from whisq.evaluation.conditions import parse_condition

    try:
        return parse_condition(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace, console: Console) -> int:
    """Evaluate; returns the exit code."""
    for option, given in (("--report", args.report), ("--fail-if", args.fail_if)):
        if args.plan and given:
            raise PlanError(f"{option}: --plan evaluates nothing", hint=f"leave out {option}, or --plan")
    console.settle_device(args)
    check_writable(args.report, None if args.json == STDOUT else args.json)
    from whisq.evaluation.conditions import conditions_met
    from whisq.evaluation.doubts import doubts
    from whisq.evaluation.results_json import as_document, to_json
    from whisq.evaluation.run import evaluate
    from whisq.report.texts import terminal_lines

    if args.report:
        from whisq.cli.report import check_report_name
        from whisq.extras import REPORTING, require_packages

        check_report_name(args.report)
        require_packages(*REPORTING, purpose="--report")
    curve = _curve(args.search)
    if args.plan:
        return _foresee(args, console)
    begin(resumes=not args.no_cache)
    with console.executor(args.ray) as executor, console.stages(executor.account) as progress:
        settings = _settings(args, executor)
        evaluation = evaluate(args.reference, args.candidates, args.data, settings=settings, progress=progress)
    for runtime, device in evaluation.settings.get("transcribed_on", {}).items():
        lacks = "" if device == args.device else f", which has no {args.device} as it is installed"
        console.note(f"transcribed on {device} in {runtime}{lacks}")
    for problem in evaluation.data.problems:
        console.warn(f"left out: {problem}")
    for doubt in doubts(evaluation):
        console.warn(doubt)
    if args.json == STDOUT:
        console.json(as_document(evaluation))
    elif args.json:
        write_text(args.json, to_json(evaluation))
    if args.report:
        from whisq.report.page import write_report

        size_bytes = write_report(evaluation, args.report, curve)
        console.note(f"{args.report}: report of {megabytes(size_bytes):.1f} MB")
    if args.json != STDOUT:
        for line in terminal_lines(evaluation):
            console.data(line)
    met = list(conditions_met(evaluation, tuple(args.fail_if)))
    for one in met:
        console.warn(str(one))
    return CONDITION_MET if met else 0


def _foresee(args: argparse.Namespace, console: Console) -> int:
    """Say what would be shared out; returns the exit code."""
    import json

    from whisq.cli.console import documented
    from whisq.evaluation.run import foresee_evaluation
    from whisq.work import Outline

    outline = Outline()
    with console.stages() as progress:
        settings = _settings(args, outline)
        foresee_evaluation(args.reference, args.candidates, args.data, outline, settings=settings, progress=progress)
    document = documented("plan", outline.document("evaluate"))
    if args.json == STDOUT:
        console.json(document)
        return 0
    if args.json:
        write_text(args.json, json.dumps(document, indent=2) + "\n")
    console.outline("evaluate", outline)
    return 0


def _curve(path: str | None) -> tuple[Mix, ...]:
    if path is None:
        return ()
    from whisq.search import read_sensitivity

    return read_sensitivity(path).curve


def _settings(args: argparse.Namespace, executor: Executor) -> EvaluationSettings:
    from whisq.evaluation.run import EvaluationSettings

    return EvaluationSettings(
        limit=args.limit,
        seed=args.seed,
        language=args.language,
        runtime=args.runtime,
        threads=args.threads,
        jobs=args.jobs,
        fallback=args.temperature_fallback,
        inside=args.inside,
        long_form=args.long_form or args.long_form_minutes is not None,
        **({} if args.long_form_minutes is None else {"long_form_s": 60 * args.long_form_minutes}),
        **({} if args.divergence is None else {"loss_nats": args.divergence}),
        device=args.device,
        skip_bad=args.skip_bad,
        cache=cache_folder(args),
        executor=executor,
    )
