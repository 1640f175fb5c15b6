"""What is searched for, among what, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whisq.errors import PlanError
from whisq.model import Model, TensorRef
from whisq.recipe.recipe import Recipe
from whisq.runtimes.registry import by_preference, parse_runtime
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, TYPES, TensorType, parse_type


@dataclass(frozen=True, slots=True)
class Goal:
    """One of: bytes of the file, bits per weight over all tensors, divergence in nats a token. Upper bounds all."""

    size_bytes: int | None = None
    bits: float | None = None
    divergence: float | None = None

    def __post_init__(self) -> None:
        """Raise ``PlanError`` for what is no bound."""
        for name, bound in (("size", self.size_bytes), ("bits", self.bits), ("divergence", self.divergence)):
            if bound is not None and not 0 < bound < math.inf:
                raise PlanError(f"a {name} of {bound} is no goal", hint="give a number above 0")


@dataclass(frozen=True)
class Space:
    """The matrices that take part, and the types that each may take."""

    tensors: tuple[TensorRef, ...]
    types: Mapping[str, tuple[TensorType, ...]]
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()
    asked: tuple[TensorType, ...] = ()
    """The types that were asked for by name, if any."""

    @classmethod
    def of(
        cls, model: Model, names: Sequence[str], target: str, protect: Sequence[str], unprotect: Sequence[str]
    ) -> Space:
        """Return the space of a model: all matrices that no one protects, all types that fit and the target loads.

        Raises ``PlanError`` for a target that loads no mixes, and for types that it does not load.
        """
        runtime = parse_runtime(target)
        if not runtime.loads_mixes:
            mixing = " or ".join(other.name for other in by_preference() if other.loads_mixes)
            raise PlanError(f"'{target}' is no runtime that loads mixes of types", hint=f"use {mixing}")
        loads = runtime.types
        asked = [parse_type(name) for name in names] or [t for t in TYPES.values() if t.is_quantized and t in loads]
        refused = [kind.name for kind in asked if kind not in loads]
        if refused:
            raise PlanError(f"{target} does not load {' '.join(refused)}", hint="leave them out of --types")
        recipe = Recipe(F16, protect=tuple(protect), unprotect=tuple(unprotect))
        tensors = tuple(t for t in model.tensors if t.spec.is_matrix and not recipe.protects(t.spec))
        blocks = [kind for kind in asked if kind.is_quantized]
        types = {t.name: (*(kind for kind in blocks if kind.fits(t.n_columns)), F16) for t in tensors}
        return cls(tensors, types, tuple(protect), tuple(unprotect), tuple(blocks) if names else ())


@dataclass(frozen=True)
class Searched:
    """The best mix as a recipe, and the uniform types and presets beside it."""

    recipe: Recipe
    mix: Mix
    others: tuple[Mix, ...]
    sensitivity: Sensitivity

    @property
    def better_than_all(self) -> bool:
        """Whether each of the others of no larger size diverges more: as measured if the mix was, else as expected."""
        rivals = [other for other in self.others if other.size_bytes <= self.mix.size_bytes]
        if self.mix.measured is None:
            return all(other.predicted > self.mix.predicted * (1 + SAME) for other in rivals)
        return all(other.harm > self.mix.measured * (1 + SAME) for other in rivals)


SAME = 1e-6
"""Divergences that differ by less, relatively, are those of the same bytes."""


TOLERATED = 1.1
"""What a faster mix may diverge, as a multiple of the best one's."""
