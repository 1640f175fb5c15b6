"""One option of every group at the least cost, within limits: an integer programme, solved by HiGHS (in scipy)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from whisq.errors import PlanError

Option = TypeVar("Option")

NEGLIGIBLE = 1e-9
"""HiGHS drops smaller coefficients, and refuses a row of which nothing is left."""
TIME_LIMIT_S = 60
_INFEASIBLE = 2


def least_cost(
    groups: Mapping[str, Sequence[Option]],
    costs: Sequence[float],
    limits: Sequence[tuple[Sequence[float], float]],
) -> dict[str, Option] | None:
    """Return one option of every group, of least cost together; None when no selection is within the limits.

    ``costs`` are in the order of the options. A limit is a coefficient for each option and the most that those of a
    selection may add up to: it is kept up to about 1e-6, so that coefficients and bounds should be about 1.

    Raises ``PlanError`` when the solver runs out of time.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    items = [(row, name, option) for row, (name, options) in enumerate(groups.items()) for option in options]
    n = len(items)
    rows = np.array([row for row, _, _ in items])
    one_each = csr_array((np.ones(n), (rows, np.arange(n))), shape=(len(groups), n))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for coefficients, bound in limits:
        limit = np.array(coefficients, np.float64)
        limit[limit < NEGLIGIBLE] = 0
        if limit.any():
            constraints.append(LinearConstraint(limit[None, :], -np.inf, bound))
    # In units of the largest: the solver's tolerances are absolute.
    cost = np.array(costs, np.float64) / (max(costs) or 1.0)
    cost[cost < NEGLIGIBLE**2] = 0
    with _nothing_printed():
        found = milp(
            cost,
            integrality=np.ones(n),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 1e-7, "time_limit": TIME_LIMIT_S},
        )
    if found.status == _INFEASIBLE:
        return None
    if found.x is None or found.status != 0:
        raise PlanError(f"the allocation was not solved: {found.message}", hint="try another budget")
    return {name: option for (_, name, option), picked in zip(items, found.x, strict=True) if picked > 0.5}


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
