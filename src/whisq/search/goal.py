"""What is searched for, among what, and what comes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from whisq.errors import PlanError
from whisq.formats.layout import ContainerName
from whisq.model import Model, TensorRef
from whisq.quantization.plan import make_plan
from whisq.recipe.recipe import Recipe, Rule, match_name
from whisq.recipe.toml import load_recipe, preset_names
from whisq.runtimes.registry import by_preference, parse_runtime
from whisq.search.sensitivity import Mix, Sensitivity
from whisq.types import F16, TYPES, TensorType, fallback_for, parse_type
from whisq.whisper import TOKEN_EMBEDDING

SAME = 1e-6
"""Divergences that differ by less, relatively, are those of the same bytes."""

TOLERATED = 1.1
"""What a faster mix may diverge, as a multiple of the best one's."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One of: bytes of a file in ``container``, its bits per weight, divergence in nats per token.

    Each is an upper bound.
    """

    size_bytes: int | None = None
    bits: float | None = None
    divergence: float | None = None
    container: ContainerName = "bin"

    def __post_init__(self) -> None:
        """Raise ``PlanError`` unless exactly one bound is given, above 0."""
        bounds = {"size": self.size_bytes, "bits": self.bits, "divergence": self.divergence}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if len(given) != 1:
            raise PlanError("one goal is needed", hint="give a size, bits per weight, or a divergence")
        for name, bound in given.items():
            if not 0 < bound < math.inf:
                raise PlanError(f"{name} must be above 0, not {bound}", hint="give a number above 0")

    def limit_for(self, n_weights: int) -> int | None:
        """Return the bytes of the file that it allows a model of so many weights, None where it does not say."""
        if self.bits is not None:
            return int(self.bits * n_weights / 8)
        return self.size_bytes


@dataclass(frozen=True, slots=True)
class UsualMix:
    """One type throughout, or a preset: what a searched mix stands beside.

    ``kind`` is "uniform" or "preset", ``types`` are those of the matrices that take part, ``size_bytes`` is that of the
    whole ``.bin``.
    """

    name: str
    kind: str
    types: Mapping[str, TensorType]
    size_bytes: int


@dataclass(frozen=True)
class Space:
    """The matrices that take part, the types that each may take, and what all of it takes in bytes."""

    tensors: tuple[TensorRef, ...]
    types: Mapping[str, tuple[TensorType, ...]]
    protect: tuple[str, ...]
    unprotect: tuple[str, ...]
    asked: tuple[TensorType, ...]
    """The types that were asked for by name, if any."""
    n_weights: int
    """Weights of the whole model."""
    file_bytes: int
    """Bytes of a ``.bin`` but for the matrices that take part."""
    usual: tuple[UsualMix, ...]
    embedding_was_asked: bool = False
    """Whether the embedding takes part by request, and not only where it costs almost nothing."""

    @classmethod
    def of(
        cls,
        model: Model,
        names: Sequence[str],
        target: str,
        protect: Sequence[str],
        unprotect: Sequence[str],
        embedding: TensorType | None = None,
    ) -> Space:
        """Return the space of a model: all unprotected matrices, all types that fit and the target loads.

        Of these the token embedding may take q8_0 and what is more precise; ``embedding`` is its one type, and f16
        keeps it out. Where ``unprotect`` names it, it is a matrix like the others.

        Raises ``PlanError`` for a target that loads no mixes, for types that it does not load, and for a model that is
        quantized already.
        """
        runtime = parse_runtime(target)
        if not runtime.loads_mixes:
            mixing = " or ".join(
                other.name for other in by_preference() if other.loads_mixes and not other.reads_its_own
            )
            raise PlanError(f"runtime '{target}' cannot load mixed types", hint=f"use {mixing}")
        loads = runtime.types
        asked = [parse_type(name) for name in names] or [t for t in TYPES.values() if t.is_quantized and t in loads]
        refused = [kind.name for kind in (*asked, *([embedding] if embedding else [])) if kind not in loads]
        if refused:
            raise PlanError(f"{target} does not load {' '.join(refused)}", hint="leave them out of --types")
        recipe = Recipe(F16, protect=tuple(protect), unprotect=tuple(unprotect))
        blocks = [kind for kind in asked if kind.is_quantized]
        joining = _types_of_embedding(model, recipe, blocks, embedding)
        tensors = tuple(
            t for t in model.tensors if t.spec.is_matrix and (not recipe.protects(t.spec) or t.name in joining)
        )
        types = {t.name: (*(kind for kind in blocks if kind.fits(t.n_columns)), F16) for t in tensors} | joining
        # A type that fits none of these matrices is never measured: it cannot be missed later.
        fitting = {kind for kinds in types.values() for kind in kinds}
        asked_for = tuple(kind for kind in blocks if kind in fitting) if names else ()
        plan = make_plan(model, recipe if embedding is None else replace(recipe, embedding=F16))
        taking_part = sum(bytes_of(tensor, F16) for tensor in tensors)
        file_bytes = plan.size_bytes - taking_part
        usual = (*_uniform_mixes(tensors, types, file_bytes), *_presets(model, tensors))
        return cls(
            tensors,
            types,
            tuple(protect),
            tuple(unprotect),
            asked_for,
            model.n_weights,
            file_bytes,
            usual,
            embedding is not None or TOKEN_EMBEDDING not in joining,
        )

    def size_of(self, mix: Mapping[str, TensorType]) -> int:
        """Return the bytes of a ``.bin`` with these types of all matrices that take part."""
        return self.file_bytes + sum(bytes_of(tensor, mix[tensor.name]) for tensor in self.tensors)

    def smallest(self) -> dict[str, TensorType]:
        """Return the mix of the fewest bytes."""
        return {t.name: min(self.types[t.name], key=lambda kind: kind.row_bytes(t.n_columns)) for t in self.tensors}

    def largest(self) -> dict[str, TensorType]:
        """Return the mix of the most bytes."""
        return {t.name: max(self.types[t.name], key=lambda kind: kind.row_bytes(t.n_columns)) for t in self.tensors}

    def recipe_of(self, mix: Mapping[str, TensorType]) -> Recipe:
        """Return a mix as a recipe without reasons."""
        rules = tuple(Rule(re.escape(name), kind) for name, kind in mix.items() if name != TOKEN_EMBEDDING)
        embedding = mix.get(TOKEN_EMBEDDING, F16)
        lifted = embedding if embedding.is_quantized else None
        return Recipe(F16, rules, self.protect, self.unprotect, lifted)

    @property
    def block_types(self) -> tuple[TensorType, ...]:
        """Return the block types that any matrix may take."""
        return tuple({kind: None for kinds in self.types.values() for kind in kinds if kind.is_quantized})

    def without(self, names: Iterable[str]) -> Space:
        """Return this space with some matrices left in f16."""
        out = set(names)
        kept_bytes = sum(bytes_of(t, F16) for t in self.tensors if t.name in out)
        return replace(
            self,
            tensors=tuple(t for t in self.tensors if t.name not in out),
            types={name: kinds for name, kinds in self.types.items() if name not in out},
            file_bytes=self.file_bytes + kept_bytes,
            usual=tuple(
                replace(usual, types={name: kind for name, kind in usual.types.items() if name not in out})
                for usual in self.usual
                if all(usual.types.get(name, F16) is F16 for name in out)
            ),
        )

    def limit_of(self, goal: Goal) -> int | None:
        """Return the bytes of the file that a goal allows, None where it does not say."""
        return goal.limit_for(self.n_weights)

    def budget_of(self, limit_bytes: int) -> int:
        """Return the bytes that a file of so many leaves to the matrices that take part."""
        return limit_bytes - self.file_bytes


def _types_of_embedding(
    model: Model, recipe: Recipe, blocks: Sequence[TensorType], embedding: TensorType | None
) -> dict[str, tuple[TensorType, ...]]:
    """Return the token embedding with its types where a recipe protects it and it takes part all the same."""
    tensor = next((t for t in model.tensors if t.name == TOKEN_EMBEDDING), None)
    if tensor is None or any(match_name(pattern, TOKEN_EMBEDDING) for pattern in recipe.protect):
        return {}
    if embedding is not None:
        if not embedding.fits(tensor.n_columns):
            raise PlanError(f"{embedding} does not fit rows of {tensor.n_columns}", hint="choose another --embedding")
        return {TOKEN_EMBEDDING: (embedding,)} if embedding.is_quantized else {}
    if not recipe.protects(tensor.spec):
        return {}
    least = TYPES["q8_0"].precision_db
    precise = tuple(kind for kind in blocks if kind.precision_db >= least and kind.fits(tensor.n_columns))
    return {TOKEN_EMBEDDING: (*precise, F16)} if precise else {}


def bytes_of(tensor: TensorRef, kind: TensorType) -> int:
    """Return the bytes of a tensor in a type."""
    return tensor.n_rows * kind.row_bytes(tensor.n_columns)


def _uniform_mixes(
    tensors: Sequence[TensorRef], types: Mapping[str, Sequence[TensorType]], file_bytes: int
) -> Iterator[UsualMix]:
    """Give every block type throughout; rows that it does not fit have what a plan falls back to."""
    for kind in {kind: None for t in tensors for kind in types[t.name] if kind.is_quantized}:
        mix = {t.name: kind if kind.fits(t.n_columns) else fallback_for(kind, t.n_columns) for t in tensors}
        if TOKEN_EMBEDDING in mix and mix[TOKEN_EMBEDDING] not in types[TOKEN_EMBEDDING]:
            mix[TOKEN_EMBEDDING] = types[TOKEN_EMBEDDING][0]
        yield UsualMix(kind.name, "uniform", mix, file_bytes + sum(bytes_of(t, mix[t.name]) for t in tensors))


def _presets(model: Model, tensors: Sequence[TensorRef]) -> Iterator[UsualMix]:
    for name in preset_names():
        plan = make_plan(model, load_recipe(name))
        assigned = {assignment.tensor.name: assignment.type for assignment in plan.assignments}
        yield UsualMix(name, "preset", {t.name: assigned[t.name] for t in tensors}, plan.size_bytes)


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
