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
from whisq.search.bench import Bench
from whisq.search.goal import TOLERATED, Goal, Searched, Space
from whisq.search.measure import Settings, measure
from whisq.search.recipe import measured_divergence, recipe_of, type_names, usual_mixes
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, parse_type


def search(
    model: Model,
    calibration: Calibration,
    goal: Goal,
    space: Space,
    *,
    settings: Settings | None = None,
    reuse: Sensitivity | None = None,
    prefer_fast: Callable[[], Mapping[str, float]] | None = None,
    container: ContainerName = "bin",
    on_measured: Callable[[Sensitivity], None] = lambda found: None,
    progress: Progress = no_progress,
) -> Searched:
    """Return the mix that is expected to diverge least within a size, or the smallest within a divergence.

    With ``reuse`` nothing is measured. ``prefer_fast`` measures what the runtime takes for a clip in each type: of the
    mixes that diverge at most a tenth more than the best, the fastest is taken; types that it cannot time take no part.
    A size is that of a file in ``container``. ``on_measured`` is called with what was measured before anything is
    solved. Raises ``PlanError`` for a goal that cannot be reached.
    """
    bench: Bench | None = None
    if reuse is None:
        _refuse_unreachable(model, goal, space)
        sensitivity, bench = measure_space(model, calibration, space, settings=settings, progress=progress)
        on_measured(sensitivity)
    else:
        sensitivity = reuse
        space = _measured_space(space, reuse)
    if prefer_fast is not None and sensitivity.seconds is None:
        sensitivity = replace(sensitivity, seconds=dict(prefer_fast()))
        on_measured(sensitivity)
    choices = _choices(space, sensitivity)
    if prefer_fast is not None:
        choices = _timed(choices, sensitivity)
    aim = goal
    while True:
        chosen = _reach(model, aim, choices, space, sensitivity)
        if prefer_fast is not None:
            most = TOLERATED * sum(choice.harm for choice in chosen.values())
            if goal.divergence is not None and sensitivity.scale > 0:
                most = min(most, goal.divergence / sensitivity.scale)
            chosen = fastest(choices, sum(c.size_bytes for c in chosen.values()), most)
        recipe = recipe_of(chosen, choices, space, goal, sensitivity)
        size = _size_in(container, model, recipe, sensitivity, calibration)
        if goal.size_bytes is None or aim.size_bytes is None or size <= goal.size_bytes:
            break
        # A GGUF also says how it was made: what that takes is known only with the recipe.
        aim = replace(aim, size_bytes=aim.size_bytes - (size - goal.size_bytes))
    types = {name: parse_type(choice.type) for name, choice in chosen.items()}
    mine = Mix(
        "this mix", "searched", size, sensitivity.predicted(type_names(types)), measured_divergence(bench, types)
    )
    others = usual_mixes(model, space, sensitivity, None, progress)
    return Searched(recipe, mine, tuple(others), sensitivity)


