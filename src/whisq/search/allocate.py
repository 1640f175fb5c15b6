"""One type per matrix, least harm within a size: the multiple-choice knapsack, solved exactly.

A model's matrices have few distinct shapes, so that their sizes share a large divisor and the budget has some thousand
steps of it: then dynamic programming is exact and takes milliseconds. One matrix may be of another shape, as the
embedding is. Where sizes share nothing, and where time is a second limit, HiGHS solves the integer programme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whisq.errors import PlanError
from whisq.search.integer_programme import least_cost


@dataclass(frozen=True, slots=True)
class Choice:
    """A type that a matrix may take, with its bytes, the harm it is expected to do, and the time it takes."""

    type: str
    size_bytes: int
    harm: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Limit:
    """The most that choices of all matrices may have together of something, bytes or harm.

    It is counted from each matrix's least, in units of the room that is left then, so that what a solver tolerates is a
    part of that room, however small the harms are.
    """

    amounts: tuple[float, ...]
    room: float

    @classmethod
    def of_sizes(cls, choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> _Limit:
        """Count in the sizes' greatest common divisor: between two multiples of it no solver errs."""
        least = {name: min(c.size_bytes for c in options) for name, options in choices.items()}
        extra = [c.size_bytes - least[name] for name, options in choices.items() for c in options]
        step = max(math.gcd(*extra), 1)
        room = (budget_bytes - sum(least.values())) // step
        return cls(tuple(size // step for size in extra), room + 0.5)

    @classmethod
    def of_harms(cls, choices: Mapping[str, Sequence[Choice]], most_harm: float) -> _Limit:
        """Leave room for the rounding of a sum."""
        least = {name: min(c.harm for c in options) for name, options in choices.items()}
        extra = (c.harm - least[name] for name, options in choices.items() for c in options)
        return cls(tuple(extra), most_harm - math.fsum(least.values()) + ROUNDING * most_harm)

    def coefficients(self) -> list[float]:
        """Return each choice's part of the room."""
        return [amount / self.room if amount else 0.0 for amount in self.amounts]

    def admits(self) -> list[bool]:
        """Return which choices are within the limit when every other matrix takes its least."""
        return [amount <= self.room for amount in self.amounts]


ROUNDING = 1e-12
"""What summing a model's harms may be off by, relatively: a thousand matrices, f64."""


def fastest(choices: Mapping[str, Sequence[Choice]], budget_bytes: int, most_harm: float) -> dict[str, Choice]:
    """Return the mix that takes least time of those within a budget that do no more harm than ``most_harm``.

    Both limits are kept exactly. It is no slower than any mix that does a ten-thousandth less harm than allowed.
    Raises ``PlanError`` when no mix is within the limits.
    """
    useful = _admitted(choices, budget_bytes, most_harm)
    if all(useful.values()):
        cost = [c.seconds for options in useful.values() for c in options]
        limits = (_Limit.of_sizes(useful, budget_bytes), _Limit.of_harms(useful, most_harm))
        bounds = [1.0, 1.0]
        # What the solver's tolerance lets over a limit is solved again, with that much less of it.
        for less in (2e-6, 1e-4, 1e-4):
            rows = [(limit.coefficients(), bound) for limit, bound in zip(limits, bounds, strict=True)]
            found = least_cost(useful, cost, rows)
            if found is None:
                break
            size, harm = _totals(found)
            if size <= budget_bytes and harm <= most_harm:
                return found
            over = (size > budget_bytes, harm > most_harm)
            bounds = [1 - less if is_over else bound for bound, is_over in zip(bounds, over, strict=True)]
        least = allocate(choices, budget_bytes)
        if _totals(least)[1] <= most_harm:
            return least
    raise PlanError("no mix of timed types is within the limits", hint="leave out --prefer-fast")


def _admitted(
    choices: Mapping[str, Sequence[Choice]], budget_bytes: int, most_harm: float
) -> dict[str, Sequence[Choice]]:
    """Return the choices that some mix within both limits might have; none for a matrix when no mix is within them."""
    kept: dict[str, Sequence[Choice]] = dict(choices)
    while all(kept.values()):
        admits = zip(
            _Limit.of_sizes(kept, budget_bytes).admits(), _Limit.of_harms(kept, most_harm).admits(), strict=True
        )
        left = {name: [c for c in options if all(next(admits))] for name, options in kept.items()}
        if sum(map(len, left.values())) == sum(map(len, kept.values())):
            break
        kept = dict(left)
    return kept


def _totals(chosen: Mapping[str, Choice]) -> tuple[int, float]:
    """Return the bytes and the harm of a mix."""
    return sum(c.size_bytes for c in chosen.values()), sum(c.harm for c in chosen.values())


LARGEST_TABLE = 60_000_000
"""Matrices times steps of the budget: 60 MB, and half a second or so."""


def allocate(
    choices: Mapping[str, Sequence[Choice]], budget_bytes: int, *, largest_table: int = LARGEST_TABLE
) -> dict[str, Choice]:
    """Return one choice for every matrix: the least harm together, of at most ``budget_bytes`` together.

    Of mixes with equal harm it is one with no smaller choice that harms as little. What would take a larger table than
    ``largest_table`` HiGHS solves. Raises ``PlanError`` when even the smallest choices do not fit.
    """
    refuse_small_budget(sum(min(choice.size_bytes for choice in options) for options in choices.values()), budget_bytes)
    useful = {name: undominated(options) for name, options in choices.items()}
    if sum(options[-1].size_bytes for options in useful.values()) <= budget_bytes:
        return {name: options[-1] for name, options in useful.items()}
    return by_table(useful, budget_bytes, largest_table) or _solve(useful, budget_bytes)


def refuse_small_budget(smallest_bytes: int, budget_bytes: int) -> None:
    """Raise ``PlanError`` where even the smallest mix is over the budget."""
    if smallest_bytes > budget_bytes:
        raise PlanError(
            f"the matrices take at least {smallest_bytes} bytes, the budget leaves {budget_bytes}",
            hint="raise the budget, allow smaller types (--types), or let the embedding take part (--unprotect)",
        )


def by_table(
    choices: Mapping[str, Sequence[Choice]], budget_bytes: int, largest_table: int = LARGEST_TABLE
) -> dict[str, Choice] | None:
    """Return the best mix by dynamic programming over the budget, None where the table would be too large.

    ``choices`` are ``undominated``. Every budget from the smallest mix on gets its least harm, matrix by matrix; sizes
    are counted from each matrix's smallest, in steps of their greatest common divisor.
    """
    extra = {name: [c.size_bytes - options[0].size_bytes for c in options] for name, options in choices.items()}
    room = budget_bytes - sum(options[0].size_bytes for options in choices.values())

    def step_without(lone: str) -> int:
        return math.gcd(*(size for name, sizes in extra.items() if name != lone for size in sizes))

    def is_small(step: int) -> bool:
        return (room // step + 1) * len(choices) <= largest_table

    step = max(step_without(""), 1)
    if is_small(step):
        return _Table(choices, extra, step, room).mix(room)
    lone = max(choices, key=step_without)
    step = max(step_without(lone), 1)
    if not is_small(step):
        return None
    table = _Table({name: options for name, options in choices.items() if name != lone}, extra, step, room)
    # Every type of the remaining matrix, with the best of all others in what is left.
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


def undominated(options: Sequence[Choice]) -> list[Choice]:
    """Return the choices, smallest first, that harm less than every smaller one."""
    kept: list[Choice] = []
    for choice in sorted(options, key=lambda c: (c.size_bytes, c.harm)):
        if not kept or choice.harm < kept[-1].harm:
            kept.append(choice)
    return kept


def _solve(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, Choice]:
    harms = [c.harm for options in choices.values() for c in options]
    parts = [c.size_bytes / budget_bytes for options in choices.values() for c in options]
    chosen = least_cost(choices, harms, [(parts, 1.0)])
    if chosen is None:
        # Within the solver's tolerance of the smallest mix: from there on what is left is spent.
        chosen = {name: options[0] for name, options in choices.items()}
    within = _totals(chosen)[0] <= budget_bytes
    return _filled(choices, chosen if within else _trimmed(choices, chosen, budget_bytes), budget_bytes)


def _trimmed(
    choices: Mapping[str, Sequence[Choice]], chosen: dict[str, Choice], budget_bytes: int
) -> dict[str, Choice]:
    """Take back what the solver's tolerance let over the budget: a few bytes, at the least harm per byte."""
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
