"""One type throughout, embedding included: the files of one type and method that a model can be, and the best of them.

Stock whisper.cpp loads nothing else, and nothing else has the right to be returned where one of these is as good. They
are ordered by what is measured on clips that calibrated nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisq.errors import PlanError
from whisq.evaluation.statistics import Interval, paired_difference, rate
from whisq.evaluation.which_file import LOSS_NATS, MeasuredFile, WhichFile, which_file
from whisq.formats.layout import CONTAINERS, ContainerName
from whisq.provenance import provenance_of
from whisq.quantization.plan import Plan, make_plan
from whisq.quantization.rounding import METHODS
from whisq.recipe.recipe import Recipe, match_name
from whisq.runtimes.registry import RUNTIMES
from whisq.search.judging import Divergences
from whisq.types import TYPES, TensorType, parse_type
from whisq.whisper import TOKEN_EMBEDDING

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.model import Model
    from whisq.quantization.method import Method
    from whisq.runtimes.runtime import Runtime

ON_REQUEST = ("mxfp4",)
"""Types that take part only where they are asked for: older builds of the runtimes do not know them."""
LEAST_SHARE = 0.15
"""A calibrated method is taken to leave no less than this of what ggml's own rounding diverges: half of the least that
was seen (0.30 for whole files of base, 0.28 for blocks of tiny.en, docs/results.md and docs/calibration.md)."""
AS_GOOD = 1.05
"""What a file may diverge, as a multiple of another's, to be as good where the clips do not tell the two apart."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that could be written."""

    name: str
    plan: Plan
    is_uniform: bool = True

    @property
    def method(self) -> Method:
        """How its matrices are rounded."""
        return self.plan.method


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its divergence; the pieces judged by are the same for all, in the same order."""

    candidate: Candidate
    divergences: Divergences

    @property
    def name(self) -> str:
        """The candidate's."""
        return self.candidate.name

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self.candidate.plan.size_bytes

    def interval(self, seed: int = 0) -> Interval:
        """Return the divergence in nats per token with its bounds."""
        return rate(self.divergences.sums, self.divergences.tokens, seed=seed)

    def is_as_good_as(self, other: Judged, seed: int = 0) -> bool:
        """Return whether it diverges no more: by its mean, or by a twentieth at most that the clips cannot show."""
        mine, theirs = self.divergences, other.divergences
        if mine.mean <= theirs.mean:
            return True
        if mine.mean > AS_GOOD * theirs.mean:
            return False
        return paired_difference(mine.sums, theirs.sums, mine.tokens, seed=seed).interval.low <= 0


@dataclass(frozen=True)
class Ladder:
    """All that was judged, by size, and which of it is the answer to a goal.

    ``untried`` names files that were not measured: even ``LEAST_SHARE`` of what the same type diverges in ggml's own
    rounding is more than the best diverges. ``languages`` are those that each piece judged by was taken for, and those
    that the source hears in it; empty for an English-only model.
    """

    judged: tuple[Judged, ...]
    chosen: Judged
    untried: tuple[str, ...]
    languages: tuple[tuple[str, str], ...] = ()


def uniform_types(model: Model, names: Sequence[str], runtime: Runtime) -> tuple[TensorType, ...]:
    """Return the block types that a runtime loads and that fit all matrices of a model, those of ``names`` if any.

    Raises ``PlanError`` for a name that does not load or does not fit.
    """
    columns = {t.n_columns for t in model.tensors if t.spec.is_matrix}
    asked = [parse_type(name) for name in names]
    for kind in asked:
        if kind not in runtime.types:
            raise PlanError(f"{runtime.name} does not load {kind}", hint="leave it out of --types")
        wrong = [n for n in sorted(columns) if not kind.fits(n)]
        if wrong and not runtime.loads_mixes:
            raise PlanError(
                f"{kind} does not fit rows of {wrong[0]}, and {runtime.name} loads one type only",
                hint="leave it out of --types",
            )
    usual = [t for name, t in TYPES.items() if t.is_quantized and t in runtime.types and name not in ON_REQUEST]
    return tuple(t for t in asked or usual if t.is_quantized and all(map(t.fits, columns)))


def uniform_recipe(kind: TensorType, protect: Sequence[str] = (), embedding: TensorType | None = None) -> Recipe:
    """Return the recipe of one type throughout; the embedding has it too unless it is protected or has its own."""
    protected = any(match_name(pattern, TOKEN_EMBEDDING) for pattern in protect)
    return Recipe(
        kind, protect=tuple(protect), embedding=None if protected else embedding or kind, name=f"uniform {kind}"
    )


