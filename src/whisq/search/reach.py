"""Goals that no file meets, and goals that any file does: told before any work, with what is possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

from whisq.errors import PlanError
from whisq.model import Model
from whisq.search.goal import Goal, Space, bytes_of
from whisq.units import megabytes


def refuse_out_of_reach(goal: Goal, sizes: Sequence[int], model: Model) -> None:
    """Raise ``PlanError`` for a goal below the smallest of these files, or one beyond the largest.

    ``sizes`` are bytes of files in the goal's container: of those that could be the answer, and of the model in f16.
    """
    smallest, largest = min(sizes), max(sizes)
    possible = f"the smallest possible file has {sized(smallest)}, the model in f16 {sized(largest)}"
    if goal.size_bytes is not None:
        if goal.size_bytes < smallest:
            least = math.ceil(megabytes(smallest))
            raise PlanError(f"{sized(goal.size_bytes)} are too few: {possible}", hint=f"raise it: --size {least}MB")
        if goal.size_bytes > largest:
            raise PlanError(
                f"{sized(goal.size_bytes)} leave nothing to choose: {possible}",
                hint=f"give a size between the two, such as --size {megabytes((smallest + largest) / 2):.0f}MB",
            )
    if goal.bits is not None:
        low, high = (8 * size / model.n_weights for size in (smallest, largest))
        range_of_bits = f"the smallest possible file has {low:.2f} bits per weight, the model in f16 {high:.2f}"
        if goal.bits < low:
            least_bits = math.ceil(10 * low) / 10
            raise PlanError(
                f"{goal.bits} bits per weight are too few: {range_of_bits}", hint=f"raise it: --bits {least_bits}"
            )
        if goal.bits > high:
            raise PlanError(
                f"{goal.bits} bits per weight leave nothing to choose: {range_of_bits}",
                hint=f"give a number between the two, such as --bits {(low + high) / 2:.1f}",
            )
    guessing = math.log(model.dims.n_vocab)
    if goal.divergence is not None and goal.divergence >= guessing:
        raise PlanError(
            f"{goal.divergence} nats per token allow any file: a model that only guesses is at {guessing:.1f}",
            hint="give what a file may lose, such as --divergence 0.01",
        )


def sized(size_bytes: int) -> str:
    """Return a size as messages say it."""
    return f"{megabytes(size_bytes):.2f} MB ({size_bytes} bytes)"


def sizes_of_mixes(space: Space) -> tuple[int, int]:
    """Return the bytes of the smallest and of the largest ``.bin`` that a space holds.

    Raises ``PlanError`` where nothing takes part.
    """
    if not space.tensors:
        raise PlanError("no matrix takes part: all are protected", hint="leave out --protect, or --unprotect some")
    each = [[bytes_of(t, kind) for kind in space.types[t.name]] for t in space.tensors]
    return space.file_bytes + sum(map(min, each)), space.file_bytes + sum(map(max, each))
