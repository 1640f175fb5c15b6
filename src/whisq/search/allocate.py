"""One type a matrix, least harm within a size: the multiple-choice knapsack, solved exactly by HiGHS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whisq.errors import PlanError


@dataclass(frozen=True, slots=True)
class Choice:
    """A type that a matrix may take, with its bytes and the harm it is expected to do."""

    type: str
    size_bytes: int
    harm: float


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
    return _solve(useful, budget_bytes)


def _undominated(options: Sequence[Choice]) -> list[Choice]:
    """Return the choices, smallest first, that harm less than every smaller one."""
    kept: list[Choice] = []
    for choice in sorted(options, key=lambda c: (c.size_bytes, c.harm)):
        if not kept or choice.harm < kept[-1].harm:
            kept.append(choice)
    return kept


def _solve(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, Choice]:
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    items = [(row, name, choice) for row, (name, options) in enumerate(choices.items()) for choice in options]
    n = len(items)
    harm = np.array([choice.harm for _, _, choice in items])
    size = np.array([choice.size_bytes for _, _, choice in items], float)
    rows = np.array([row for row, _, _ in items])
    one_each = csr_array((np.ones(n), (rows, np.arange(n))), shape=(len(choices), n))
    # In units of the budget and of the largest harm: the solver's tolerances are absolute.
    found = milp(
        harm / (harm.max() or 1.0),
        integrality=np.ones(n),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint((size / budget_bytes)[None, :], -np.inf, 1.0),
        ],
        options={"mip_rel_gap": 1e-7, "time_limit": 60},
    )
    if found.x is None:
        raise PlanError(f"the allocation was not solved: {found.message}", hint="try another budget")
    chosen = {name: choice for (_, name, choice), picked in zip(items, found.x, strict=True) if picked > 0.5}
    total = sum(choice.size_bytes for choice in chosen.values())
    return _filled(choices, chosen if total <= budget_bytes else _trimmed(choices, chosen, budget_bytes), budget_bytes)


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
