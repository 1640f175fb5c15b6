"""What will happen to every tensor, decided before a byte is written.

``make_plan`` is pure: the same model and recipe give the same plan, whatever was planned before. ``quantize``
obeys a plan and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from typing import TYPE_CHECKING, Any, Literal

from whisq.errors import PlanError
from whisq.formats import layout_of
from whisq.formats.layout import ContainerName, Layout, Output
from whisq.model import Model, TensorRef
from whisq.quantization.method import GGML, Method
from whisq.quantization.rounding import parse_method
from whisq.recipe.lint import Finding, Finished, findings_of
from whisq.recipe.recipe import Match, Recipe, match_name
from whisq.runtimes.registry import by_preference, parse_runtime, refusals, verdicts
from whisq.runtimes.runtime import PlannedFile, Runtime, Verdict
from whisq.types import F16, F32, TYPES, TensorType, fallback_for
from whisq.whisper import TOKEN_EMBEDDING

if TYPE_CHECKING:
    from whisq.calibration import Calibration

Why = Literal["rule", "default", "embedding", "protected", "kept", "converted"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What happens to one tensor, and why.

    ``why`` is "rule" or "default" for matrices that the recipe decided, "embedding" for the token embedding where the
    recipe or the target names its type, "protected" for what is never quantized,
    "kept" for norms, biases and conv kernels, "converted" for matrices that go from one container to another without a
    recipe. ``asked`` is the type that the rule or default named; it differs from
    ``type`` where the rows did not fit it. ``match`` says under which name the rule matched. ``method`` is how it is
    rounded, ``note`` why that is not the method asked for. Sizes are in bytes.
    """

    tensor: TensorRef
    type: TensorType
    why: Why
    asked: TensorType | None = None
    rule: int | None = None
    match: Match | None = None
    method: Method = GGML
    note: str = ""

    @property
    def is_quantized_here(self) -> bool:
        """True when this plan turns the tensor into a block format it was not in before."""
        return self.type.is_quantized and self.type is not self.tensor.type

    @property
    def is_fallback(self) -> bool:
        """True when the rows did not fit the type that was asked for."""
        return self.asked is not None and self.asked is not self.type

    @property
    def size_before(self) -> int:
        """Bytes in the source."""
        return self.tensor.size_bytes

    @property
    def size_after(self) -> int:
        """Bytes in the output."""
        return self.tensor.n_rows * self.type.row_bytes(self.tensor.n_columns)

    @property
    def reason(self) -> str:
        """One sentence: why the tensor gets this type."""
        if self.why == "protected":
            return "protected: never quantized"
        if self.why == "kept":
            return f"{self.tensor.role.replace('_', ' ')}: not a weight matrix"
        if self.why == "converted":
            return "converted: type kept" if self.type is self.tensor.type else f"converted to {self.type}"
        source = f"rule {self.rule + 1}" if self.rule is not None else "the default type"
        if self.why == "embedding":
            source = "the embedding's own type"
        if self.is_fallback:
            return f"{source} asks for {self.asked}, which rows of {self.tensor.n_columns} do not fit"
        return source


@dataclass(frozen=True)
class Plan:
    """One assignment per tensor in file order, and all that follows from them.

    Raises ``PlanError`` for a tensor that its method cannot round with this ``calibration``.
    """

    model: Model
    recipe: Recipe
    container: ContainerName
    assignments: tuple[Assignment, ...]
    layout: Layout
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    method: Method = GGML

    def __post_init__(self) -> None:
        for a in self.assignments:
            missing = a.method.what_is_missing(self.calibration)
            if missing is not None:
                raise PlanError(f"{a.tensor.name}: {missing}", hint=missing.hint)
            why = a.method.reason_against(a.tensor.spec, a.type, self.calibration)
            if why:
                raise PlanError(f"{a.tensor.name}: cannot be rounded with {a.method}: {why}", hint="use another method")

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The tensors as they will be written."""
        return tuple(Output(assignment.tensor, assignment.type) for assignment in self.assignments)

    @property
    def size_bytes(self) -> int:
        """Exact size of the file to be written."""
        return self.layout.size_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per weight."""
        return 8 * self.size_bytes / self.model.n_weights

    @property
    def slow(self) -> tuple[Assignment, ...]:
        """Those whose rounding takes long enough to be shared out."""
        return tuple(a for a in self.assignments if a.method.is_slow and a.is_quantized_here)

    def __getitem__(self, name: str) -> Assignment:
        """Return the assignment of the tensor with a canonical name; raises ``KeyError``."""
        for assignment in self.assignments:
            if assignment.tensor.name == name:
                return assignment
        raise KeyError(name)


