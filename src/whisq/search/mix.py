"""From a goal to a recipe: what may be chosen, what was measured, and what the best mix is beside the usual ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from whisq.calibration import Calibration
from whisq.errors import PlanError
from whisq.formats.layout import ContainerName
from whisq.methods import parse_method
from whisq.model import Model, TensorRef
from whisq.plan import make_plan
from whisq.provenance import provenance_of
from whisq.recipe import Recipe, Rule, load_recipe
from whisq.recipe.toml import preset_names
from whisq.runtimes import TRANSCRIBE_CPP_TYPES, parse_runtime
from whisq.search.allocate import Choice, allocate, fastest
from whisq.search.bench import Bench
from whisq.search.measure import Settings, measure
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, TYPES, TensorType, parse_type

Progress = Callable[[str, float, float], None]


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
        if runtime is None or runtime == "whisper.cpp":
            raise PlanError(
                f"'{target}' is no runtime that loads mixes of types", hint="use transcribe.cpp or whisper.cpp-pr3605"
            )
        loads = TRANSCRIBE_CPP_TYPES if runtime == "transcribe.cpp" else frozenset(TYPES.values())
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
            return all(other.predicted > self.mix.predicted * (1 + _SAME) for other in rivals)
        return all(other.harm > self.mix.measured * (1 + _SAME) for other in rivals)


_SAME = 1e-6
"""Divergences that differ by less, relatively, are those of the same bytes."""


TOLERATED = 1.1
"""What a faster mix may diverge, as a multiple of the best one's."""


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
    progress: Progress = lambda label, done, total: None,
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
        recipe = _recipe(chosen, choices, space, goal, sensitivity)
        size = _size_in(container, model, recipe, sensitivity, calibration)
        if goal.size_bytes is None or aim.size_bytes is None or size <= goal.size_bytes:
            break
        # A GGUF also says how it was made: what that takes is known only with the recipe.
        aim = replace(aim, size_bytes=aim.size_bytes - (size - goal.size_bytes))
    types = {name: parse_type(choice.type) for name, choice in chosen.items()}
    mine = Mix("this mix", "searched", size, sensitivity.predicted(_names(types)), _measured(bench, types))
    others = _others(model, space, sensitivity, None, progress)
    return Searched(recipe, mine, tuple(others), sensitivity)


def measure_space(
    model: Model,
    calibration: Calibration,
    space: Space,
    *,
    settings: Settings | None = None,
    progress: Progress = lambda label, done, total: None,
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
    progress: Progress = lambda label, done, total: None,
) -> tuple[Mix, ...]:
    """Return mixes of all sizes: every uniform type, every preset, and the searched mix of each uniform type's size.

    Without a bench nothing is measured but what ``sensitivity.curve`` knows.
    """
    others = _others(model, space, sensitivity, bench, progress)
    choices, fixed = _choices(space, sensitivity), _fixed_bytes(model, space)
    targets = {mix.size_bytes: mix.name for mix in reversed(others) if mix.kind == "uniform"}
    found = []
    for number, (size, name) in enumerate(sorted(targets.items())):
        chosen = allocate(choices, size - fixed)
        types = {matrix: parse_type(choice.type) for matrix, choice in chosen.items()}
        total = fixed + sum(choice.size_bytes for choice in chosen.values())
        title = f"mix of {name}'s size"
        predicted = sensitivity.predicted(_names(types))
        found.append(Mix(title, "searched", total, predicted, _measured(bench, types)))
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


def _recipe(
    chosen: Mapping[str, Choice],
    choices: Mapping[str, Sequence[Choice]],
    space: Space,
    goal: Goal,
    sensitivity: Sensitivity,
) -> Recipe:
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


def _names(types: Mapping[str, TensorType]) -> dict[str, str]:
    return {name: kind.name for name, kind in types.items()}


def _measured(bench: Bench | None, types: Mapping[str, TensorType]) -> float | None:
    return bench.divergence(types) if bench is not None else None


def _others(model: Model, space: Space, sensitivity: Sensitivity, bench: Bench | None, progress: Progress) -> list[Mix]:
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
            measured = _measured(bench, types) if bench else known.get((name, plan.size_bytes))
            found.append(Mix(name, kind_of_mix, plan.size_bytes, sensitivity.predicted(_names(types)), measured))
        if bench:
            progress("measuring the usual mixes", number + 1, len(named))
    return sorted(found, key=lambda mix: (mix.size_bytes, mix.name))
