"""``whisq calibrate``: collect from audio what every layer's inputs are like."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.calibration.imatrix import IMATRIX_FORMS
from whisq.cli.arguments import (
    add_cache,
    add_clips,
    add_device,
    add_json,
    add_overwrite_and_quiet,
    add_plan,
    add_ray,
    cache_folder,
    count,
)
from whisq.cli.console import Console
from whisq.cli.paths import Read, WrittenCalibration, WrittenImatrix
from whisq.errors import CalibrationError
from whisq.stopping import begin
from whisq.units import megabytes
from whisq.writing import check_writable

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.calibration.run import CalibrationSettings
    from whisq.model import Model
    from whisq.work import Executor

_EPILOG = """
Without --data the model listens to the speech that comes with whisq. CLIPS is what `whisq evaluate` takes: a folder in
LibriSpeech's layout, a manifest, a folder of audio with texts, a saved dataset; texts may be missing, then the model
writes its own. 40 clips are enough; take the languages and the kind of speech that the model will transcribe.

  whisq calibrate base-f16.bin -o base.calib
  whisq calibrate base-f16.bin --data train-clips -o base.calib
  whisq calibrate base-f16.bin --data german-clips -o more.calib
  whisq calibrate base-f16.bin --merge base.calib --merge more.calib -o both.calib

The same command resumes an interrupted run with the layer it was in.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Read, metavar="MODEL", help="the f16 or f32 model, in any form")
    parser.add_argument(
        "-o", "--output", type=WrittenCalibration, metavar="FILE", required=True, help="the calibration to write"
    )
    data = parser.add_argument_group("the data")
    add_clips(data, what="audio, and what is said in it where that is known", seed_of="the draw", required=False)
    data.add_argument("--own-text", action="store_true", help="use the model's own text, not the transcripts")
    data.add_argument(
        "--weigh-outputs",
        action="store_true",
        help="look at the words' gradients, too: closer blocks of tiny models for 1.6 times the time",
    )
    data.add_argument(
        "--merge",
        type=Read,
        metavar="FILE",
        action="append",
        default=[],
        help="merge this calibration into the output; repeatable",
    )
    how = parser.add_argument_group("how it runs")
    add_device(how)
    how.add_argument("--threads", type=count, metavar="N", help="use N threads (default: all cores)")
    add_cache(how, "an interrupted run")
    add_ray(how)
    add_plan(how)
    out = parser.add_argument_group("more outputs")
    out.add_argument(
        "--imatrix-out", type=WrittenImatrix, metavar="FILE", help="also write the importance as an imatrix GGUF"
    )
    out.add_argument(
        "--imatrix-names",
        choices=("canonical", "transcribe.cpp", "huggingface"),
        default="canonical",
        help="how tensors are named in it (default: canonical)",
    )
    out.add_argument(
        "--imatrix-format",
        choices=tuple(IMATRIX_FORMS),
        default="llama.cpp",
        help="how the file is laid out, by the tool that reads it (default: llama.cpp)",
    )
    add_json(out)
    add_overwrite_and_quiet(out)


def run(args: argparse.Namespace, console: Console) -> int:
    """Calibrate; returns the exit code."""
    console.settle_device(args)
    output = Path(args.output)
    check_writable(args.output, args.imatrix_out)
    from whisq.formats import open_model

    with open_model(args.model) as model:
        from whisq.calibration import merge, read_calibration

        parts = [read_calibration(path) for path in args.merge]
        for part in parts:
            part.check_fits(model)
            if part.is_of(model) is False:
                raise CalibrationError(
                    f"{part.path}: was made with other weights ({part.model_name}) than those of {model.path}",
                    hint="calibrate this model on that audio",
                )
        if args.plan:
            _foresee(args, console, model)
            return 0
        if args.data or not args.merge:
            begin(resumes=not args.no_cache)
            parts.insert(0, _collect(args, console, output))
        if args.merge:
            merge(output, parts)
        calibration = read_calibration(output)
        if args.imatrix_out:
            from whisq.calibration.imatrix import write_imatrix

            form = IMATRIX_FORMS[args.imatrix_format]
            write_imatrix(Path(args.imatrix_out), calibration, model.dims, args.imatrix_names, form)
    for message, hint in calibration.warnings:
        console.warn(message, hint)
    for line in audio_lines(calibration):
        console.data(line)
    console.result(
        "calibrate",
        {
            "output": args.output,
            "size_bytes": output.stat().st_size,
            "imatrix": args.imatrix_out,
            "audio": calibration.audio,
            "inputs": len(calibration.counts),
            "warnings": [{"message": message, "hint": hint} for message, hint in calibration.warnings],
        },
    )
    return 0


def _collect(args: argparse.Namespace, console: Console, output: Path) -> Calibration:
    from whisq.calibration.run import calibrate

    with console.executor(args.ray) as executor, console.stages(executor.account) as progress:
        settings = _settings(args, executor)
        return calibrate(args.model, args.data, output, settings=settings, progress=progress, say=console.note)


def _foresee(args: argparse.Namespace, console: Console, model: Model) -> None:
    """Say what would be shared out."""
    from whisq.calibration.run import foresee_calibration
    from whisq.work import Outline

    outline = Outline()
    if args.data or not args.merge:
        with console.stages() as progress:
            foresee_calibration(model, args.data, outline, settings=_settings(args, outline), progress=progress)
    console.outline("calibrate", outline)


def _settings(args: argparse.Namespace, executor: Executor) -> CalibrationSettings:
    from whisq.calibration.run import CalibrationSettings

    return CalibrationSettings(
        limit=args.limit,
        seed=args.seed,
        language=args.language,
        own_text=args.own_text,
        weigh_outputs=args.weigh_outputs,
        device=args.device,
        threads=args.threads,
        skip_bad=args.skip_bad,
        cache=cache_folder(args),
        executor=executor,
    )


def audio_lines(calibration: Calibration) -> Iterator[str]:
    """Yield what a calibration was made on, and which inputs have columns that were never active."""
    audio = calibration.audio
    spoken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in audio.get("languages", {}).items())
    yield (
        f"audio: {audio.get('seconds', 0):.0f} s in {audio.get('windows', 0)} windows of"
        f" {audio.get('clips', 0)} clips, {audio.get('tokens', 0)} tokens ({spoken})"
    )
    inactive = audio.get("inactive", {})
    if not inactive:
        yield f"covers: {len(calibration.counts)} inputs, every column active"
    else:
        total = sum(inactive.values())
        yield f"covers: {len(calibration.counts)} inputs; {total} columns in {len(inactive)} of them were never active:"
        yield from (f"  {name}: {count}" for name, count in inactive.items())
    yield f"wrote {calibration.path} ({megabytes(calibration.path.stat().st_size):.1f} MB)"