def make_plan(
    model: Model,
    recipe: Recipe,
    *,
    container: ContainerName = "bin",
    target: str | None = None,
    keep_f32: bool = False,
    allow_requantize: bool = False,
    provenance: dict[str, Any] | None = None,
    calibration: Calibration | None = None,
    method: Method | str = GGML,
) -> Plan:
    """Return what a recipe does to a model.

    ``target`` is a runtime's name that must load the result; see ``recipe_for``. ``keep_f32`` keeps conv kernels and
    kept matrices of an f32 source as they are. ``allow_requantize`` permits a source that holds quantized matrices.
    ``method`` says how matrices are rounded, by name or as a value; it may need a ``calibration`` of this model.

    Raises ``PlanError`` for a refused target, misfits under ``on_misfit = "error"``, requantizing, and a method
    without what it needs; ``CalibrationError`` for a calibration of another model, and of other weights of the same
    shape unless it ``takes_other_model``.
    """
    runtime = None if target is None else parse_runtime(target)
    rounding = parse_method(method)
    if calibration is not None:
        calibration.check_fits(model)
        calibration.check_weights(model)
    if not allow_requantize:
        _refuse_requantizing(model)
    if runtime is not None:
        recipe = recipe_for(runtime, model, recipe)
    decided = [_decide(tensor, model, recipe) for tensor in model.tensors]
    if recipe.on_misfit == "error":
        _refuse_misfits(decided, recipe)
    assignments = [_with_method(a, rounding, calibration) for a in _store_the_rest(decided, keep_f32)]
    outputs = [Output(a.tensor, a.type) for a in assignments]
    verdict_list = verdicts(container, [(o.tensor.spec, o.type) for o in outputs])
    if runtime is not None:
        _refuse_target(runtime, container, assignments, recipe)
    arrangement = layout_of(container, model, outputs, provenance)
    finished = [
        Finished(a.tensor.spec, a.is_quantized_here or a.type is not a.tensor.type, a.asked, a.type, a.rule)
        for a in assignments
    ]
    findings = findings_of(recipe, model.dims, finished, model.size_bytes, arrangement.size_bytes)
    findings += _loads_nowhere(verdict_list, _planned_file(container, assignments, recipe))
    return Plan(
        model,
        recipe,
        container,
        tuple(assignments),
        arrangement,
        verdict_list,
        tuple(findings),
        provenance or {},
        calibration,
        rounding,
    )


def recipe_for(runtime: Runtime, model: Model, recipe: Recipe) -> Recipe:
    """Return a recipe as a runtime wants it: for one that loads one type only, the embedding has that of all others.

    A recipe that says what becomes of the embedding is left as it is, and so is one that gives the other matrices
    several types: the runtime refuses it later, with what to do.
    """
    embedding = next((t for t in model.tensors if t.name == TOKEN_EMBEDDING), None)
    if runtime.loads_mixes or recipe.embedding is not None or embedding is None or not recipe.protects(embedding.spec):
        return recipe
    if any(match_name(pattern, TOKEN_EMBEDDING) for pattern in recipe.protect):
        return recipe
    others = {_decide(t, model, recipe).type for t in model.tensors if t.spec.is_matrix and t is not embedding}
    return replace(recipe, embedding=others.pop()) if len(others) == 1 else recipe


def _loads_nowhere(verdict_list: Sequence[Verdict], file: PlannedFile) -> list[Finding]:
    if any(verdict.loads for verdict in verdict_list):
        return []
    preferred = by_preference()[0]
    return [
        Finding(
            "loads-nowhere",
            f"no runtime that whisq knows loads this file ({refusals(verdict_list)})",
            f"for {preferred.name}: {preferred.hint(file)}",
        )
    ]


def _with_method(a: Assignment, method: Method, calibration: Calibration | None) -> Assignment:
    if not a.is_quantized_here:
        return a
    decision = method.decide(a.tensor.spec, a.type, calibration)
    return replace(a, method=decision.method, note=decision.why)


def _refuse_requantizing(model: Model) -> None:
    quantized = [tensor for tensor in model.tensors if tensor.type.is_quantized]
    if quantized:
        kinds = ", ".join(sorted({tensor.type.name for tensor in quantized}))
        raise PlanError(
            f"{model.path}: already quantized: {len(quantized)} tensors are {kinds} ({quantized[0].name} first)",
            hint="start from the f16 or f32 model: the two losses add up; --allow-requantize does it anyway",
        )


