"""``whisq demo``: what whisq does, on real weights, in a real runtime."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.cli.arguments import add_json, add_overwrite_and_quiet
from whisq.cli.console import Console
from whisq.cli.paths import Read, Written, WrittenModel
from whisq.errors import OutputError, RecipeError
from whisq.units import megabytes
from whisq.writing import scratch_folder

if TYPE_CHECKING:
    from whisq.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model", nargs="?", type=Read, metavar="MODEL", help="f16 model to show (default: tiny.en, fetched if need be)"
    )
    parser.add_argument("--recipe", type=Read, default="balanced", metavar="NAME|FILE", help="default: balanced")
    parser.add_argument("--output", metavar="FOLDER", help="keep both model files there (default: thrown away)")
    add_json(parser)
    add_overwrite_and_quiet(parser)


def more_outputs(args: argparse.Namespace) -> list[Written]:
    """Return the model files, where they are kept."""
    names = ("f16", args.recipe) if args.output else ()
    return [WrittenModel(_path(Path(args.output), args.model, name)) for name in names]


def _path(folder: Path, model: str | None, recipe_name: str) -> Path:
    name = Path(model).name.removesuffix(".bin").removesuffix("-f16") if model else "tiny.en"
    return folder / f"{name or 'model'}-{Path(recipe_name).stem}.bin"


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the demonstration; returns the exit code."""
    from whisq.recipe import load_recipe, preset_names

    if args.model in preset_names() and not Path(args.model).exists():
        raise RecipeError(f"{args.model}: is a recipe, not a model", hint=f"whisq demo --recipe {args.model}")
    recipe = load_recipe(args.recipe)
    if args.output is not None:
        folder = Path(args.output)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be made a folder: {error.strerror}", hint="name a folder that is not there yet"
            ) from None
        return _show(recipe, args, folder, console)
    with scratch_folder() as folder:
        return _show(recipe, args, folder, console)


def _weights(args: argparse.Namespace, console: Console) -> str:
    from whisq.demo import weights

    if args.model is not None:
        return str(args.model)
    model, place = weights()
    console.note(f"tiny.en from {place}")
    return model


def _show(smaller_recipe: Recipe, args: argparse.Namespace, folder: Path, console: Console) -> int:
    from whisq.demo import SENTENCE, speech, transcribe
    from whisq.formats import open_model
    from whisq.quantization.plan import make_plan
    from whisq.quantization.write import quantize
    from whisq.recipe import Recipe
    from whisq.types import F16

    samples, recipe_name = speech(), args.recipe
    rows = []
    with open_model(_weights(args, console)) as model:
        for name, recipe in (("f16", Recipe(F16)), (recipe_name, smaller_recipe)):
            path = _path(folder, args.model, name)
            plan = make_plan(model, recipe)
            written = quantize(plan, path)
            console.note(f"wrote {path.name}: {megabytes(written.size_bytes):.1f} MB in {written.duration_s:.2f} s")
            found = transcribe(path, samples)
            rows.append((name, written.size_bytes, plan.bits_per_weight, found))
    console.data(f"said:      {SENTENCE}")
    for name, _, _, found in rows:
        console.data(f"{name + ':':<10} {found.text}")
    console.data()
    console.data(f"{'model':<10} {'size':>9} {'bits/weight':>12} {'load':>8} {'transcribe':>11}")
    for name, size_bytes, bits, found in rows:
        size = f"{megabytes(size_bytes):.1f} MB"
        console.data(f"{name:<10} {size:>9} {bits:>12.2f} {found.load_s:>6.2f} s {found.run_s:>9.2f} s")
    original, smaller = rows[0], rows[1]
    same = "the same transcript" if original[3].text == smaller[3].text else "another transcript"
    console.data()
    console.result(
        "demo",
        {
            "said": SENTENCE,
            "same_text": original[3].text == smaller[3].text,
            "files": [
                {
                    "file": _path(folder, args.model, name).name,
                    "size_bytes": size_bytes,
                    "bits_per_weight": bits,
                    **asdict(found),
                }
                for name, size_bytes, bits, found in rows
            ],
        },
    )
    console.data(f"{recipe_name} is {smaller[1] / original[1]:.0%} of the original's size and gives {same}.")
    return 0