def uniform_candidates(
    model: Model,
    recipes: Mapping[TensorType, Recipe],
    container: ContainerName,
    calibration: Calibration | None,
    target: str | None = None,
) -> list[Candidate]:
    """Return a candidate for each recipe and each method that rounds any matrix otherwise, ggml's own first.

    A method that needs no calibration is no candidate, but for ggml's: who compares files calibrates, and what uses
    that comes nearer.
    """
    found = []
    for kind, recipe in recipes.items():
        for method in METHODS:
            given = None if method.needs == "nothing" else calibration
            is_outdone = method.needs == "nothing" and not method.is_plain
            if is_outdone or method.what_is_missing(given) is not None:
                continue
            stated = provenance_of(model, recipe, method, given) if CONTAINERS[container].has_provenance else None
            plan = make_plan(
                model,
                recipe,
                container=container,
                target=target,
                provenance=stated,
                calibration=given,
                method=method,
            )
            if method.is_plain or any(a.method is method for a in plan.assignments if a.is_quantized_here):
                found.append(Candidate(f"{kind} {method}", plan))
    return found


def judge_all(
    candidates: Sequence[Candidate],
    measure: Callable[[Candidate], Divergences],
    *,
    divergence: float | None = None,
    mixes: Sequence[Candidate] = (),
    seed: int = 0,
) -> Ladder:
    """Return what could be the answer, measured, and the answer: the closest to the source, or of those the smallest.

    With ``divergence`` it is the smallest that diverges no more. ``mixes`` are measured first; one is the answer only
    where no uniform file is as good. Raises ``PlanError`` where nothing is within ``divergence``.
    """
    judged = [Judged(mix, measure(mix)) for mix in mixes]
    untried: list[str] = []
    plain = {c.plan.recipe.default: c for c in candidates if c.method.is_plain}
    others: dict[TensorType, list[Candidate]] = {kind: [] for kind in plain}
    for candidate in candidates:
        if not candidate.method.is_plain:
            others[candidate.plan.recipe.default].append(candidate)

    def try_others(kind: TensorType, plainly: Judged, bound: float) -> None:
        for candidate in others[kind]:
            if LEAST_SHARE * plainly.divergences.mean > bound:
                untried.append(candidate.name)
            else:
                judged.append(Judged(candidate, measure(candidate)))

    if divergence is not None:
        for kind in sorted(plain, key=lambda kind: plain[kind].plan.size_bytes):
            if any(j.divergences.mean <= divergence and j.size_bytes < plain[kind].plan.size_bytes for j in judged):
                break
            judged.append(plainly := Judged(plain[kind], measure(plain[kind])))
            try_others(kind, plainly, divergence)
    else:
        measured = {kind: Judged(candidate, measure(candidate)) for kind, candidate in plain.items()}
        judged += measured.values()
        # What ggml's own rounding brings closest is most likely closest in the end, and spares most of the rest.
        for kind in sorted(measured, key=lambda kind: measured[kind].divergences.mean):
            try_others(kind, measured[kind], min(j.divergences.mean for j in judged))
    ordered = tuple(sorted(judged, key=lambda j: (j.size_bytes, j.divergences.mean)))
    return Ladder(ordered, _answer(ordered, divergence, seed), tuple(untried))


def which_file_of(ladder: Ladder, *, loss_nats: float = LOSS_NATS) -> WhichFile:
    """Return what was judged in order of size and divergence, what nothing speaks for marked."""
    files = [
        MeasuredFile(
            name=judged.name,
            size_bytes=judged.size_bytes,
            loads_in=frozenset(v.runtime for v in judged.candidate.plan.verdicts if v.loads),
            sums=judged.divergences.sums,
            tokens=judged.divergences.tokens,
            is_uniform=judged.candidate.is_uniform,
        )
        for judged in ladder.judged
    ]
    return which_file(files, [runtime.name for runtime in RUNTIMES], loss_nats=loss_nats)


def _answer(judged: Sequence[Judged], divergence: float | None, seed: int) -> Judged:
    if not judged:
        raise PlanError("no type is left to choose from", hint="allow more types (--types)")
    best = min(judged, key=lambda j: j.divergences.mean)
    if divergence is None:
        good = [j for j in judged if j.is_as_good_as(best, seed)]
        return min(good, key=lambda j: (not j.candidate.is_uniform, j.size_bytes, j.divergences.mean))
    good = [j for j in judged if j.divergences.mean <= divergence]
    if not good:
        raise PlanError(
            f"nothing diverges {divergence} nats per token or less here; {best.name} comes closest, with"
            f" {best.divergences.mean:.2g}",
            hint="allow more: --divergence " + f"{best.divergences.mean * 1.1:.2g}",
        )
    return min(good, key=lambda j: (j.size_bytes, not j.candidate.is_uniform, j.divergences.mean))
