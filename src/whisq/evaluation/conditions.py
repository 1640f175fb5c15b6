"""Conditions on what was measured, for scripts that must stop: ``divergence > 0.02``, ``words.low > 0``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from whisq.errors import DataError
from whisq.evaluation.results import Evaluation, ModelResult, Summary
from whisq.evaluation.statistics import Interval
from whisq.units import megabytes

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
QUANTITIES = {
    "words": ("points", "difference in word error rate to the reference"),
    "changed": ("%", "words written otherwise than the reference wrote them"),
    "divergence": ("nats", "mean divergence per token"),
    "size": ("MB", "size of the file"),
}
"""What a condition may name, with its unit and what it is."""
_BOUNDS = ("low", "high")
_FORM = re.compile(r"\s*([a-z]+)(?:\.([a-z]+))?\s*(>=|<=|>|<)\s*([-+]?\d+(?:\.\d+)?(?:e-?\d+)?)\s*([A-Za-z%]*)\s*")
_EXAMPLE = "--fail-if 'divergence > 0.02'"


@dataclass(frozen=True, slots=True)
class Condition:
    """A quantity, which of its interval's bounds is meant (empty for the estimate), and what it is compared with."""

    quantity: str
    bound: str
    comparison: str
    value: float

    def __str__(self) -> str:
        """Return it as it could be typed."""
        name = f"{self.quantity}.{self.bound}" if self.bound else self.quantity
        return f"{name} {self.comparison} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Met:
    """A condition that holds for a candidate, and the value that it has."""

    condition: Condition
    label: str
    value: float

    def __str__(self) -> str:
        """Return it as a sentence."""
        unit = QUANTITIES[self.condition.quantity][0]
        return f"{self.label}: {self.condition} holds: {self.value:.5g} {unit}"


def parse_condition(text: str) -> Condition:
    """Return the condition of a text; raises ``DataError`` that says which word of it is wrong."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise DataError(f"{text!r} is not a condition: expected NAME > NUMBER", hint=_EXAMPLE)
    name, bound, comparison, value, unit = found.groups()
    if name not in QUANTITIES:
        known = ", ".join(QUANTITIES)
        raise DataError(f"{text!r}: {name!r} is nothing that is measured; expected one of {known}", hint=_EXAMPLE)
    if bound is not None and (bound not in _BOUNDS or name == "size"):
        expected = "a size has no interval" if name == "size" else "expected low or high, the interval's bounds"
        raise DataError(f"{text!r}: {name}.{bound}: {expected}", hint=_EXAMPLE)
    expected_unit = QUANTITIES[name][0]
    if unit and unit.lower() != expected_unit.lower():
        raise DataError(f"{text!r}: {name} is in {expected_unit}, not {unit}", hint=_EXAMPLE)
    return Condition(name, bound or "", comparison, float(value))


def conditions_met(evaluation: Evaluation, conditions: tuple[Condition, ...]) -> Iterator[Met]:
    """Yield every condition that holds for a candidate; raises ``DataError`` for one that nothing was measured for."""
    for model, summary in zip(evaluation.models[1:], evaluation.summaries[1:], strict=True):
        for condition in conditions:
            value = _value(condition, model, summary)
            if value is None:
                why = model.failure or model.inside_failure or "it was not measured"
                raise DataError(
                    f"--fail-if {str(condition)!r} cannot be judged for {model.label}: {why}",
                    hint="leave that file out, or measure it: --inside 20"
                    if condition.quantity == "divergence"
                    else None,
                )
            if _COMPARE[condition.comparison](value, condition.value):
                yield Met(condition, model.label, value)


def _value(condition: Condition, model: ModelResult, summary: Summary | None) -> float | None:
    if condition.quantity == "size":
        return megabytes(model.size_bytes)
    if summary is None:
        return None
    found: Interval | None
    if condition.quantity == "divergence":
        found, scale = summary.divergence, 1.0
    elif condition.quantity == "changed":
        found, scale = summary.changed, 100.0
    else:
        found, scale = summary.difference.interval if summary.difference else None, 100.0
    return None if found is None else scale * float(getattr(found, condition.bound or "estimate"))
