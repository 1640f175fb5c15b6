"""A plan as people read it (one line per tensor, then a summary) and as scripts do (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from whisq.quantization.plan import Assignment, Plan
from whisq.runtimes.registry import told
from whisq.types import TensorType
from whisq.units import megabytes

_NAME_WIDTH = 40
_ORIGINS = {"rule": "matched pattern", "default": "default", "embedding": "embedding"}


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield one line for each tensor, in file order, in the form that whisper.cpp's tool made familiar."""
    width = max(_NAME_WIDTH, max(len(a.tensor.name) for a in plan.assignments))
    for assignment in plan.assignments:
        yield _line(assignment, width)


def _line(a: Assignment, width: int) -> str:
    sizes = [*reversed(a.tensor.shape), 1, 1][:3]
    shape = ", ".join(f"{size:5d}" for size in sizes)
    parts = [f"{a.tensor.name:>{width}} - [{shape}], type = {a.tensor.type.name:>6}"]
    if a.why == "protected":
        parts.append("[skipped]")
    if a.is_quantized_here:
        parts.append(f"{origin_of(a)} -> {a.type}")
        if a.is_fallback:
            parts.append(f"({a.asked} does not fit)")
        if not a.method.is_plain:
            parts.append(f"with {a.method}")
        if a.note:
            parts.append(f"({a.note})")
        if a.match is not None and a.match.dialect not in (None, "canonical"):
            parts.append(f"(as {a.match.name})")
    elif a.type is not a.tensor.type:
        parts.append(f"stored as {a.type}")
    if a.type is a.tensor.type:
        parts.append(f"size = {megabytes(a.size_after):8.3f} MB")
    else:
        parts.append(f"size = {megabytes(a.size_before):8.2f} MB -> {megabytes(a.size_after):8.2f} MB")
    return " ".join(parts)


def summary_lines(plan: Plan, output: str, duration_s: float | None) -> Iterator[str]:
    """Yield the summary; ``duration_s`` is None for a dry run."""
    before, after = plan.model.size_bytes, plan.size_bytes
    source_bits = plan.model.bits_per_weight
    yield ""
    yield (
        f"size: {megabytes(before):.2f} MB -> {megabytes(after):.2f} MB ({after} bytes, {after / before:.1%}),"
        f" {source_bits:.2f} -> {plan.bits_per_weight:.2f} bits per weight"
    )
    yield from type_lines(plan)
    yield from _rules(plan)
    yield from _protected(plan)
    yield from fallback_lines(plan)
    yield from method_lines(plan)
    yield from load_lines(plan)
    if duration_s is None:
        yield f"dry run: nothing was written; {output} would have {after} bytes"
    else:
        yield f"wrote {output} in {duration_s:.2f} s"


def origin_of(a: Assignment) -> str:
    """Return who decided a tensor's type, in the words of the lines."""
    return _ORIGINS[a.why]


def type_lines(plan: Plan) -> Iterator[str]:
    """Yield what each type takes."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for a in plan.assignments:
        counts[a.type.name] += 1
        sizes[a.type.name] += a.size_after
    yield "types:"
    for name, size in sizes.most_common():
        yield f"  {name:>6} {counts[name]:5d} tensors {megabytes(size):10.2f} MB  {size / plan.size_bytes:6.1%}"


def _rules(plan: Plan) -> Iterator[str]:
    changed: dict[int | None, list[Assignment]] = {}
    for a in plan.assignments:
        if a.why in ("rule", "default") and a.type is not a.tensor.type:
            changed.setdefault(a.rule, []).append(a)
    yield "rules:"
    for number, rule in enumerate(plan.recipe.rules):
        mine = changed.get(number, [])
        note = f"  ({rule.reason})" if rule.reason else ""
        yield f"  {rule}: {_changes(mine)}{note}"
    yield f"  default {plan.recipe.default}: {_changes(changed.get(None, []))}"


def _changes(changed: list[Assignment]) -> str:
    if not changed:
        return "changed nothing"
    before, after = sum(a.size_before for a in changed), sum(a.size_after for a in changed)
    return f"{len(changed)} tensors, {megabytes(before):.2f} MB -> {megabytes(after):.2f} MB"


def _protected(plan: Plan) -> Iterator[str]:
    kept = [a for a in plan.assignments if a.why == "protected"]
    size = sum(a.size_after for a in kept)
    yield f"protected: {len(kept)} tensors, {megabytes(size):.2f} MB, {size / plan.size_bytes:.1%} of the file"
    for a in kept:
        yield f"  {a.tensor.name} ({a.type})"


def fallback_lines(plan: Plan) -> Iterator[str]:
    """Yield which types did not fit, and what was taken."""
    groups: Counter[tuple[TensorType, TensorType, int]] = Counter()
    for a in plan.assignments:
        if a.asked is not None and a.is_fallback:
            groups[a.asked, a.type, a.tensor.n_columns] += 1
    if groups:
        yield "fallbacks:"
    for (asked, got, columns), count in groups.items():
        yield f"  {asked} -> {got}: {count} tensors, whose rows of {columns} are not a multiple of {asked.block_size}"


def method_lines(plan: Plan) -> Iterator[str]:
    """Yield how many tensors are rounded by which method, and why not by the one asked for."""
    if plan.method.is_plain:
        return
    counts = Counter((a.method.name, a.note) for a in plan.assignments if a.is_quantized_here)
    yield f"method {plan.method}:"
    for (method, note), count in counts.items():
        yield f"  {method}: {count} tensors" + (f" ({note})" if note else "")


def load_lines(plan: Plan) -> Iterator[str]:
    """Yield every runtime's verdict."""
    yield "loads in:"
    for verdict in told(plan.verdicts):
        yield f"  {'yes' if verdict.loads else ' no'}  {verdict.title}" + (
            "" if verdict.loads else f": {'; '.join(verdict.reasons)}"
        )


def plan_as_json(plan: Plan, output: str, duration_s: float | None) -> dict[str, Any]:
    """Return the plan and its result as JSON's types; sizes in bytes, times in seconds."""
    return {
        "input": str(plan.model.path),
        "output": output,
        "container": plan.container,
        "dry_run": duration_s is None,
        "duration_s": duration_s,
        "size_before_bytes": plan.model.size_bytes,
        "size_after_bytes": plan.size_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "default": plan.recipe.default.name,
        "method": plan.method.name,
        "rules": [{"rule": str(rule), "origin": rule.origin, "reason": rule.reason} for rule in plan.recipe.rules],
        "warnings": [{"code": f.code, "rule": f.rule, "message": f.message, "hint": f.hint} for f in plan.findings],
        "runtimes": [{"runtime": v.runtime, "loads": v.loads, "reasons": list(v.reasons)} for v in plan.verdicts],
        "tensors": [
            {
                "name": a.tensor.name,
                "shape": list(a.tensor.shape),
                "type_before": a.tensor.type.name,
                "type": a.type.name,
                "why": a.why,
                "rule": a.rule,
                "asked": a.asked.name if a.asked is not None else None,
                "reason": a.reason,
                "method": a.method.name,
                "note": a.note,
                "size_before_bytes": a.size_before,
                "size_after_bytes": a.size_after,
            }
            for a in plan.assignments
        ],
    }