def measure_space(
    model: Model,
    calibration: Calibration,
    space: Space,
    *,
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> tuple[Sensitivity, Bench]:
    """Return what ``measure`` finds of a space's matrices, with its curve, and the bench that measured it."""
    sensitivity, bench = measure(model, calibration, space.tensors, space.types, settings=settings, progress=progress)
    whole = bench if sensitivity.provenance["how"] != "few" else None
    return replace(sensitivity, curve=curve(model, space, sensitivity, whole, progress)), bench


def curve(
    model: Model,
    space: Space,
    sensitivity: Sensitivity,
    bench: Bench | None = None,
    progress: Progress = no_progress,
) -> tuple[Mix, ...]:
    """Return mixes of all sizes: every uniform type, every preset, and the searched mix of each uniform type's size.

    Without a bench nothing is measured but what ``sensitivity.curve`` knows.
    """
    others = usual_mixes(model, space, sensitivity, bench, progress)
    choices, fixed = _choices(space, sensitivity), _fixed_bytes(model, space)
    targets = {mix.size_bytes: mix.name for mix in reversed(others) if mix.kind == "uniform"}
    found = []
    for number, (size, name) in enumerate(sorted(targets.items())):
        chosen = allocate(choices, size - fixed)
        types = {matrix: parse_type(choice.type) for matrix, choice in chosen.items()}
        total = fixed + sum(choice.size_bytes for choice in chosen.values())
        title = f"mix of {name}'s size"
        predicted = sensitivity.predicted(type_names(types))
        found.append(Mix(title, "searched", total, predicted, measured_divergence(bench, types)))
        progress("measuring searched mixes", number + 1, len(targets))
    return tuple(sorted([*others, *found], key=lambda mix: (mix.size_bytes, mix.kind, mix.name)))


def _choices(space: Space, sensitivity: Sensitivity) -> dict[str, list[Choice]]:
    seconds = sensitivity.seconds or {}
    weights = sum(t.n_weights for t in space.tensors)
    return {
        t.name: [
            Choice(
                kind.name,
                t.n_rows * kind.row_bytes(t.n_columns),
                sensitivity.harms[t.name].get(kind.name, 0.0),
                seconds.get(kind.name, 0.0) * t.n_weights / weights,
            )
            for kind in space.types[t.name]
        ]
        for t in space.tensors
    }


def _refuse_unreachable(model: Model, goal: Goal, space: Space) -> None:
    """Raise ``PlanError`` before minutes of measuring for a size that even the smallest types do not reach."""
    if goal.size_bytes is None and goal.bits is None:
        return
    nothing = Sensitivity({t.name: {} for t in space.tensors}, 1.0, 1.0, (), {}, {})
    _reach(model, goal, _choices(space, nothing), space, nothing)


def _timed(choices: Mapping[str, Sequence[Choice]], sensitivity: Sensitivity) -> dict[str, list[Choice]]:
    """Return the choices whose time is known."""
    known = sensitivity.seconds or {}
    return {name: [c for c in options if c.type in known] for name, options in choices.items()}


def _size_in(
    container: ContainerName, model: Model, recipe: Recipe, sensitivity: Sensitivity, calibration: Calibration
) -> int:
    """Return the size of the file that ``whisq quantize`` makes of a recipe with this calibration."""
    if container == "bin":
        return _size(model, recipe)
    method = parse_method(str(sensitivity.provenance.get("method", "feedback")))
    stated = provenance_of(model, recipe, method, calibration)
    return make_plan(model, recipe, container=container, provenance=stated).size_bytes


def _measured_space(space: Space, sensitivity: Sensitivity) -> Space:
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


def _fixed_bytes(model: Model, space: Space) -> int:
    """Return the bytes of a file but for the matrices that take part."""
    taking_part = sum(t.n_rows * F16.row_bytes(t.n_columns) for t in space.tensors)
    return _size(model, _untouched(space)) - taking_part


def _untouched(space: Space) -> Recipe:
    return Recipe(F16, protect=space.protect, unprotect=space.unprotect)


def _size(model: Model, recipe: Recipe) -> int:
    return make_plan(model, recipe).size_bytes


def _reach(
    model: Model, goal: Goal, choices: Mapping[str, Sequence[Choice]], space: Space, sensitivity: Sensitivity
) -> dict[str, Choice]:
    if goal.size_bytes is not None:
        return allocate(choices, goal.size_bytes - _fixed_bytes(model, space))
    if goal.bits is not None:
        plan = make_plan(model, _untouched(space))
        others = sum(a.size_after for a in plan.assignments if a.tensor.name not in choices)
        return allocate(choices, int(goal.bits * model.n_weights / 8) - others)
    if goal.divergence is None:
        raise PlanError("no goal was given", hint="give a size, bits per weight, or a divergence")
    low = sum(min(c.size_bytes for c in options) for options in choices.values())
    high = sum(max(c.size_bytes for c in options) for options in choices.values())
    best = allocate(choices, high)
    while high - low > high / 2000:
        middle = (low + high) // 2
        found = allocate(choices, middle)
        if sensitivity.scale * sum(choice.harm for choice in found.values()) <= goal.divergence:
            best, high = found, middle
        else:
            low = middle
    return best
