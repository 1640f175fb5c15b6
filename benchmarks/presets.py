"""What presets are written from, and whether each is worth its bytes.

    python benchmarks/presets.py roles SENSITIVITY.json ...
    python benchmarks/presets.py types MODEL SENSITIVITY.json
    python benchmarks/presets.py judge MODEL CLIPS [--clips N] [--method feedback --calibration FILE]

`roles` prints, of what `whisq search --sensitivity` wrote, the harm of every role and third of the depth in every type,
in nats per token. It was measured with

    whisq search MODEL --calibration FILE --method ggml --measure all --target whisper.cpp-pr3605 \
          --unprotect decoder.token_embedding.weight --size 45MB -o mix.toml --sensitivity SENSITIVITY.json

`types` prints from the same file what one type throughout makes of a model: size, divergence, what the embedding in it
costs alone (≈ where that follows from another type's measurement), and which runtimes load it.

`judge` measures every preset and every file of one type that transcribe.cpp takes, embedding included, on clips, and
exits with 1 where a preset is dominated: where a file that is no larger diverges no more.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

import peers

import whisq
from whisq.calibration import read_calibration
from whisq.calibration.factors import check_factors
from whisq.clips.datasets import load_clips
from whisq.evaluation.statistics import paired_difference
from whisq.network.devices import operations_for
from whisq.optimization.choices import evenly
from whisq.quantization.rounding import parse_method
from whisq.recipe import load_recipe
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.search import read_sensitivity
from whisq.search.judging import Judge
from whisq.search.presets import dominating, preset_candidates
from whisq.search.uniform import Judged, uniform_recipe
from whisq.types import TYPES
from whisq.units import megabytes
from whisq.whisper import TOKEN_EMBEDDING

MATRIX = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.weight")
THIRDS = ("first", "second", "last")


def roles(paths: list[Path]) -> int:
    """Print the table of each sensitivity."""
    for path in paths:
        found = read_sensitivity(path)
        layers: dict[str, int] = defaultdict(int)
        for name in found.harms:
            if match := MATRIX.fullmatch(name):
                layers[match[1]] = max(layers[match[1]], 1 + int(match[2]))
        sums: dict[tuple[str, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for name, harms in found.harms.items():
            match = MATRIX.fullmatch(name)
            third = THIRDS[3 * int(match[2]) // layers[match[1]]] if match else ""
            for kind, harm in harms.items():
                sums[(match[1], match[3], third) if match else (name, "", "")][kind] += found.scale * harm
        kinds = [name for name in TYPES if any(name in harms for harms in sums.values()) and name != "f16"]
        print(f"{path}: {found.provenance.get('tokens')} tokens, rounded with {found.provenance.get('method')}")
        print(f"| matrices | depth | {' | '.join(kinds)} |\n| --- | --- |{' --: |' * len(kinds)}")
        for (stack, role, third), harms in sorted(sums.items()):
            cells = " | ".join(f"{harms[kind]:.5f}" if kind in harms else "–" for kind in kinds)
            print(f"| {stack} {role} | {third} | {cells} |")
    return 0


def types(path: Path, sensitivity: Path) -> int:
    """Print the table of all types of a model, and of presets."""
    found = read_sensitivity(sensitivity)
    print(f"{found.provenance.get('tokens')} tokens, rounded with {found.provenance.get('method')}")
    print("| file | MB | nats per token | embedding alone | loads in |\n| --- | --: | --: | --: | --- |")
    with whisq.open_model(path) as model:
        for mix in sorted(found.curve, key=lambda mix: mix.size_bytes):
            if mix.kind == "searched":
                continue
            recipe = load_recipe(mix.name) if mix.kind == "preset" else uniform_recipe(TYPES[mix.name])
            plan = whisq.make_plan(model, recipe)
            if plan.size_bytes != mix.size_bytes:
                continue  # a preset that is another by now
            embedding = plan[TOKEN_EMBEDDING].type.name
            alone = found.harms[TOKEN_EMBEDDING].get(embedding)
            loads = ", ".join(verdict.runtime for verdict in plan.verdicts if verdict.loads)
            mixed = " (falls back)" if any(a.is_fallback for a in plan.assignments) else ""
            loss = f"{mix.measured:.4f}" if mix.measured is not None else f"{mix.predicted:.4f} (expected)"
            follows = embedding not in found.measured.get(TOKEN_EMBEDDING, ())
            cost = "–" if alone is None else f"{'≈ ' * follows}{(found.scale if follows else 1) * alone:.4f}"
            print(f"| {mix.name}{mixed} | {megabytes(plan.size_bytes):.1f} | {loss} | {cost} | {loads} |")
    return 0


def judge(args: argparse.Namespace) -> int:
    """Measure presets and files of one type; returns 1 where a preset is dominated."""
    calibration = check_factors(read_calibration(args.calibration)) if args.calibration else None
    clips = load_clips(args.clips, language=args.language).clips
    heard = evenly([clip for clip in clips if args.language in (None, clip.language)], args.limit)
    print(", ".join(f"{key} {value}" for key, value in peers.machine().items()))
    with whisq.open_model(args.model) as model:
        meter = Judge(model, heard, operations_for("cpu"))
        judged = []
        print(f"{len(heard)} clips, {meter.duration_s:.0f} s, rounded with {args.method}")
        print("| file | MB | nats per token | 95 % |\n| --- | --: | --: | --: |")
        for candidate in preset_candidates(model, TRANSCRIBE_CPP, calibration, parse_method(args.method)):
            judged.append(Judged(candidate, meter.divergences(candidate.plan)))
            found = judged[-1].interval()
            name = candidate.name if candidate.is_uniform else f"**{candidate.name}**"
            size = f"{megabytes(judged[-1].size_bytes):.1f}"
            print(f"| {name} | {size} | {found.estimate:.5f} | {found.low:.5f} to {found.high:.5f} |", flush=True)
    beaten = list(dominating(judged))
    for mine, other in beaten:
        mine_sums, theirs = mine.divergences, other.divergences
        difference = paired_difference(mine_sums.sums, theirs.sums, theirs.tokens).interval
        print(
            f"{mine.name} is dominated by {other.name}: {difference.low:+.5f} to {difference.high:+.5f} nats per token"
        )
    print("no preset is dominated" if not beaten else f"{len(beaten)} presets are dominated")
    return int(bool(beaten))


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    of_roles = what.add_parser("roles")
    of_roles.add_argument("sensitivity", nargs="+", type=Path)
    of_types = what.add_parser("types")
    of_types.add_argument("model", type=Path)
    of_types.add_argument("sensitivity", type=Path)
    of_clips = what.add_parser("judge")
    of_clips.add_argument("model", type=Path)
    of_clips.add_argument("clips", help="what `whisq evaluate` takes")
    of_clips.add_argument("--clips", dest="limit", type=int, metavar="N", help="measure on N of them, evenly spaced")
    of_clips.add_argument("--language", help="measure clips of this language only")
    of_clips.add_argument("--method", default="ggml", help="ggml, importance or feedback")
    of_clips.add_argument("--calibration", type=Path, help="what `whisq calibrate` wrote")
    args = parser.parse_args()
    if args.what == "types":
        return types(args.model, args.sensitivity)
    return roles(args.sensitivity) if args.what == "roles" else judge(args)


if __name__ == "__main__":
    raise SystemExit(main())
