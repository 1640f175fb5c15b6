"""A searched mix as a recipe, and the usual mixes beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from whisq.model import Model
from whisq.progress import Progress
from whisq.quantization.plan import make_plan
from whisq.recipe.recipe import Recipe, Rule
from whisq.recipe.toml import load_recipe, preset_names
from whisq.search.allocate import Choice
from whisq.search.bench import Bench
from whisq.search.goal import Goal, Space
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, TensorType, parse_type


def recipe_of(
    chosen: Mapping[str, Choice],
    choices: Mapping[str, Sequence[Choice]],
    space: Space,
    goal: Goal,
    sensitivity: Sensitivity,
) -> Recipe:
    """Return a mix as a recipe: one rule for each matrix, with what it costs as its reason."""
    rules = tuple(
        Rule(re.escape(name), parse_type(choice.type), "search", _reason(choice, choices[name], sensitivity.scale))
        for name, choice in chosen.items()
    )
    wanted = (
        f"{goal.size_bytes} bytes" if goal.size_bytes is not None
        else f"{goal.bits} bits per weight" if goal.bits is not None
        else f"{goal.divergence} nats a token"
    )  # fmt: skip
    how = sensitivity.provenance
    described = f"searched for at most {wanted}; measured with {how.get('method')} on {how.get('tokens')} tokens"
    return Recipe(F16, rules, space.protect, space.unprotect, name="searched", description=described)


def _reason(choice: Choice, options: Sequence[Choice], scale: float) -> str:
    smaller = [o for o in options if o.size_bytes < choice.size_bytes and o.harm > choice.harm]
    said = f"costs {scale * choice.harm:.2e} nats a token"
    if smaller:
        next_one = max(smaller, key=lambda o: o.size_bytes)
        said += f"; {next_one.type} would cost {scale * next_one.harm:.2e}"
    return said


def type_names(types: Mapping[str, TensorType]) -> dict[str, str]:
    """Return the types by name."""
    return {name: kind.name for name, kind in types.items()}


def measured_divergence(bench: Bench | None, types: Mapping[str, TensorType]) -> float | None:
    """Return the divergence of a mix, None where there is nothing to measure with."""
    return bench.divergence(types) if bench is not None else None


def usual_mixes(
    model: Model, space: Space, sensitivity: Sensitivity, bench: Bench | None, progress: Progress
) -> list[Mix]:
    """Return every uniform type and preset whose types' harms are known, with the same matrices taking part."""
    known = {(mix.name, mix.size_bytes): mix.measured for mix in sensitivity.curve}
    uniform = {kind: None for t in space.tensors for kind in space.types[t.name] if kind.is_quantized}
    named = [(kind.name, "uniform", Recipe(kind, protect=space.protect, unprotect=space.unprotect)) for kind in uniform]
    named += [(name, "preset", load_recipe(name)) for name in preset_names()]
    found = []
    for number, (name, kind_of_mix, recipe) in enumerate(named):
        plan = make_plan(model, recipe)
        types = {t.name: plan[t.name].type for t in space.tensors}
        if all(kind is F16 or kind.name in sensitivity.harms[n] for n, kind in types.items()):
            measured = measured_divergence(bench, types) if bench else known.get((name, plan.size_bytes))
            found.append(Mix(name, kind_of_mix, plan.size_bytes, sensitivity.predicted(type_names(types)), measured))
        if bench:
            progress("measuring the usual mixes", number + 1, len(named))
    return sorted(found, key=lambda mix: (mix.size_bytes, mix.name))
