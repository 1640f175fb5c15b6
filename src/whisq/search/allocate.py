"""One type a matrix, least harm within a size: the multiple-choice knapsack, solved exactly.

A model's matrices have few distinct shapes, so that their sizes share a large divisor and the budget has some thousand
steps of it: then dynamic programming is exact and takes milliseconds. One matrix may be of another shape, as the
embedding is. Where sizes share nothing, and where time is a second limit, HiGHS solves the integer programme.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from whisq.errors import PlanError


@dataclass(frozen=True, slots=True)
class Choice:
    """A type that a matrix may take, with its bytes, the harm it is expected to do, and the time it takes."""

    type: str
    size_bytes: int
    harm: float
    seconds: float = 0.0


def fastest(choices: Mapping[str, Sequence[Choice]], budget_bytes: int, most_harm: float) -> dict[str, Choice]:
    """Return the mix that takes least time of those within a budget that do no more harm than ``most_harm``.

    Raises ``PlanError`` when no mix does.
    """
    cost = [c.seconds for options in choices.values() for c in options]
    # What the solver's tolerance lets over a limit is solved again, with that much less.
    for less in (1.0, 1 - 1e-6, 1 - 1e-4):
        found = _milp(choices, cost, int(budget_bytes * less), most_harm * less)
        size, harm = sum(c.size_bytes for c in found.values()), sum(c.harm for c in found.values())
        if size <= budget_bytes and harm <= most_harm:
            return found
    raise PlanError("no mix of timed types is within the limits", hint="leave out --prefer-fast")


def allocate(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, Choice]:
    """Return one choice for every matrix: the least harm together, of at most ``budget_bytes`` together.

    Of mixes with equal harm it is one with no smaller choice that harms as little. Raises ``PlanError`` when even the
    smallest choices do not fit.
    """
    smallest = sum(min(choice.size_bytes for choice in options) for options in choices.values())
    if smallest > budget_bytes:
        raise PlanError(
            f"the matrices take at least {smallest} bytes, the budget leaves {budget_bytes}",
            hint="raise the budget, allow smaller types (--types), or let the embedding take part (--unprotect)",
        )
    useful = {name: _undominated(options) for name, options in choices.items()}
    if sum(options[-1].size_bytes for options in useful.values()) <= budget_bytes:
        return {name: options[-1] for name, options in useful.items()}
    return _by_table(useful, budget_bytes) or _solve(useful, budget_bytes)


LARGEST_TABLE = 60_000_000
"""Matrices times steps of the budget: 60 MB, and half a second or so."""


def _by_table(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, Choice] | None:
    """Return the best mix by dynamic programming over the budget, None where the table would be too large.

    ``choices`` are undominated, smallest first. Every budget from the smallest mix on gets its least harm, matrix by
    matrix; sizes are counted from each matrix's smallest, in steps of their greatest common divisor.
    """
    extra = {name: [c.size_bytes - options[0].size_bytes for c in options] for name, options in choices.items()}
    room = budget_bytes - sum(options[0].size_bytes for options in choices.values())

    def step_without(lone: str) -> int:
        return math.gcd(*(size for name, sizes in extra.items() if name != lone for size in sizes))

    def is_small(step: int) -> bool:
        return (room // step + 1) * len(choices) <= LARGEST_TABLE

    step = max(step_without(""), 1)
    if is_small(step):
        return _Table(choices, extra, step, room).mix(room)
    lone = max(choices, key=step_without)
    step = max(step_without(lone), 1)
    if not is_small(step):
        return None
    table = _Table({name: options for name, options in choices.items() if name != lone}, extra, step, room)
    # Every type of the odd one out, with the best of all others in what is left.
    _, option, left = min(
        (option.harm + table.harm(room - size), number, room - size)
        for number, (option, size) in enumerate(zip(choices[lone], extra[lone], strict=True))
        if size <= room
    )
    found = table.mix(left) | {lone: choices[lone][option]}
    return {name: found[name] for name in choices}


class _Table:
    """The best mix for every budget up to ``room``, in bytes above that of all smallest choices."""

    def __init__(
        self, choices: Mapping[str, Sequence[Choice]], extra: Mapping[str, Sequence[int]], step: int, room: int
    ) -> None:
        import numpy as np

        self._choices, self._extra, self._step = choices, extra, step
        self._least = np.zeros(room // step + 1)
        self._picks = np.zeros((len(choices), len(self._least)), np.uint8)
        for row, (name, options) in enumerate(choices.items()):
            before, least = self._least, self._least + options[0].harm
            for number in range(1, len(options)):
                shift = extra[name][number] // step
                if shift >= len(least):
                    break
                found = before[: len(before) - shift] + options[number].harm
                better = found < least[shift:]
                least[shift:][better] = found[better]
                self._picks[row, shift:][better] = number
            self._least = least

    def harm(self, room: int) -> float:
        """Return the least harm within ``room`` bytes."""
        return float(self._least[room // self._step])

    def mix(self, room: int) -> dict[str, Choice]:
        """Return the choices that do it."""
        chosen, left = {}, room // self._step
        for row, (name, options) in reversed(list(enumerate(self._choices.items()))):
            number = int(self._picks[row, left])
            chosen[name] = options[number]
            left -= self._extra[name][number] // self._step
        return {name: chosen[name] for name in self._choices}


def _undominated(options: Sequence[Choice]) -> list[Choice]:
    """Return the choices, smallest first, that harm less than every smaller one."""
    kept: list[Choice] = []
    for choice in sorted(options, key=lambda c: (c.size_bytes, c.harm)):
        if not kept or choice.harm < kept[-1].harm:
            kept.append(choice)
    return kept


def _solve(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, Choice]:
    chosen = _milp(choices, [c.harm for options in choices.values() for c in options], budget_bytes)
    total = sum(choice.size_bytes for choice in chosen.values())
    return _filled(choices, chosen if total <= budget_bytes else _trimmed(choices, chosen, budget_bytes), budget_bytes)


def _milp(
    choices: Mapping[str, Sequence[Choice]], cost: Sequence[float], budget_bytes: int, most_harm: float | None = None
) -> dict[str, Choice]:
    """Return one choice for every matrix, of least cost together; ``cost`` is in the order of the choices."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    items = [(row, name, choice) for row, (name, options) in enumerate(choices.items()) for choice in options]
    n = len(items)
    size = np.array([choice.size_bytes for _, _, choice in items], float)
    rows = np.array([row for row, _, _ in items])
    one_each = csr_array((np.ones(n), (rows, np.arange(n))), shape=(len(choices), n))
    # In units of the limits and of the largest cost: the solver's tolerances are absolute.
    limits = [LinearConstraint((size / budget_bytes)[None, :], -np.inf, 1.0)]
    if most_harm is not None:
        harm = np.array([choice.harm for _, _, choice in items])
        # A choice that alone does more harm than allowed is out at any coefficient over 1.
        limits.append(LinearConstraint(np.minimum(harm / max(most_harm, 1e-300), 2.0)[None, :], -np.inf, 1.0))
    with _nothing_printed():
        found = milp(
            np.array(cost) / (max(cost) or 1.0),
            integrality=np.ones(n),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), *limits],
            options={"mip_rel_gap": 1e-7, "time_limit": 60},
        )
    if found.x is None or found.status != 0:
        raise PlanError(f"the allocation was not solved: {found.message}", hint="try another budget")
    return {name: choice for (_, name, choice), picked in zip(items, found.x, strict=True) if picked > 0.5}


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep a library's own words off this process's output: HiGHS prints some, whatever it is told."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def _trimmed(
    choices: Mapping[str, Sequence[Choice]], chosen: dict[str, Choice], budget_bytes: int
) -> dict[str, Choice]:
    """Take back what the solver's tolerance let over the budget: a few bytes, at the least harm a byte."""
    chosen = dict(chosen)
    while (over := sum(choice.size_bytes for choice in chosen.values()) - budget_bytes) > 0:
        steps = [
            (max(0.0, option.harm - now.harm) / min(over, now.size_bytes - option.size_bytes), name, option)
            for name, now in chosen.items()
            for option in choices[name]
            if option.size_bytes < now.size_bytes
        ]
        _, name, option = min(steps, key=lambda step: step[:2])
        chosen[name] = option
    return chosen


def _filled(choices: Mapping[str, Sequence[Choice]], chosen: dict[str, Choice], budget_bytes: int) -> dict[str, Choice]:
    """Spend what is left of the budget wherever it still takes harm away."""
    chosen = dict(chosen)
    left = budget_bytes - sum(choice.size_bytes for choice in chosen.values())
    while True:
        steps = [
            ((now.harm - option.harm) / (option.size_bytes - now.size_bytes), name, option)
            for name, now in chosen.items()
            for option in choices[name]
            if 0 < option.size_bytes - now.size_bytes <= left
        ]
        if not steps:
            return chosen
        _, name, option = max(steps, key=lambda step: step[:2])
        left -= option.size_bytes - chosen[name].size_bytes
        chosen[name] = option
