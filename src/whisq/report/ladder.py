"""Which file to ship, in words first and then as one table: the same for the terminal, Markdown and the report."""

from __future__ import annotations

from whisq.evaluation.which_file import Answer, Rung, WhichFile
from whisq.report.tables import Table
from whisq.report.wording import interval, megabytes_text, number, percent
from whisq.runtimes.registry import RUNTIMES

COLUMNS = ("file", "MB", "divergence (95 %)", "words changed % (95 %)", "against the reference", "loads in")


def answer_lines(which: WhichFile) -> list[str]:
    """Return what to ship as sentences, the shortest answer first."""
    if len(which.rungs) < 2:
        return []
    if not which.has_divergence:
        return [_words_alone(which)]
    lines = []
    reference = next((rung.file.name for rung in which.rungs if rung.file.is_reference), "the source")
    if which.has_words:
        what = f"not worse than {reference} as far as this audio can tell"
        lines += [_sentence(answer, what, which) for answer in which.not_worse]
    else:
        lines.append("no words were compared: files are told apart by their divergence only")
    within = f"that diverges {number_of_nats(which.loss_nats)} nats per token or less"
    lines += [
        _sentence(answer, within, which)
        for answer in which.within
        if not which.has_words or _name(answer) not in map(_name, which.not_worse)
    ]
    if any(rung.divergence is not None and not rung.file.has_interval for rung in which.rungs):
        lines.append("divergence was measured on one clip: it takes more for an interval, and for an answer")
    if which.dropped:
        reasons = ", ".join(f"{rung.file.name} (beside {rung.dropped_for})" for rung in which.dropped)
        lines.append(f"left out below, larger than another and not closer beyond the interval: {reasons}")
    return lines


def number_of_nats(value: float) -> str:
    """Return a divergence in as many digits as tell it apart from its like: 0.0123, 0.00045."""
    digits = 4 if value >= 0.01 or value == 0 else 5
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if value else "0"


def _name(answer: Answer) -> str:
    return "" if answer.rung is None else answer.rung.file.name


def _short(name: str) -> str:
    return next((runtime.short_name for runtime in RUNTIMES if runtime.name == name), name)


def _sentence(answer: Answer, what: str, which: WhichFile) -> str:
    where = f"for {_short(answer.runtime)}, " if answer.runtime else ""
    if answer.rung is None:
        closest = _closest(which, answer.runtime)
        return f"{where}no file {what.removeprefix('that ')} was found{closest}"
    if answer.rung.file.is_reference:
        return f"{where}none of the files is {what}"
    file = answer.rung.file
    return f"{where}the smallest {what}: {file.name}, {megabytes_text(file.size_bytes, 2)} MB ({_figures(answer.rung)})"


def _closest(which: WhichFile, runtime: str) -> str:
    measured = [
        rung
        for rung in which.rungs
        if rung.divergence is not None and (not runtime or runtime in (rung.file.loads_in or ()))
    ]
    if not measured:
        return ""
    best = min(measured, key=lambda rung: rung.divergence.estimate if rung.divergence else 0.0)
    return f"; {best.file.name} is closest ({_figures(best)})"


def _figures(rung: Rung) -> str:
    found, changed = rung.divergence, rung.file.changed
    told = []
    if found is not None:
        told.append(
            f"{number_of_nats(found.estimate)} nats per token, {number_of_nats(found.low)} to"
            f" {number_of_nats(found.high)}"
        )
    if changed is not None:
        told.append(f"{percent(changed.estimate)} % of words changed, {interval(changed)}")
    return "; ".join(told)


def _words_alone(which: WhichFile) -> str:
    ran = [rung for rung in which.rungs if rung.file.words is not None]
    if any(rung.standing == "worse in words" for rung in ran):
        return (
            "words alone found some files worse, below; of the others they cannot tell whether they are: measure their"
            " divergence (--inside 20)"
        )
    return "words alone cannot tell these files apart from the reference: measure their divergence (--inside 20)"


def ladder_table(which: WhichFile) -> Table:
    """Return the files that something speaks for, the smallest first, in the columns that were measured."""
    rows = [_row(rung) for rung in which.ladder]
    nothing = number(None)
    kept = [
        place
        for place in range(len(COLUMNS))
        if place in (0, 1, 4) or any(row[place] not in (nothing, "") for row in rows)
    ]
    return Table(tuple(COLUMNS[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows))


def _row(rung: Rung) -> tuple[str, ...]:
    found, changed, nothing = rung.divergence, rung.file.changed, number(None)
    return (
        rung.file.name,
        megabytes_text(rung.file.size_bytes, 2),
        _with_interval(number(found.estimate, 5), f"{found.low:.5f} to {found.high:.5f}", rung) if found else nothing,
        _with_interval(percent(changed.estimate), interval(changed), rung) if changed else nothing,
        rung.standing,
        loads_text(rung.file.loads_in),
    )


def _with_interval(estimate: str, bounds: str, rung: Rung) -> str:
    return f"{estimate} ({bounds})" if rung.file.has_interval or rung.divergence is None else estimate


def loads_text(names: frozenset[str] | None) -> str:
    """Return the runtimes that load a file as a narrow column says it."""
    if names is None:
        return number(None)
    known = [runtime.short_name for runtime in RUNTIMES if runtime.name in names]
    return ", ".join(known) or "none"
