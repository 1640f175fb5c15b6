"""Which file to ship: files in order of size and divergence, those that nothing speaks for dropped, and the answers.

A divergence tells files apart long before words do, and words are what counts: a verdict needs both. Where nobody read
words, or nothing was measured inside, it says less. Nothing here measures or knows a runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from whisq.evaluation.statistics import Difference, Interval, paired_difference, rate

HARMLESS_NATS = 0.002
"""Divergence per token up to which no loss is expected that could be measured: a tenth of a point by what follows."""
LOSS_NATS = 0.01
"""Where about half a point of words was lost: tiny.en and base in fourteen files, docs/results.md."""

Standing = Literal[
    "reference", "not worse", "within the loss", "perhaps within the loss", "beyond the loss", "worse in words",
    "better in words", "not told", "not run",
]  # fmt: skip
"""What is said of a file. "Not worse": no loss of words was found, and its divergence leaves none to expect. "Not
told": words alone, or clips too few for an interval, say neither that it is worse nor that it is not."""


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """A file and what was measured of it, clip by clip; the clips are the same for all files, in the same order.

    ``sums`` and ``tokens`` are divergence in nats and tokens of each clip, empty where nothing was measured inside.
    ``words`` is the difference in word error rate to the reference, and ``changed`` the share of the reference's words
    that it writes otherwise; None where no words were compared. ``loads_in`` names runtimes, None where it is unknown.
    ``failure`` says why it was not run.
    """

    name: str
    size_bytes: int
    loads_in: frozenset[str] | None = None
    sums: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    words: Difference | None = None
    changed: Interval | None = None
    is_reference: bool = False
    is_uniform: bool = False
    failure: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether its divergence was measured on more than one clip: from one there is no interval."""
        return len(self.tokens) > 1


@dataclass(frozen=True, slots=True)
class Rung:
    """A file as it stands among the others; ``dropped_for`` names one that is smaller and not farther off.

    ``divergence`` is in nats per token.
    """

    file: MeasuredFile
    divergence: Interval | None
    standing: Standing
    dropped_for: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The smallest file that does what was asked, ``runtime`` empty for whichever runtime; None where none does."""

    runtime: str
    rung: Rung | None


@dataclass(frozen=True, slots=True)
class WhichFile:
    """All files by size, the reference among them, and the answers, first for any runtime, then for each that differs.

    ``not_worse`` are the smallest that are not worse as far as the audio can tell, ``within`` the smallest that diverge
    no more than ``loss_nats``.
    """

    rungs: tuple[Rung, ...]
    not_worse: tuple[Answer, ...]
    within: tuple[Answer, ...]
    loss_nats: float
    seed: int = 0

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The files that something speaks for."""
        return tuple(rung for rung in self.rungs if not rung.dropped_for)

    @property
    def dropped(self) -> tuple[Rung, ...]:
        """Those that are larger than another and not closer."""
        return tuple(rung for rung in self.rungs if rung.dropped_for)

    @property
    def has_divergence(self) -> bool:
        """Whether any file was measured inside."""
        return any(rung.divergence is not None for rung in self.rungs)

    @property
    def has_words(self) -> bool:
        """Whether words were compared."""
        return any(rung.file.words is not None for rung in self.rungs)

    def named(self, name: str) -> Rung | None:
        """Return the rung of a file, None where there is none of that name."""
        return next((rung for rung in self.rungs if rung.file.name == name), None)


def which_file(
    files: Sequence[MeasuredFile], runtimes: Sequence[str] = (), *, loss_nats: float = LOSS_NATS, seed: int = 0
) -> WhichFile:
    """Return files in order, dominated ones marked, and the smallest that are good enough.

    ``runtimes`` are those to answer for, the most particular first.
    """
    rungs = [_rung(file, loss_nats, seed) for file in files]
    rungs.sort(key=lambda rung: (rung.file.size_bytes, _mean(rung.file)))
    not_worse = _answers(rungs, ("not worse", "better in words"), runtimes)
    within = _answers(rungs, ("not worse", "better in words", "within the loss"), runtimes)
    answers = {answer.rung.file.name for answer in (*not_worse, *within) if answer.rung is not None}
    marked = tuple(
        rung if rung.file.name in answers else _marked(rung, rungs[:place], seed) for place, rung in enumerate(rungs)
    )
    return WhichFile(marked, not_worse, within, loss_nats, seed)


def _mean(file: MeasuredFile) -> float:
    return sum(file.sums) / sum(file.tokens) if sum(file.tokens) else 0.0


def _rung(file: MeasuredFile, loss_nats: float, seed: int) -> Rung:
    divergence = rate(file.sums, file.tokens, seed=seed) if sum(file.tokens) else None
    return Rung(file, divergence, _standing(file, divergence, loss_nats))


def _standing(file: MeasuredFile, divergence: Interval | None, loss_nats: float) -> Standing:
    if file.is_reference:
        return "reference"
    if file.failure:
        return "not run"
    if file.words is not None and file.words.verdict == "worse":
        return "worse in words"
    if divergence is None or not file.has_interval:
        return "not told"
    if divergence.low > loss_nats:
        return "beyond the loss"
    if file.words is not None and file.words.verdict == "better":
        return "better in words"
    if file.words is not None and divergence.high <= min(HARMLESS_NATS, loss_nats):
        return "not worse"
    return "within the loss" if divergence.high <= loss_nats else "perhaps within the loss"


def _answers(rungs: Sequence[Rung], standings: Sequence[Standing], runtimes: Sequence[str]) -> tuple[Answer, ...]:
    """Return the smallest of these standings, and the smallest for each runtime that does not load that one."""
    good = [rung for rung in rungs if rung.standing in standings]
    first = good[0] if good else None
    found = [Answer("", first)]
    for runtime in runtimes:
        if first is None or first.file.loads_in is None or runtime in first.file.loads_in:
            continue
        if any(runtime in (rung.file.loads_in or ()) for rung in rungs):
            found.append(Answer(runtime, next((r for r in good if runtime in (r.file.loads_in or ())), None)))
    return tuple(found)


def _marked(rung: Rung, smaller: Sequence[Rung], seed: int) -> Rung:
    if rung.file.is_reference:
        return rung
    better = next((other for other in smaller if _dominates(other.file, rung.file, seed)), None)
    return rung if better is None else Rung(rung.file, rung.divergence, rung.standing, better.file.name)


def _dominates(smaller: MeasuredFile, larger: MeasuredFile, seed: int) -> bool:
    """Return whether nothing speaks for the larger: it loads nowhere else, and is not closer beyond the interval."""
    if smaller.is_reference or not (smaller.has_interval and larger.has_interval) or smaller.tokens != larger.tokens:
        return False
    if smaller.loads_in is not None and not (larger.loads_in or frozenset()) <= smaller.loads_in:
        return False
    harms = [file.words is not None and file.words.verdict == "worse" for file in (smaller, larger)]
    if harms == [True, False]:
        return False
    return paired_difference(larger.sums, smaller.sums, larger.tokens, seed=seed).interval.high >= 0
