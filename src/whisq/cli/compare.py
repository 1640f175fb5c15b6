"""``whisq compare``: how far two files of one model are apart, tensor by tensor."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from whisq.cli.arguments import add_json, count
from whisq.cli.console import Console
from whisq.cli.paths import Read
from whisq.errors import RecipeError
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.compare import Comparison, TensorDifference
    from whisq.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", type=Read, metavar="A", help="the reference: any model that whisq reads")
    parser.add_argument("second", type=Read, metavar="B", help="the other one; containers and types may differ")
    parser.add_argument("--match", metavar="PATTERN", help="compare only tensors with such a name, in any dialect")
    parser.add_argument("--top", type=count, metavar="N", help="list only the N worst")
    add_json(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Compare; returns 0 whatever the difference."""
    from whisq.compare import compare
    from whisq.formats import open_model

    with open_model(args.first) as first, open_model(args.second) as second:
        names = _names(first, args.match, console) if args.match else None
        with console.progress(first.n_weights, "comparing") as advance:
            comparison = compare(first, second, names, advance)
        if args.json:
            console.result("compare", _as_json(first, second, comparison, args.top))
            return 0
        for line in _lines(first, second, comparison, args.top):
            console.data(line)
    return 0


def _names(model: Model, pattern: str, console: Console) -> list[str]:
    """Return the canonical names that a pattern matches; says which dialect it was written in."""
    from whisq.recipe.lint import nearest_names
    from whisq.recipe.recipe import check_expression, match_name

    check_expression(pattern)
    matches = {tensor.name: match_name(pattern, tensor.name) for tensor in model.tensors}
    found = {name: match for name, match in matches.items() if match is not None}
    if not found:
        raise RecipeError(
            f"'{pattern}' matches no tensor",
            hint=nearest_names(pattern, list(matches)),
        )
    dialects = {match.dialect for match in found.values()} - {"canonical", None}
    if dialects:
        console.note(f"'{pattern}' was taken as {' and '.join(sorted(map(str, dialects)))} names")
    return list(found)


def _lines(first: Model, second: Model, comparison: Comparison, top: int | None) -> Iterator[str]:
    yield f"A: {first.path} ({first.format})"
    yield f"B: {second.path} ({second.format})"
    shown = comparison.tensors[:top]
    width = max([6, *(len(tensor.name) for tensor in shown)])
    yield f"{'tensor':<{width}}  {'types':<14}  {'bytes':>23}  {'error':>9}  {'SNR dB':>7}  {'largest':>9}"
    for tensor in shown:
        yield _line(tensor, f"{tensor.types[0]} -> {tensor.types[1]}", width)
    hidden = len(comparison.tensors) - len(shown)
    if hidden:
        yield f"… and {hidden} more"
    whole = comparison.whole
    if whole is not None:
        yield _line(whole, "", width)
        equal = sum(tensor.relative_error == 0 for tensor in comparison.tensors)
        sizes = f"{megabytes(whole.sizes_bytes[0]):.2f} MB and {megabytes(whole.sizes_bytes[1]):.2f} MB"
        yield f"{len(comparison.tensors)} tensors, {sizes}; {equal} are equal"


def _line(tensor: TensorDifference, types: str, width: int) -> str:
    sizes = f"{tensor.sizes_bytes[0]} -> {tensor.sizes_bytes[1]}"
    note = f"  {tensor.n_not_finite} not finite" if tensor.n_not_finite else ""
    return (
        f"{tensor.name:<{width}}  {types:<14}  {sizes:>23}  {_percent(tensor.relative_error):>9}"
        f"  {_decibel(tensor.snr_db):>7}  {tensor.largest_error:>9.3g}{note}"
    )


def _percent(error: float) -> str:
    if error == 0:
        return "equal"
    return "inf" if math.isinf(error) else f"{100 * error:.4f}%"


def _decibel(snr_db: float) -> str:
    return "-" if math.isinf(snr_db) else f"{snr_db:.2f}"


def _as_json(first: Model, second: Model, comparison: Comparison, top: int | None) -> dict[str, Any]:
    whole = comparison.whole
    return {
        "a": {"path": str(first.path), "format": first.format},
        "b": {"path": str(second.path), "format": second.format},
        "all": _tensor_as_json(whole, with_types=False) if whole is not None else None,
        "tensors": [_tensor_as_json(tensor) for tensor in comparison.tensors[:top]],
    }


def _tensor_as_json(tensor: TensorDifference, *, with_types: bool = True) -> dict[str, Any]:
    """Return JSON's types; what is infinite is null."""
    from whisq.compare import finite_or_none

    entry: dict[str, Any] = {"name": tensor.name, "n_weights": tensor.n_weights}
    if with_types:
        entry["types"] = [kind.name for kind in tensor.types]
    return entry | {
        "sizes_bytes": list(tensor.sizes_bytes),
        "relative_error": finite_or_none(tensor.relative_error),
        "snr_db": finite_or_none(tensor.snr_db),
        "largest_error": tensor.largest_error,
        "n_not_finite": tensor.n_not_finite,
        "equal": tensor.relative_error == 0,
    }