def _decide(tensor: TensorRef, model: Model, recipe: Recipe) -> Assignment:
    spec = tensor.spec
    if recipe.protects(spec):
        return Assignment(tensor, tensor.type, "protected")
    if not spec.is_matrix:
        return Assignment(tensor, tensor.type, "kept")
    if spec.name == TOKEN_EMBEDDING and recipe.embedding is not None:
        return Assignment(tensor, _fitting(recipe.embedding, tensor.n_columns), "embedding", recipe.embedding)
    first = recipe.first_rule(spec, model.dims)
    if first is None:
        return Assignment(tensor, _fitting(recipe.default, tensor.n_columns), "default", recipe.default)
    rule, match = first
    asked = recipe.rules[rule].type
    return Assignment(tensor, _fitting(asked, tensor.n_columns), "rule", asked, rule, match)


def _fitting(asked: TensorType, n_columns: int) -> TensorType:
    return asked if asked.fits(n_columns) else fallback_for(asked, n_columns)


def _refuse_misfits(decided: Sequence[Assignment], recipe: Recipe) -> None:
    misfits = [a for a in decided if a.is_fallback]
    if not misfits:
        return
    lines = [
        f"  {a.tensor.name}: rows of {a.tensor.n_columns} do not fit {a.asked} (blocks of {a.asked.block_size})"
        for a in misfits
        if a.asked is not None
    ]
    named = {f"rule {recipe.rules[a.rule]}" if a.rule is not None else "the default type" for a in misfits}
    raise PlanError(
        f"{len(misfits)} tensors do not fit the type asked for by {', '.join(sorted(named))}:\n" + "\n".join(lines),
        hint=f"ask for {misfits[0].type} there, or use --on-misfit fallback",
    )


def _store_the_rest(decided: Sequence[Assignment], keep_f32: bool) -> list[Assignment]:
    """Give every tensor that is not quantized the type in which it is stored.

    Norms, biases and positions are f32: every loader wants that. Conv kernels and kept matrices are f16, because a
    mixed header makes whisper.cpp reserve f16 for them and refuse f32; a file that is f32 throughout stays so.
    """
    matrices = {a.type for a in decided if a.tensor.spec.is_matrix}
    all_f32 = matrices == {F32} and all(a.why != "protected" for a in decided if a.tensor.spec.is_matrix)
    result = []
    for a in decided:
        keeps = keep_f32 and a.tensor.type is F32
        kind = a.type
        if a.tensor.role == "conv":
            kind = F32 if keeps or all_f32 else F16
        elif not a.tensor.spec.is_matrix:
            kind = F32
        elif a.why == "protected" and not kind.is_quantized:
            kind = F32 if keeps else F16
        result.append(replace(a, type=kind))
    return result


def _refuse_target(
    runtime: Runtime, container: ContainerName, assignments: Sequence[Assignment], recipe: Recipe
) -> None:
    file = _planned_file(container, assignments, recipe)
    reasons = runtime.reasons_against(container, file.tensors)
    if not reasons:
        return
    at_odds = [
        str(rule)
        for rule in recipe.rules
        if rule.type not in runtime.types or (not runtime.loads_mixes and rule.type is not recipe.default)
    ]
    named = f" (rules: {', '.join(at_odds)})" if at_odds else ""
    raise PlanError(f"{runtime.title} would not load this file: {'; '.join(reasons)}{named}", hint=runtime.hint(file))


def _planned_file(container: ContainerName, assignments: Sequence[Assignment], recipe: Recipe) -> PlannedFile:
    """Return what a runtime needs to know of a plan to say what should be planned instead."""
    matrices = [a for a in assignments if a.tensor.spec.is_matrix]
    tensors = [(a.tensor.spec, a.type) for a in assignments]
    return PlannedFile(
        container,
        tensors,
        kept=tuple(a.tensor.name for a in matrices if a.why == "protected"),
        chosen=frozenset(a.type for a in matrices if a.why != "protected"),
        uniform=_of_about_that_size(recipe.default, gcd(*(a.tensor.n_columns for a in matrices))),
        has_rules=bool(recipe.rules),
        elsewhere=next((other.name for other in by_preference() if not other.reasons_against(container, tensors)), ""),
    )


def _of_about_that_size(asked: TensorType, n_columns: int) -> tuple[TensorType, ...]:
    """Return the type that was asked for where rows fit it, else those within a bit per weight that they fit."""
    if asked.fits(n_columns):
        return (asked,)
    near = [t for t in TYPES.values() if t.fits(n_columns) and abs(t.bits_per_weight - asked.bits_per_weight) <= 1]
    return tuple(sorted(near, key=lambda t: (abs(t.bits_per_weight - asked.bits_per_weight), -t.precision_db)))
