"""``whisq optimize``: from a model, some speech and a size to the best file of that size, and what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.cli.arguments import (
    WithoutUnit,
    add_clips,
    add_device,
    add_goal,
    add_json,
    add_overwrite_and_quiet,
    add_ray,
    add_space,
    check_unit,
    count,
)
from whisq.cli.console import Console
from whisq.cli.mistakes import check_swapped
from whisq.cli.paths import (
    Read,
    Written,
    WrittenCalibration,
    WrittenModel,
    WrittenRecipe,
    WrittenReport,
    WrittenResults,
    WrittenSensitivity,
    WrittenSteps,
)
from whisq.runtimes.registry import parse_runtime
from whisq.stopping import begin
from whisq.system import quoted
from whisq.types import TYPES
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.evaluation.results import Evaluation
    from whisq.optimization.run import Optimized
    from whisq.runtimes.runtime import Runtime

_EPILOG = """
  whisq optimize --target whisper.cpp base-f16.bin base-best.bin --size 60MB
  whisq optimize base-f16.bin base-80.bin --data clips --size 80MB

Without CLIPS, synthetic speech that comes with whisq is calibrated on, and other such speech judges. CLIPS is what
`whisq evaluate` takes; about 60 clips are good. A third of the audio is held out to judge by, of speakers that were not
calibrated on where the data names speakers (LibriSpeech's layout, a column `speaker`).

A mix is the answer only where no file of one type that the goal allows, embedding included, is as good.

Beside OUTPUT a folder of its name, with .optimize for its suffix, gets model.calib, recipe.toml, sensitivity.json and
mix.toml of the search and, with CLIPS, files of one type beside the result, results.json and report.html. The same
command resumes where it stopped; another --size measures only the new files.
"""


_MADE_ON_THE_WAY: dict[str, type[Written]] = {
    "model.calib": WrittenCalibration,
    "sensitivity.json": WrittenSensitivity,
    "mix.toml": WrittenRecipe,
    "recipe.toml": WrittenRecipe,
    "results.json": WrittenResults,
    "report.html": WrittenReport,
    "made.json": WrittenSteps,
    "reference-f16.bin": WrittenModel,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Read, metavar="MODEL", help="the f16 or f32 model, in any form")
    parser.add_argument("output", type=WrittenModel, metavar="OUTPUT", help="the file to write: .bin or .gguf")
    add_goal(parser)
    data = parser.add_argument_group("the data")
    add_clips(
        data,
        what="audio and what is said in it (default: built-in synthetic speech)",
        seed_of="the draw and the split",
        required=False,
    )
    add_space(parser)
    how = parser.add_argument_group("how it runs")
    how.add_argument("--probes", type=count, default=8, metavar="N", help="search on N pieces of audio (default: 8)")
    add_device(how)
    how.add_argument(
        "--folder", metavar="FOLDER", help="keep what is made on the way there (default: best.optimize beside best.bin)"
    )
    add_ray(how)
    add_json(how)
    add_overwrite_and_quiet(how)


def check_words(args: argparse.Namespace) -> None:
    """Raise the right order where the arguments are in another."""
    check_swapped(args.model, args.output, "MODEL", ["optimize"])


def more_outputs(args: argparse.Namespace) -> list[Written]:
    """Return what is made on the way, in a folder of its own."""
    target = Path(args.output)
    folder = Path(args.folder) if args.folder else target.with_name(f"{target.stem}.optimize")
    uniform = [f"uniform-{kind}{target.suffix}" for kind in TYPES.values() if kind.is_quantized]
    made = _MADE_ON_THE_WAY | dict.fromkeys(uniform, WrittenModel)
    return [kind(folder / name) for name, kind in made.items()]


def run(args: argparse.Namespace, console: Console) -> int:
    """Optimize; returns the exit code."""
    console.settle_device(args)
    from whisq.cli.notes import lost_companions
    from whisq.formats import open_model
    from whisq.optimization.run import OptimizationSettings, optimize

    settings = OptimizationSettings(
        types=args.types,
        target=args.target,
        protect=tuple(args.protect),
        unprotect=tuple(args.unprotect),
        embedding=args.embedding,
        probes=args.probes,
        limit=args.limit,
        seed=args.seed,
        language=args.language,
        skip_bad=args.skip_bad,
        device=args.device,
        folder=Path(args.folder) if args.folder else None,
    )
    if isinstance(args.size, WithoutUnit):
        target = Path(args.output)
        with open_model(args.model) as model:
            check_unit(args.size, settings.choices(model, parse_runtime(args.target).container_for(target)).sizes)
    begin(resumes=True)
    with console.executor(args.ray) as executor, console.stages(executor.account) as progress:
        found = optimize(
            args.model,
            args.output,
            args.data,
            size_bytes=args.size,
            bits=args.bits,
            divergence=args.divergence,
            settings=replace(settings, executor=executor),
            progress=progress,
            expect=progress.expect,
        )
    for message, hint in found.calibration.warnings:
        console.warn(message, hint)
    for problem in found.judged.problems:
        console.warn(f"left out: {problem}")
    if found.reused:
        console.note(f"from an earlier run: {', '.join(found.reused)}")
    for line in lines_of(found, parse_runtime(args.target), args.embedding):
        console.data(line)
    if found.checked is not None and found.checked.unheard:
        console.warn(str(found.checked), found.checked.hint)
    elif found.checked is not None:
        console.note_always(str(found.checked))
    console.result("optimize", _document(found))
    if found.left_out:
        compared = f"whisq evaluate {quoted(str(args.model))} {quoted(str(args.output))} --data CLIPS"
        more = f"; on speech of your own: {compared}" if args.data is None else ""
        console.note(f"words were not compared: {found.left_out}{more}")
    for note in lost_companions(found.plan, found.output):
        console.note_always(note)
    return 0


def _document(found: Optimized) -> dict[str, Any]:
    """Return what came of it as JSON's types; sizes in bytes, paths as they were given."""
    from whisq.evaluation.results_json import which_file_document
    from whisq.recipe import save_recipe

    has_words = found.evaluation is not None
    return {
        "output": str(found.output),
        "size_bytes": found.plan.size_bytes,
        "method": found.plan.method.name,
        "recipe": save_recipe(found.recipe),
        "loads_in": [verdict.runtime for verdict in found.plan.verdicts if verdict.loads],
        "chosen": found.ladder.chosen.name,
        "judged": which_file_document(found.which_file),
        "judged_on": found.judged.source,
        "audio": list(found.audio),
        "untried": list(found.ladder.untried),
        "words": which_file_document(found.evaluation.which_file) if found.evaluation is not None else None,
        "left_out": found.left_out or None,
        "folder": str(found.folder),
        "report": str(found.folder / "report.html") if has_words else None,
        "results": str(found.folder / "results.json") if has_words else None,
        "checked": None if found.checked is None else str(found.checked),
        "reused": list(found.reused),
    }


def lines_of(found: Optimized, target: Runtime, embedding: str | None) -> Iterator[str]:
    """Yield what came of it: all files judged, the answer, and what it says where transcripts were compared."""
    from whisq.cli.ladder import answer_line, embedding_line, ladder_lines

    yield from ladder_lines(found.ladder, found.judged)
    yield answer_line(found.ladder, found.plan)
    yield embedding_line(found.plan, target=target.name, loads_mixes=target.loads_mixes, asked=embedding)
    if found.evaluation is not None:
        yield from word_lines(found.evaluation)
    yield from found.audio
    loading = ", ".join(verdict.runtime for verdict in found.plan.verdicts if verdict.loads)
    yield f"loads in {loading}"
    report = f"; report: {found.folder / 'report.html'}" if found.evaluation is not None else ""
    yield f"wrote {found.output}: {found.plan.size_bytes} bytes, {megabytes(found.plan.size_bytes):.2f} MB{report}"


def word_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield error rates of source, result and files of one type beside it, and verdicts between them."""
    from whisq.report.tables import Table, text_lines
    from whisq.report.wording import interval, number, percent, verdict_word

    rows = []
    for index, (model, summary) in enumerate(zip(evaluation.models, evaluation.summaries, strict=True)):
        inside = summary.divergence if summary else None
        rows.append(
            (
                "source" if index == 0 else model.label.rpartition("/")[2],
                f"{megabytes(model.size_bytes):.2f}",
                number(model.bits_per_weight, 2),
                "–" if inside is None else f"{number(inside.estimate, 5)}",
                "–" if inside is None else f"{number(inside.low, 5)} to {number(inside.high, 5)}",
                "–" if summary is None else percent(summary.word_error_rate.estimate, 2),
                "–" if summary is None else interval(summary.word_error_rate),
                verdict_word(model, summary),
            )
        )
    heading = ("model", "MB", "bits/weight", "KL", "95 %", "WER %", "95 %", "WER against the source")
    yield from text_lines(Table(heading, tuple(rows)))
    yield f"judged on {len(evaluation.data.clips)} clips held out ({evaluation.data.duration_s:.0f} s)"
    for index in range(2, len(evaluation.models)):
        line = _against(evaluation, index)
        if line:
            yield line


def _against(evaluation: Evaluation, other: int) -> str:
    mine, theirs = evaluation.models[1], evaluation.models[other]
    difference = evaluation.divergence_difference(1, other)
    if difference is None:
        return ""
    sums = [sum(sum(one.divergences) for one in model.inside) for model in (mine, theirs)]
    ratio = f"{sums[0] / sums[1]:.2f} times" if sums[1] else "not measurably more than"
    name = theirs.label.rpartition("/")[2].removeprefix("uniform-")
    share = mine.size_bytes / theirs.size_bytes
    return f"{difference.verdict} than uniform {name}: diverges {ratio} as much, at {share:.1%} of its size"
