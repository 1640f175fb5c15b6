"""A plan in brief: a line for each group of equal tensors under the rule that decided them, and what matters last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from whisq.cli.plan_text import (
    fallback_lines,
    load_lines,
    method_lines,
    origin_of,
    type_lines,
)
from whisq.quantization.plan import Assignment, Plan
from whisq.units import megabytes

MOST_RULES = 10
"""Rules that are told one by one; a searched recipe has one for every matrix."""


def group_lines(plan: Plan) -> Iterator[str]:
    """Yield the plan before any work: a line for each group of equal tensors under what decided it, then misfits."""
    yield from _rule_lines(plan)
    for title, why in (("embedding:", "embedding"), ("converted:", "converted"), ("never quantized:", "kept")):
        mine = [a for a in plan.assignments if a.why == why]
        if mine:
            yield title
            yield from _lines(mine)
    yield from fallback_lines(plan)
    yield from method_lines(plan)


def _rule_lines(plan: Plan) -> Iterator[str]:
    """Yield each rule and the groups that it decides, then the default; many rules are told as one."""
    rules = plan.recipe.rules
    mine: dict[int | None, list[Assignment]] = {}
    for a in plan.assignments:
        if a.why in ("rule", "default"):
            mine.setdefault(a.rule if a.rule is None or len(rules) <= MOST_RULES else 0, []).append(a)
    titles = [f"{rule}{f'  ({rule.reason})' if rule.reason else ''}" for rule in rules]
    if len(rules) > MOST_RULES:
        titles = [f"{len(rules)} rules"]
    for number, title in [*enumerate(titles), (None, f"default {plan.recipe.default}")]:
        decided = mine.get(number, [])
        yield f"{title}:" if decided else f"{title}: changed nothing"
        yield from _lines(decided)


def conclusion_lines(plan: Plan, output: str, duration_s: float | None) -> Iterator[str]:
    """Yield what came of it, the most important last; ``duration_s`` is None for a dry run."""
    yield from type_lines(plan)
    kept = [a for a in plan.assignments if a.why == "protected"]
    if kept:
        size = sum(a.size_after for a in kept)
        yield f"protected: {_tensors(len(kept))}, {megabytes(size):.2f} MB, {size / plan.size_bytes:.1%} of the file"
        yield from _aligned([(a.tensor.name, *_type_and_size([a])) for a in kept])
    yield from load_lines(plan)
    before, after = plan.model.size_bytes, plan.size_bytes
    yield (
        f"size: {megabytes(before):.2f} MB -> {megabytes(after):.2f} MB ({after / before:.1%}),"
        f" {plan.model.bits_per_weight:.2f} -> {plan.bits_per_weight:.2f} bits per weight"
    )
    wrote = f"wrote {output}: {after} bytes in {duration_s:.2f} s" if duration_s is not None else ""
    yield wrote or f"dry run: nothing was written; {output} would have {after} bytes"


def _tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def _lines(assignments: Sequence[Assignment]) -> Iterator[str]:
    """Yield a line for each group of tensors of one role that have the same types for the same reason."""
    if not assignments:
        return
    groups: dict[tuple[object, ...], list[Assignment]] = {}
    for a in assignments:
        key = (a.tensor.role, a.tensor.type, a.type, a.asked, a.method.name, a.note)
        groups.setdefault(key, []).append(a)
    most = len(str(max(map(len, groups.values()))))
    yield from _aligned(
        [(f"{len(group):{most}d} {_role(group[0])}", *_type_and_size(group)) for group in groups.values()]
    )


def _role(a: Assignment) -> str:
    return a.tensor.role.replace("_", " ") if a.why == "kept" else a.tensor.role


def _type_and_size(group: Sequence[Assignment]) -> tuple[str, str, str, str]:
    first, before, after = group[0], sum(a.size_before for a in group), sum(a.size_after for a in group)
    what = "[skipped]" if first.why == "protected" else ""
    if first.is_quantized_here:
        what = f"{origin_of(first)} -> {first.type}"
    elif first.type is not first.tensor.type:
        what = f"{what} stored as {first.type}".strip()
    is_as_before = first.type is first.tensor.type
    return first.tensor.type.name, what, _megabytes(before), "" if is_as_before else _megabytes(after)


def _megabytes(size_bytes: int) -> str:
    """Return a size in MB with as many digits as tell it from nothing."""
    found = megabytes(size_bytes)
    return f"{found:.2f}" if found >= 0.005 else f"{found:.3f}"


def _aligned(rows: Sequence[tuple[str, str, str, str, str]]) -> Iterator[str]:
    """Yield rows in columns: name, type, what becomes of it, MB before, MB after or nothing."""
    names, kinds, whats, befores, afters = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, kind, what, before, after in rows:
        words = [
            f"{name:{names}}",
            f"{kind:>{kinds}}",
            f"{what:{whats}}" if whats else "",
            f"size = {before:>{befores}} MB",
        ]
        yield "  " + " ".join(filter(None, words)) + (f" -> {after:>{afters}} MB" if after else "")


def wrapped(lines: Iterable[str], width: int) -> Iterator[str]:
    """Yield the lines with those that are longer than ``width`` broken between words, what follows indented."""
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        yield from textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False) or [""]
