"""From a goal to a recipe: what may be chosen, what was measured, and what the best mix is beside the usual ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from whisq.calibration import Calibration
from whisq.errors import PlanError
from whisq.model import Model, TensorRef
from whisq.plan import make_plan
from whisq.recipe import Recipe, Rule, load_recipe
from whisq.recipe.toml import preset_names
from whisq.runtimes import TRANSCRIBE_CPP_TYPES, parse_runtime
from whisq.search.allocate import Choice, allocate
from whisq.search.measure import Bench, Settings, measure
from whisq.search.sensitivity import Sensitivity
from whisq.types import F16, TYPES, TensorType, parse_type

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One of: bytes of the file, bits per weight over all tensors, divergence in nats a token. Upper bounds all."""

    size_bytes: int | None = None
    bits: float | None = None
    divergence: float | None = None


@dataclass(frozen=True)
class Space:
    """The matrices that take part, and the types that each may take."""

    tensors: tuple[TensorRef, ...]
    types: Mapping[str, tuple[TensorType, ...]]
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()

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
        return cls(tensors, types, tuple(protect), tuple(unprotect))


@dataclass(frozen=True, slots=True)
class Mix:
    """A choice of types with its file's size, and its divergence in nats a token, expected and measured."""

    name: str
    size_bytes: int
    predicted: float
    measured: float | None


@dataclass(frozen=True)
class Searched:
    """The best mix as a recipe, and the uniform types and presets beside it.

    ``better_than_all`` is whether no other of no larger size is expected to diverge less, by what was measured where
    it was measured.
    """

    recipe: Recipe
    mix: Mix
    others: tuple[Mix, ...]
    sensitivity: Sensitivity

    @property
    def better_than_all(self) -> bool:
        """Whether none of the others of no larger size diverges less."""
        mine = _harm(self.mix)
        return all(_harm(other) >= mine for other in self.others if other.size_bytes <= self.mix.size_bytes)


def _harm(mix: Mix) -> float:
    return mix.predicted if mix.measured is None else mix.measured


def search(
    model: Model,
    calibration: Calibration,
    goal: Goal,
    space: Space,
    *,
    settings: Settings | None = None,
    reuse: Sensitivity | None = None,
    progress: Progress = lambda label, done, total: None,
) -> Searched:
    """Return the mix that is expected to diverge least within a size, or the smallest within a divergence.

    With ``reuse`` nothing is measured. Raises ``PlanError`` for a goal that cannot be reached.
    """
    bench: Bench | None = None
    if reuse is None:
        sensitivity, bench = measure(
            model, calibration, space.tensors, space.types, settings=settings, progress=progress
        )
    else:
        sensitivity = reuse
        space = _measured_space(space, reuse)
    fixed = _fixed_bytes(model, space)
    choices = {
        t.name: [
            Choice(kind.name, t.n_rows * kind.row_bytes(t.n_columns), sensitivity.harms[t.name].get(kind.name, 0.0))
            for kind in space.types[t.name]
        ]
        for t in space.tensors
    }
    chosen = _reach(model, goal, choices, fixed, sensitivity)
    recipe = _recipe(chosen, choices, space, goal, sensitivity)
    types = {name: parse_type(choice.type) for name, choice in chosen.items()}
    mine = Mix("this mix", _size(model, recipe), sensitivity.predicted(_names(types)), _measured(bench, types))
    others = tuple(_others(model, space, sensitivity, bench, progress))
    return Searched(recipe, mine, others, sensitivity)


def _measured_space(space: Space, sensitivity: Sensitivity) -> Space:
    missing = [t.name for t in space.tensors if t.name not in sensitivity.harms]
    if missing:
        raise PlanError(f"{missing[0]} was not measured", hint="measure again, without --reuse")
    types = {
        t.name: tuple(k for k in space.types[t.name] if k is F16 or k.name in sensitivity.harms[t.name])
        for t in space.tensors
    }
    return Space(space.tensors, types, space.protect, space.unprotect)


def _fixed_bytes(model: Model, space: Space) -> int:
    """Return the bytes of a file but for the matrices that take part."""
    everything = Recipe(F16, protect=space.protect, unprotect=space.unprotect)
    taking_part = sum(t.n_rows * F16.row_bytes(t.n_columns) for t in space.tensors)
    return _size(model, everything) - taking_part


def _size(model: Model, recipe: Recipe) -> int:
    return make_plan(model, recipe).size_bytes


def _reach(
    model: Model, goal: Goal, choices: Mapping[str, Sequence[Choice]], fixed: int, sensitivity: Sensitivity
) -> dict[str, Choice]:
    if goal.size_bytes is not None:
        return allocate(choices, goal.size_bytes - fixed)
    if goal.bits is not None:
        others = sum(t.size_bytes for t in model.tensors if t.name not in choices)
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
    smaller = [o for o in options if o.size_bytes < choice.size_bytes]
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
    """Return every uniform type and preset whose types were all measured, with the same matrices taking part."""
    found = []
    uniform = {kind: None for t in space.tensors for kind in space.types[t.name] if kind.is_quantized}
    named = [(kind.name, Recipe(kind, protect=space.protect, unprotect=space.unprotect)) for kind in uniform]
    named += [(name, load_recipe(name)) for name in preset_names()]
    for number, (name, recipe) in enumerate(named):
        plan = make_plan(model, recipe)
        types = {t.name: plan[t.name].type for t in space.tensors}
        if all(kind is F16 or kind.name in sensitivity.harms[n] for n, kind in types.items()):
            predicted = sensitivity.predicted(_names(types))
            found.append(Mix(name, plan.size_bytes, predicted, _measured(bench, types)))
        progress("measuring the usual mixes", number + 1, len(named))
    return sorted(found, key=lambda mix: mix.size_bytes)
