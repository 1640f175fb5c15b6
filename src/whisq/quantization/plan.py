"""What will happen to every tensor, decided before a byte is written.

``make_plan`` is pure: the same model and recipe give the same plan, whatever was planned before. ``quantize``
obeys a plan and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from whisq.errors import PlanError
from whisq.formats import layout_of
from whisq.formats.layout import ContainerName, Layout, Output
from whisq.model import Model, TensorRef
from whisq.quantization.method import GGML, Method
from whisq.quantization.rounding import parse_method
from whisq.recipe.lint import Finding, Finished, findings_of
from whisq.recipe.recipe import Match, Recipe
from whisq.runtimes.registry import RUNTIMES, Verdict, parse_runtime, verdicts
from whisq.types import F16, F32, TensorType, fallback_for

if TYPE_CHECKING:
    from whisq.calibration import Calibration

Why = Literal["rule", "default", "protected", "kept", "converted"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What happens to one tensor, and why.

    ``why`` is "rule" or "default" for matrices that the recipe decided, "protected" for what is never quantized,
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
        """Bits of tensor data per weight, over the whole model."""
        return 8 * sum(a.size_after for a in self.assignments) / self.model.n_weights

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

    ``target`` is a runtime's name that must load the result. ``keep_f32`` keeps conv kernels and kept matrices of an
    f32 source as they are. ``allow_requantize`` permits a source that holds quantized matrices. ``method`` says how
    matrices are rounded, by name or as a value; it may need a ``calibration`` of this model.

    Raises ``PlanError`` for a refused target, misfits under ``on_misfit = "error"``, requantizing, and a method
    without what it needs; ``CalibrationError`` for a calibration of another model.
    """
    runtime, rounding = _runtime(target), parse_method(method)
    if calibration is not None:
        calibration.check_fits(model)
    if not allow_requantize:
        _refuse_requantizing(model)
    decided = [_decide(tensor, model, recipe) for tensor in model.tensors]
    if recipe.on_misfit == "error":
        _refuse_misfits(decided, recipe)
    assignments = [_with_method(a, rounding, calibration) for a in _store_the_rest(decided, keep_f32)]
    outputs = [Output(a.tensor, a.type) for a in assignments]
    verdict_list = verdicts(container, [(o.tensor.spec, o.type) for o in outputs])
    if runtime is not None:
        _refuse_target(runtime, verdict_list, assignments, recipe)
    arrangement = layout_of(container, model, outputs, provenance)
    finished = [
        Finished(a.tensor.spec, a.is_quantized_here or a.type is not a.tensor.type, a.asked, a.type, a.rule)
        for a in assignments
    ]
    findings = findings_of(recipe, model.dims, finished, model.size_bytes, arrangement.size_bytes)
    return Plan(
        model, recipe, container, tuple(assignments), arrangement, verdict_list, tuple(findings), provenance or {},
        calibration, rounding,
    )  # fmt: skip


def _with_method(a: Assignment, method: Method, calibration: Calibration | None) -> Assignment:
    if not a.is_quantized_here:
        return a
    decision = method.decide(a.tensor.spec, a.type, calibration)
    return replace(a, method=decision.method, note=decision.why)


def _runtime(target: str | None) -> str | None:
    if target is None:
        return None
    runtime = parse_runtime(target)
    if runtime is None:
        raise PlanError(f"unknown runtime '{target}'", hint=f"use one of: {' '.join(RUNTIMES)}")
    return runtime


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
    first = recipe.first_rule(spec, model.dims)
    if first is None:
        asked, why, rule, match = recipe.default, "default", None, None
    else:
        (rule, match), why = first, "rule"
        asked = recipe.rules[rule].type
    chosen = asked if asked.fits(tensor.n_columns) else fallback_for(asked, tensor.n_columns)
    return Assignment(tensor, chosen, why, asked, rule, match)  # type: ignore[arg-type]  # two of Why's values


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
    runtime: str, verdict_list: Sequence[Verdict], assignments: Sequence[Assignment], recipe: Recipe
) -> None:
    verdict = next(v for v in verdict_list if v.runtime == runtime)
    if verdict.loads:
        return
    raise PlanError(
        f"{verdict.title} would not load this file: {'; '.join(verdict.reasons)}{_named_rules(runtime, recipe)}",
        hint=_target_hint(runtime, assignments, recipe),
    )


def _named_rules(runtime: str, recipe: Recipe) -> str:
    if runtime == "transcribe.cpp":
        from whisq.runtimes.registry import TRANSCRIBE_CPP_TYPES

        rules = [str(rule) for rule in recipe.rules if rule.type not in TRANSCRIBE_CPP_TYPES]
    else:
        rules = [str(rule) for rule in recipe.rules if rule.type is not recipe.default]
    return f" (rules: {', '.join(rules)})" if rules else ""


def _target_hint(runtime: str, assignments: Sequence[Assignment], recipe: Recipe) -> str:
    if runtime == "transcribe.cpp":
        return "use types among f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_K q5_K q6_K"
    kept = [a.tensor.name for a in assignments if a.tensor.spec.is_matrix and a.why == "protected"]
    blocks = {a.type for a in assignments if a.tensor.spec.is_matrix and a.why != "protected"}
    parts = []
    if len(blocks) > 1:
        fit = fallback_for(recipe.default, min(a.tensor.n_columns for a in assignments if a.tensor.spec.is_matrix))
        parts.append(f"drop the rules and use one type ({fit})")
    if kept and runtime == "whisper.cpp":
        parts.append(f"add --unprotect '{kept[0].replace('.', chr(92) + '.')}'")
    if not parts:
        return "leave out --keep-f32" if runtime.startswith("whisper") else "choose another type"
    return " and ".join(parts) + ("" if runtime != "whisper.cpp" else ", or target transcribe.cpp, which loads mixes")
