"""Files that were judged, as people read them: by size, with divergence and interval, and why one is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from whisq.clips.builtin import SOURCE
from whisq.clips.clip import ClipSet
from whisq.evaluation.which_file import WhichFile
from whisq.quantization.plan import Plan
from whisq.report.ladder import loads_text
from whisq.search.uniform import Judged, Ladder, which_file_of
from whisq.units import megabytes
from whisq.whisper import TOKEN_EMBEDDING


def ladder_lines(ladder: Ladder, clips: ClipSet) -> Iterator[str]:
    """Yield all that was judged, the smallest first, on what, and what was not measured and why."""
    names = max(len(judged.name) for judged in ladder.judged)
    which = which_file_of(ladder)
    dropped = {rung.file.name: rung for rung in which.dropped if rung.file.name != ladder.chosen.name}
    yield f"   {'':{names}} {'MB':>8} {'divergence':>11}  {'95 %':18}  loads in"
    for judged in (one for one in ladder.judged if one.name not in dropped):
        found = judged.interval()
        mark = "-> " if judged is ladder.chosen else "   "
        yield (
            f"{mark}{judged.name:{names}} {megabytes(judged.size_bytes):8.2f} {found.estimate:11.5f}"
            f"  {found.low:.5f} to {found.high:.5f}  {_loads_in(which, judged.name)}"
        )
    if dropped:
        named = ", ".join(f"{name} (beside {rung.dropped_for})" for name, rung in dropped.items())
        yield f"left out, larger than another and not closer beyond the interval: {named}"
    pieces = len(ladder.chosen.divergences.sums)
    what = "synthetic speech that comes with whisq" if clips.source == SOURCE else "clips held out"
    yield f"divergence in nats per token, on {pieces} pieces of {what}, none of which calibrated anything"
    if ladder.untried:
        yield f"not measured, as their type is too far off: {_by_method(ladder.untried)}"


def _by_method(names: Iterable[str]) -> str:
    """Return names of a type and a method each as types of every method: "q4_0, q5_0 feedback; q4_0 importance"."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind, _, method = name.rpartition(" ")
        kinds.setdefault(method, []).append(kind)
    return "; ".join(f"{', '.join(found)} {method}" for method, found in kinds.items())


def _loads_in(which: WhichFile, name: str) -> str:
    rung = which.named(name)
    return loads_text(rung.file.loads_in if rung else None)


def answer_line(ladder: Ladder, plan: Plan) -> str:
    """Return why the answer is the answer."""
    chosen = ladder.chosen
    mixes = [judged for judged in ladder.judged if not judged.candidate.is_uniform]
    others = [judged for judged in ladder.judged if judged.candidate.is_uniform and judged is not chosen]
    if chosen.candidate.is_uniform and mixes:
        return (
            f"the answer is a file of one type: {chosen.name} diverges {_times(chosen, mixes[0])} as much as the"
            f" searched mix, at {plan.size_bytes / mixes[0].size_bytes:.1%} of its size"
        )
    if not chosen.candidate.is_uniform and others:
        best = min(others, key=lambda judged: judged.divergences.mean)
        return f"the searched mix diverges {_times(chosen, best)} as much as {best.name}, the closest file of one type"
    return f"the answer is {chosen.name}: {_why(ladder)}"


def _why(ladder: Ladder) -> str:
    """Return why a file is the answer among others of one type."""
    chosen = ladder.chosen
    best = min(ladder.judged, key=lambda judged: judged.divergences.mean)
    if chosen is best:
        return "of what the goal allows it is closest to the source"
    if chosen.is_as_good_as(best):
        return f"as far as these clips can tell as close to the source as {best.name}, and smaller"
    return "the smallest that is close enough"


def _times(mine: Judged, theirs: Judged) -> str:
    other = theirs.divergences.mean
    return f"{mine.divergences.mean / other:.2f} times" if other else "no longer measurably"


def embedding_line(plan: Plan, *, target: str, loads_mixes: bool, asked: str | None) -> str:
    """Return what became of the token embedding, and why."""
    kind = plan[TOKEN_EMBEDDING].type
    if not kind.is_quantized:
        return f"embedding: {kind} [skipped]"
    if not loads_mixes:
        return f"embedding: {kind}, since {target} loads one type only"
    if asked:
        return f"embedding: {kind}, as asked for"
    if plan.recipe.default is kind:
        return f"embedding: {kind}, as all matrices"
    return f"embedding: {kind}, which costs almost nothing; --embedding f16 keeps it whole"
