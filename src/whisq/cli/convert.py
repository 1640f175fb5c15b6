"""``whisq convert``: the same weights in another container."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.cli.arguments import add_json, add_overwrite_and_quiet, thread_count
from whisq.cli.console import Console
from whisq.cli.mistakes import check_swapped
from whisq.cli.paths import Read, Written, WrittenModel, WrittenSidecar
from whisq.formats.layout import CONTAINERS
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.quantization.plan import Plan

_EPILOG = """
SOURCE is a Hugging Face folder or hub id (openai/whisper-small), an OpenAI .pt, a CTranslate2 folder, a .bin or a GGUF.
Without --type every tensor keeps its type, quantized ones too. Norms, biases and positions are always stored as f32.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Read, metavar="SOURCE", help="the model to read: a path, or an id on the hub")
    parser.add_argument("output", type=WrittenModel, metavar="OUTPUT", help="the file to write: .bin or .gguf")
    parser.add_argument(
        "--type", choices=("f16", "f32", "bf16"), help="store all matrices in this type (default: as they are)"
    )
    parser.add_argument(
        "--format", choices=tuple(CONTAINERS), help="write this container (default: by OUTPUT's suffix)"
    )
    parser.add_argument("--sidecar", action="store_true", help="write where the file comes from to OUTPUT.json")
    parser.add_argument("--threads", type=thread_count, metavar="N", help="use N threads (default: all CPUs)")
    add_json(parser)
    add_overwrite_and_quiet(parser)


def check_words(args: argparse.Namespace) -> None:
    """Raise the right order where the arguments are in another."""
    check_swapped(args.source, args.output, "SOURCE", ["convert"])


def more_outputs(args: argparse.Namespace) -> list[Written]:
    """Return what is written beside OUTPUT."""
    from whisq.provenance import sidecar_path

    return [WrittenSidecar(sidecar_path(args.output))] if args.sidecar else []


def run(args: argparse.Namespace, console: Console) -> int:
    """Convert; returns the exit code."""
    from whisq.cli.notes import miscounted_tokens
    from whisq.cli.plan_text import plan_as_json
    from whisq.formats import container_of, open_model
    from whisq.provenance import provenance_of, sidecar
    from whisq.quantization.convert import make_conversion
    from whisq.quantization.write import check_output, quantize
    from whisq.types import parse_type

    container = container_of(Path(args.output), args.format)
    with open_model(args.source) as model:
        for note in model.notes:
            console.note_always(note)
        for warning in model.warnings:
            console.warn(warning)
        kind = parse_type(args.type) if args.type else None
        stated = provenance_of(model) if CONTAINERS[container].has_provenance or args.sidecar else None
        plan = make_conversion(model, container, kind, stated)
        check_output(plan, args.output)
        for message, hint in miscounted_tokens(plan):
            console.warn(message, hint)
        warn_of_no_runtime(plan, console)
        beside = sidecar(plan, args.output) if args.sidecar else nullcontext()
        with beside, console.progress(model.n_weights, "converting") as advance:
            written = quantize(plan, args.output, threads=args.threads, progress=advance)
        for line in _report(plan, args.output, written.duration_s):
            console.data(line)
        console.result("convert", plan_as_json(plan, args.output, written.duration_s))
    return 0


def warn_of_no_runtime(plan: Plan, console: Console) -> None:
    """Say so when no runtime loads the file."""
    if not any(verdict.loads for verdict in plan.verdicts):
        from whisq.runtimes.registry import refusals

        hint = None if plan.container == "bin" else CONTAINERS["bin"].to_write
        console.warn(f"no runtime that whisq knows loads this file ({refusals(plan.verdicts)})", hint)


def _report(plan: Plan, output: str, duration_s: float) -> list[str]:
    def types(kinds: Counter[str]) -> str:
        return " ".join(f"{name} {count}" for name, count in kinds.most_common())

    before = Counter(a.tensor.type.name for a in plan.assignments)
    after = Counter(a.type.name for a in plan.assignments)
    changed = "types kept" if before == after else f"{types(before)} -> {types(after)}"
    return [
        f"{plan.model.format} -> {plan.container}: {len(plan.assignments)} tensors, {changed}",
        f"loads in: {', '.join(v.title for v in plan.verdicts if v.loads) or 'no runtime that whisq knows'}",
        f"wrote {output}: {megabytes(plan.size_bytes):.2f} MB ({plan.size_bytes} bytes) in {duration_s:.2f} s",
    ]
