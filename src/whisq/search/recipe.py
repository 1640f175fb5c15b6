"""A searched mix as a recipe, and the usual mixes beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from whisq.progress import Progress, no_progress
from whisq.recipe.recipe import Recipe, Rule
from whisq.search.allocate import Choice
from whisq.search.goal import Goal, Space
from whisq.search.meter import MixMeter
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, TensorType, parse_type
from whisq.whisper import TOKEN_EMBEDDING


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
        if name != TOKEN_EMBEDDING
    )
    embedding = parse_type(chosen[TOKEN_EMBEDDING].type) if TOKEN_EMBEDDING in chosen else F16
    lifted = embedding if embedding.is_quantized else None
    how = sensitivity.provenance
    described = f"searched for at most {_wanted(goal)}; measured with {how.get('method')} on {how.get('tokens')} tokens"
    return Recipe(F16, rules, space.protect, space.unprotect, lifted, name="searched", description=described)


def _wanted(goal: Goal) -> str:
    if goal.size_bytes is not None:
        return f"{goal.size_bytes} bytes"
    if goal.bits is not None:
        return f"{goal.bits} bits per weight"
    return f"{goal.divergence} nats per token"


def _reason(choice: Choice, options: Sequence[Choice], scale: float) -> str:
    smaller = [o for o in options if o.size_bytes < choice.size_bytes and o.harm > choice.harm]
    said = f"costs {scale * choice.harm:.2e} nats per token"
    if smaller:
        next_one = max(smaller, key=lambda o: o.size_bytes)
        said += f"; {next_one.type} would cost {scale * next_one.harm:.2e}"
    return said


def type_names(types: Mapping[str, TensorType]) -> dict[str, str]:
    """Return the types by name."""
    return {name: kind.name for name, kind in types.items()}


def measured_divergences(
    meter: MixMeter | None,
    mixes: Sequence[Mapping[str, TensorType]],
    stage: str = "",
    progress: Progress = no_progress,
) -> list[float | None]:
    """Return the divergence of each mix, None where there is nothing to measure with."""
    return [None] * len(mixes) if meter is None else [*meter.divergences(mixes, stage, progress)]


def usual_mixes(space: Space, sensitivity: Sensitivity, meter: MixMeter | None, progress: Progress) -> list[Mix]:
    """Return every uniform type and preset whose types' harms are known, with the same matrices taking part."""
    known = {(mix.name, mix.size_bytes): mix.measured for mix in sensitivity.curve}
    usual = [
        one
        for one in space.usual
        if all(kind is F16 or kind.name in sensitivity.harms[name] for name, kind in one.types.items())
    ]
    measured = measured_divergences(meter, [one.types for one in usual], "measuring the usual mixes", progress)
    if meter is None:
        measured = [known.get((one.name, one.size_bytes)) for one in usual]
    found = [
        Mix(one.name, one.kind, one.size_bytes, sensitivity.predicted(type_names(one.types)), divergence)
        for one, divergence in zip(usual, measured, strict=True)
    ]
    return sorted(found, key=lambda mix: (mix.size_bytes, mix.name))
