"""What is published: one type throughout, or a mix; each with its recipe, its plan and its file's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.errors import PlanError
from whisq.formats.layout import CONTAINERS, ContainerName
from whisq.provenance import provenance_of
from whisq.publishing.names import MIX, file_name
from whisq.quantization.plan import Plan, make_plan, recipe_for
from whisq.recipe import Recipe, load_recipe, preset_names
from whisq.recipe.recipe import match_name
from whisq.runtimes.registry import RUNTIMES
from whisq.types import parse_type
from whisq.whisper import TOKEN_EMBEDDING

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.model import Model
    from whisq.quantization.method import Method
    from whisq.types import TensorType

EMBEDDING = "q8_0"
"""The token embedding's type in a file that may have several: 0.0002 to 0.0005 nats per token for half of the bytes."""


@dataclass(frozen=True)
class Edition:
    """One file: ``name`` is a type or ``mix-NAME``."""

    name: str
    file_name: str
    container: ContainerName
    recipe: Recipe

    @property
    def recipe_name(self) -> str:
        """What the file of its recipe is called: beside a model ``NAME.toml`` could be taken for another's."""
        return f"{Path(self.file_name).stem}.toml"

    def plan(self, model: Model, method: Method, calibration: Calibration | None) -> Plan:
        """Return the plan of the file; raises ``PlanError`` where no runtime loads it, or the types do not fit."""
        given = None if method.needs == "nothing" else calibration
        has_room = CONTAINERS[self.container].has_provenance
        stated = provenance_of(model, self.recipe, method, given) if has_room else None
        plan = make_plan(
            model, self.recipe, container=self.container, provenance=stated, calibration=given, method=method
        )
        if not any(verdict.loads for verdict in plan.verdicts):
            reasons = "; ".join(f"{verdict.runtime}: {verdict.reasons[0]}" for verdict in plan.verdicts)
            raise PlanError(
                f"{self.file_name}: no runtime would load it ({reasons})", hint=f"leave {self.name} out of --types"
            )
        return plan


def editions_of(
    model: Model,
    name: str,
    types: Sequence[str],
    containers: Sequence[ContainerName],
    *,
    recipes: Sequence[str | Path] = (),
    embedding: str | None = None,
) -> list[Edition]:
    """Return a file for each type and mix in each container, the types first.

    ``types`` are names of types, and ``mix-NAME`` with a preset's name; a recipe of ``recipes`` is the mix called as
    its file is. Raises ``PlanError`` for one that is not known or is named twice, ``RecipeError``, ``TypeNameError``.
    """
    own = parse_type(embedding) if embedding else None
    found: dict[str, dict[ContainerName, Recipe]] = {}
    for text in types:
        edition, recipe = _mix_of(text) if text.startswith(MIX) else _uniform(text)
        _add(found, edition, {c: _for_container(model, recipe, edition, c, own) for c in containers})
    for path in recipes:
        edition = MIX + re.sub(r"[^A-Za-z0-9.]+", "-", Path(path).stem.removeprefix(MIX)).strip("-")
        recipe = load_recipe(str(path))
        _add(found, edition, {c: _for_container(model, recipe, edition, c, own) for c in containers})
    if not found:
        raise PlanError("there is nothing to publish", hint="name types: --types q4_0,q5_1,q8_0")
    return [
        Edition(edition, file_name(name, edition, container), container, recipe)
        for edition, by_container in found.items()
        for container, recipe in by_container.items()
    ]


def _add(found: dict[str, dict[ContainerName, Recipe]], edition: str, recipes: dict[ContainerName, Recipe]) -> None:
    if edition.lower() in {known.lower() for known in found}:
        raise PlanError(f"{edition} is named twice: two files would have one name", hint="name each once")
    found[edition] = recipes


def _uniform(text: str) -> tuple[str, Recipe]:
    kind = parse_type(text)
    return kind.name, Recipe(kind, on_misfit="error", name=kind.name)


def _mix_of(text: str) -> tuple[str, Recipe]:
    preset = text.removeprefix(MIX)
    if preset not in preset_names():
        known = ", ".join(MIX + name for name in preset_names())
        raise PlanError(
            f"{text} is no mix that whisq comes with",
            hint=f"use one of {known}, or a recipe of your own: --recipe FILE",
        )
    return text, load_recipe(preset)


def _for_container(
    model: Model, recipe: Recipe, edition: str, container: ContainerName, embedding: TensorType | None
) -> Recipe:
    """Return a recipe with its embedding's type: in a ``.bin`` of one type that of all others, as stock runtimes want.

    Elsewhere it is what the recipe says, else q8_0, which costs next to nothing.
    """
    if embedding is not None:
        return replace(recipe, embedding=embedding)
    if not edition.startswith(MIX) and container == "bin":
        only_one = next(runtime for runtime in RUNTIMES if not runtime.loads_mixes)
        return recipe_for(only_one, model, recipe)
    protected = any(match_name(pattern, TOKEN_EMBEDDING) for pattern in recipe.protect)
    if recipe.embedding is None and recipe.default.is_quantized and not protected:
        return replace(recipe, embedding=parse_type(EMBEDDING))
    return recipe
