"""From a goal to a recipe: what may be chosen, what was measured, and what the best mix is beside the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from whisq.calibration import Calibration
from whisq.errors import PlanError
from whisq.formats.layout import ContainerName
from whisq.model import Model
from whisq.progress import Progress, no_progress
from whisq.provenance import provenance_of
from whisq.quantization.plan import make_plan
from whisq.quantization.rounding import parse_method
from whisq.recipe import Recipe
from whisq.search.allocate import Choice, allocate, fastest
from whisq.search.goal import TOLERATED, Goal, Searched, Space, bytes_of
from whisq.search.measure import SearchSettings, measure
from whisq.search.meter import MixMeter
from whisq.search.reach import refuse_out_of_reach, sizes_of_mixes
from whisq.search.recipe import measured_divergences, recipe_of, type_names, usual_mixes
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, TensorType, parse_type
from whisq.whisper import TOKEN_EMBEDDING

RIVAL = 1.5
"""What a mix is expected to diverge at most, as a multiple of another's, for a measurement to be able to turn the two
around: random mixes of tiny.en were measured 0.8 to 1.24 times as predicted."""


def search(
    model: Model,
    calibration: Calibration,
    goal: Goal,
    space: Space,
    *,
    settings: SearchSettings | None = None,
    progress: Progress = no_progress,
) -> Searched:
    """Return the mix that is expected to diverge least within a size, or the smallest within a divergence.

    Measures the space, then solves: ``solve`` serves every other goal from ``Searched.sensitivity``. Raises
    ``PlanError`` for a goal that cannot be reached, before anything is measured.
    """
    refuse_out_of_reach(goal, sizes_of_mixes(space), model)
    sensitivity, meter = measure_space(model, calibration, space, settings=settings, progress=progress)
    return solve(model, calibration, goal, space, sensitivity, meter=meter)


def measure_space(
    model: Model,
    calibration: Calibration,
    space: Space,
    *,
    settings: SearchSettings | None = None,
    progress: Progress = no_progress,
) -> tuple[Sensitivity, MixMeter]:
    """Return what ``measure`` finds of a space's matrices, with its curve, and the meter that measured it.

    The curve's mixes are measured where every matrix is in every type: then nothing is left to round for them.
    """
    sensitivity, meter = measure(model, calibration, space.tensors, space.types, settings=settings, progress=progress)
    whole = meter if sensitivity.provenance["how"] == "all" else None
    found = replace(sensitivity, curve=curve(space, sensitivity, whole, progress))
    if (work := meter.executor.account.summary()) is not None:
        found = replace(found, provenance={**found.provenance, "work": work})
    model.check_unchanged()
    return found, meter


def solve(
    model: Model,
    calibration: Calibration,
    goal: Goal,
    space: Space,
    sensitivity: Sensitivity,
    *,
    meter: MixMeter | None = None,
    prefer_fast: bool = False,
) -> Searched:
    """Return the best mix for a goal from what was measured; with a meter, its divergence is measured too.

    ``prefer_fast`` goes by ``sensitivity.seconds``: of the mixes that diverge at most a tenth more than the best, the
    fastest is taken, and types without a time take no part. Raises ``PlanError`` for a goal that cannot be reached, and
    for a space of which something was not measured.
    """
    space = _measured_space(space, sensitivity)
    choices = _choices(space, sensitivity)
    if prefer_fast:
        choices = _timed(choices, sensitivity)

    def mix_for(limit_bytes: int | None) -> dict[str, Choice]:
        best = _reach(goal, limit_bytes, choices, space, sensitivity)
        return _faster(best, choices, goal, sensitivity) if prefer_fast else best

    def size_of(chosen: Mapping[str, Choice]) -> int:
        if goal.container == "bin":
            return space.size_of(_types_of(chosen))
        recipe = recipe_of(chosen, choices, space, goal, sensitivity)
        return _planned_size(model, calibration, goal.container, recipe, sensitivity)

    chosen, size = _reach_in_container(space.limit_of(goal), mix_for, size_of)
    recipe = recipe_of(chosen, choices, space, goal, sensitivity)
    types = _types_of(chosen)
    predicted = sensitivity.predicted(type_names(types))
    mine = Mix("this mix", "searched", size, predicted, measured_divergences(meter, [types])[0])
    others = usual_mixes(space, sensitivity, None, no_progress)
    if sensitivity.provenance.get("how") == "one":
        others = _rivals_measured(mine, others, space, meter)
    return Searched(recipe, mine, tuple(others), sensitivity)


def _rivals_measured(mine: Mix, others: Sequence[Mix], space: Space, meter: MixMeter | None) -> list[Mix]:
    """Return mixes, those measured that are no larger than mine and expected to diverge hardly more."""
    types = {(usual.name, usual.size_bytes): usual.types for usual in space.usual}
    rivals = [
        other
        for other in others
        if other.size_bytes <= mine.size_bytes and other.predicted <= RIVAL * mine.predicted and other.measured is None
    ]
    measured = measured_divergences(meter, [types[rival.name, rival.size_bytes] for rival in rivals])
    known = {(rival.name, rival.size_bytes): found for rival, found in zip(rivals, measured, strict=True)}
    return [replace(o, measured=known.get((o.name, o.size_bytes), o.measured)) for o in others]


def curve(
    space: Space, sensitivity: Sensitivity, meter: MixMeter | None = None, progress: Progress = no_progress
) -> tuple[Mix, ...]:
    """Return mixes of all sizes: every uniform type, every preset, and the searched mix of each uniform type's size.

    Without a meter nothing is measured but what ``sensitivity.curve`` knows.
    """
    others = usual_mixes(space, sensitivity, meter, progress)
    choices = _choices(space, sensitivity)
    targets = {mix.size_bytes: mix.name for mix in reversed(others) if mix.kind == "uniform"}
    names = {name: _types_of(allocate(choices, size - space.file_bytes)) for size, name in sorted(targets.items())}
    measured = measured_divergences(meter, list(names.values()), "measuring searched mixes", progress)
    found = [
        Mix(
            f"mix of {name}'s size",
            "searched",
            space.size_of(types),
            sensitivity.predicted(type_names(types)),
            divergence,
        )
        for (name, types), divergence in zip(names.items(), measured, strict=True)
    ]
    return tuple(sorted([*others, *found], key=lambda mix: (mix.size_bytes, mix.kind, mix.name)))


def _types_of(chosen: Mapping[str, Choice]) -> dict[str, TensorType]:
    return {name: parse_type(choice.type) for name, choice in chosen.items()}


def _choices(space: Space, sensitivity: Sensitivity) -> dict[str, list[Choice]]:
    seconds = sensitivity.seconds or {}
    weights = sum(t.n_weights for t in space.tensors)
    return {
        t.name: [
            Choice(
                kind.name,
                bytes_of(t, kind),
                sensitivity.harms[t.name].get(kind.name, 0.0),
                seconds.get(kind.name, 0.0) * t.n_weights / weights,
            )
            for kind in space.types[t.name]
        ]
        for t in space.tensors
    }


def _timed(choices: Mapping[str, Sequence[Choice]], sensitivity: Sensitivity) -> dict[str, list[Choice]]:
    """Return the choices whose time is known."""
    known = sensitivity.seconds or {}
    return {name: [c for c in options if c.type in known] for name, options in choices.items()}


def _measured_space(space: Space, sensitivity: Sensitivity) -> Space:
    if not space.embedding_was_asked and TOKEN_EMBEDDING in space.types and TOKEN_EMBEDDING not in sensitivity.harms:
        # It took part on request only when this was measured.
        space = space.without([TOKEN_EMBEDDING])
    missing = [t.name for t in space.tensors if t.name not in sensitivity.harms]
    known = {kind for t in space.tensors for kind in sensitivity.harms.get(t.name, {})}
    missing += [kind.name for kind in space.asked if kind.name not in known]
    if missing:
        raise PlanError(f"{missing[0]} was not measured", hint="measure again, without --reuse")
    types = {
        t.name: tuple(k for k in space.types[t.name] if k is F16 or k.name in sensitivity.harms[t.name])
        for t in space.tensors
    }
    return replace(space, types=types)


def _reach_in_container(
    limit_bytes: int | None,
    mix_for: Callable[[int | None], dict[str, Choice]],
    size_of: Callable[[Mapping[str, Choice]], int],
) -> tuple[dict[str, Choice], int]:
    """Return the mix for a limit of the file's bytes, and its file's size in the goal's container.

    A GGUF also says how it was made, and what that takes is known only with the recipe: where it takes the file beyond
    the limit, the next mix is of that much less.
    """
    aim = limit_bytes
    while True:
        chosen = mix_for(aim)
        size = size_of(chosen)
        if limit_bytes is None or aim is None or size <= limit_bytes:
            return chosen, size
        aim -= size - limit_bytes


def _planned_size(
    model: Model, calibration: Calibration, container: ContainerName, recipe: Recipe, sensitivity: Sensitivity
) -> int:
    """Return the size of the file that ``whisq quantize`` makes of a recipe with this calibration."""
    method = parse_method(str(sensitivity.provenance.get("method", "feedback")))
    stated = provenance_of(model, recipe, method, calibration)
    return make_plan(model, recipe, container=container, provenance=stated).size_bytes


def _faster(
    best: Mapping[str, Choice], choices: Mapping[str, Sequence[Choice]], goal: Goal, sensitivity: Sensitivity
) -> dict[str, Choice]:
    """Return the fastest mix of no more bytes than the best one that diverges at most a tenth more."""
    most = TOLERATED * sum(choice.harm for choice in best.values())
    if goal.divergence is not None and sensitivity.scale > 0:
        most = min(most, goal.divergence / sensitivity.scale)
    return fastest(choices, sum(choice.size_bytes for choice in best.values()), most)


def _reach(
    goal: Goal,
    limit_bytes: int | None,
    choices: Mapping[str, Sequence[Choice]],
    space: Space,
    sensitivity: Sensitivity,
) -> dict[str, Choice]:
    """Return the mix that harms least within a file's bytes, or the smallest within the goal's divergence."""
    if limit_bytes is not None:
        return allocate(choices, space.budget_of(limit_bytes))
    return _smallest_within(goal.divergence or 0.0, choices, sensitivity)


def _smallest_within(
    divergence: float, choices: Mapping[str, Sequence[Choice]], sensitivity: Sensitivity
) -> dict[str, Choice]:
    """Return the mix of least bytes, to a two-thousandth, that is expected to diverge no more."""
    low = sum(min(c.size_bytes for c in options) for options in choices.values())
    high = sum(max(c.size_bytes for c in options) for options in choices.values())
    best = allocate(choices, high)
    while high - low > high / 2000:
        middle = (low + high) // 2
        found = allocate(choices, middle)
        if sensitivity.scale * sum(choice.harm for choice in found.values()) <= divergence:
            best, high = found, middle
        else:
            low = middle
    return best
