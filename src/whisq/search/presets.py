"""Presets beside files of one type: which of them are worth their bytes.

A preset that is larger than another file of the same method and no closer to the source has no reason to ship.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from whisq.quantization.method import GGML, Method
from whisq.quantization.plan import make_plan
from whisq.recipe.toml import load_recipe, preset_names
from whisq.search.uniform import Candidate, Judged, uniform_recipe, uniform_types

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.model import Model
    from whisq.runtimes.runtime import Runtime


def preset_candidates(
    model: Model, runtime: Runtime, calibration: Calibration | None = None, method: Method = GGML
) -> list[Candidate]:
    """Return files of every preset and of every type that a runtime takes, embedding included, the smallest first."""
    recipes = [(name, load_recipe(name)) for name in preset_names()]
    recipes += [(kind.name, uniform_recipe(kind)) for kind in uniform_types(model, (), runtime)]
    given = None if method.needs == "nothing" else calibration
    found = [
        Candidate(
            name, make_plan(model, recipe, calibration=given, method=method), is_uniform=name not in preset_names()
        )
        for name, recipe in recipes
    ]
    return sorted(found, key=lambda candidate: candidate.plan.size_bytes)


def dominating(judged: Sequence[Judged]) -> Iterator[tuple[Judged, Judged]]:
    """Yield each preset that is dominated, and by what: something no larger that diverges no more.

    Files of the same bytes do not dominate each other.
    """
    for mine in judged:
        if mine.candidate.is_uniform:
            continue
        for other in judged:
            smaller = other.size_bytes <= mine.size_bytes and other.divergences != mine.divergences
            if smaller and other.divergences.mean <= mine.divergences.mean:
                yield mine, other
                break
