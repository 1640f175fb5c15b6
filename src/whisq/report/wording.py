"""Figures as people read them, and the verdict on each model as a sentence."""

from __future__ import annotations

import html
import math
import re

from whisq.evaluation.coverage import audio_lines
from whisq.evaluation.doubts import doubts
from whisq.evaluation.results import FORWARD_PASS, Evaluation, ModelResult, Summary
from whisq.evaluation.speed import NOT_MEASURABLE, Ratio, Speed, others_at_work
from whisq.evaluation.statistics import DIFFERENCE_OF_INTEREST, Difference, Interval
from whisq.screen import shown
from whisq.units import duration, megabytes

_MINUS = "−"
_READ_IN_MARKDOWN = re.compile(r"[\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")
"""What Markdown does not show as it stands: an underscore inside a word (q5_0) it does."""


def in_chart(text: str) -> str:
    """Return a text of others that a chart shows as it is: charts read ``<br>`` and ``%{x}``, the page ``var(x)``."""
    return html.escape(shown(text), quote=False).replace("%{", "&#37;{").replace("var(", "var&#40;")


def in_markdown(text: str) -> str:
    """Return a text of others that Markdown shows as it is, in a table's cell too."""
    return _READ_IN_MARKDOWN.sub(r"\\\g<0>", shown(text))


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """Return a number with a real minus sign; a dash where there is none, no sign on what rounds to zero."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage without its sign of per cent."""
    return number(None if fraction is None else 100 * fraction, digits)


def points(fraction: float, *, sign: bool = True) -> str:
    """Return a difference of rates in percentage points."""
    return number(100 * fraction, 2, sign=sign)


def interval(found: Interval, digits: int = 1) -> str:
    """Return the bounds of an interval of rates in per cent."""
    return f"{percent(found.low, digits)} to {percent(found.high, digits)}"


def megabytes_text(size_bytes: float | None, digits: int = 1) -> str:
    """Return bytes as MB of 10⁶; a dash where there are none."""
    return number(None if size_bytes is None else megabytes(size_bytes), digits)


def pace_text(pace: Interval | None) -> str:
    """Return seconds of work for a second of audio with their bounds; a dash without."""
    return "–" if pace is None else f"{number(pace.estimate, 3)} ({number(pace.low, 3)} to {number(pace.high, 3)})"


def ratio_text(ratio: Ratio | None) -> str:
    """Return a candidate's time as a multiple of the reference's, if it can be told from it; a dash without any."""
    if ratio is None:
        return "–"
    found = ratio.interval
    if not ratio.is_measurable:
        return NOT_MEASURABLE
    return f"{number(found.estimate, 2)} ({number(found.low, 2)} to {number(found.high, 2)})"


def speed_text(speed: Speed) -> str:
    """Return a candidate's time by the clock and the verdict, or that none can be given here."""
    if not speed.is_measurable:
        return NOT_MEASURABLE
    return f"{ratio_text(speed.wall)} {speed.verdict}"


def speed_remark(evaluation: Evaluation) -> str:
    """Return how speeds were measured, and why none is told; empty where nothing ran."""
    speeds = [summary.speed for summary in evaluation.summaries if summary and summary.speed]
    if not speeds:
        return ""
    threads = evaluation.settings.get("threads")
    runtimes = sorted({f" in {model.runtime} {model.runtime_version}" for model in evaluation.models if model.runtime})
    where = runtimes[0] if len(runtimes) == 1 else ""
    told = f"Speeds{where}: {threads} {'thread' if threads == 1 else 'threads'}"
    clips = max(speed.clips for speed in speeds)
    if clips:
        told += f"; models took turns on {clips} {'clip' if clips == 1 else 'clips'}; medians of the ratios by clip"
    others = others_at_work([u.timing for model in evaluation.models for u in model.utterances])
    if others is not None:
        told += f"; meanwhile other work took {number(others)} CPUs"
    reasons = sorted({speed.reason for speed in speeds if speed.reason})
    unclear = [speed for speed in speeds if not speed.is_measurable]
    if reasons:
        told += f"; {NOT_MEASURABLE}: {'; '.join(reasons)}"
    elif unclear:
        told += f"; {NOT_MEASURABLE}: the interval is wider than the difference, or clock and CPU time disagree"
    return f"{told}."


def audio_needed(difference: Difference, duration_s: float) -> str:
    """Return what it would take to see half a point between these two models."""
    half = f"{100 * DIFFERENCE_OF_INTEREST:g} points"
    factor = difference.audio_factor
    if difference.utterances == 1:
        return f"from one utterance it cannot be said how much audio would show {half}"
    if factor is None:
        return f"no utterance differs in its errors, so how much audio would show {half} cannot be said"
    if factor <= 1:
        return f"this much audio is enough to show a difference of {half}"
    needed = duration(duration_s * factor)
    times = f"{factor:.1f}" if factor < 10 else f"{factor:.0f}"
    return f"showing a difference of {half} takes about {needed} of such audio, {times} times as much"


def verdict_word(model: ModelResult, summary: Summary | None) -> str:
    """Return the verdict: reference, worse, better, not distinguishable or not run."""
    if summary is None:
        return "not run"
    return summary.difference.verdict if summary.difference else "reference"


def verdict_parts(evaluation: Evaluation, index: int) -> tuple[str, str]:
    """Return what is to be said of one model against the reference, and how much audio would say more."""
    model, summary = evaluation.models[index], evaluation.summaries[index]
    if summary is None:
        return model.failure, ""
    rate = f"{percent(summary.word_error_rate.estimate, 2)} % of words wrong"
    rate += f" ({interval(summary.word_error_rate)} %)"
    if summary.difference is None:
        return rate, ""
    found = summary.difference
    change = (
        f"{points(found.interval.estimate)} points against the reference "
        f"({points(found.interval.low)} to {points(found.interval.high)}); {rate}"
    )
    if found.verdict == "not distinguishable" and not found.interval.low <= 0 <= found.interval.high:
        change += f"; the interval leaves out zero, but the sign-flip test does not (p = {number(found.p_value, 2)})"
    return change, audio_needed(found, evaluation.data.duration_s)


def verdict_sentence(evaluation: Evaluation, index: int) -> str:
    """Return the verdict on one model as one sentence, for the terminal."""
    word = verdict_word(evaluation.models[index], evaluation.summaries[index])
    if word == "not distinguishable":
        word += " with this much audio"
    said, needed = verdict_parts(evaluation, index)
    return f"{word}: {said}; {needed}" if needed else f"{word}: {said}"


def inside_sentence(evaluation: Evaluation) -> str:
    """Return where the divergence was measured, empty where it was not."""
    measured = [model for model in evaluation.models if model.inside]
    if not measured:
        return ""
    way = measured[0].inside_in or FORWARD_PASS  # which whisq 0.1 did not name
    if way == FORWARD_PASS:
        told = f"Divergence (KL) measured in {way}, weights dequantized and nothing else rounded"
    else:
        told = f"Divergence (KL) measured in {way} itself, activations rounded as there"
    beside = sorted({model.beside_in for model in evaluation.models if model.beside})
    return told + (f"; beside it, that of {' and '.join(beside)} for the files that it loads" if beside else "") + "."


def long_form_sentences(evaluation: Evaluation) -> list[str]:
    """Return how models behave in a long recording: what the reference does not do, or that there is nothing of it."""
    reference = evaluation.reference.long_form
    heard = [(model.label, model.long_form) for model in evaluation.candidates if model.long_form]
    if reference is None or not heard:
        return []
    long = f"In one recording of {duration(reference.duration_s)}"
    told = [
        f"{long} {label} {' and '.join(unlike)}. That is in no error rate."
        for label, found in heard
        if (unlike := list(found.unlike(reference)))
    ]
    alike = len(heard) - len(told)
    if alike:
        who = f"{alike} of {len(heard)} candidates" if told else "no candidate"
        what = "behave as the reference does" if told else "loops, falls silent or stops where the reference does not"
        told.append(f"{long} {who} {what}.")
    return told


def remarks(evaluation: Evaluation) -> list[str]:
    """Return what a reader should know before believing the figures."""
    told = [f"{doubt}." for doubt in doubts(evaluation)]
    runtimes = {model.runtime for model in evaluation.models if model.utterances}
    if len(runtimes) > 1:
        told.append(
            f"Not all models were run by the same runtime ({', '.join(sorted(map(str, runtimes)))}): part of "
            "a difference may be the runtime's."
        )
    if evaluation.data.problems:
        count = len(evaluation.data.problems)
        told.append(f"{count} {'entry' if count == 1 else 'entries'} of the data could not be used; see the list.")
    told += long_form_sentences(evaluation)
    silent = sum(not clip.text for clip in evaluation.data.clips)
    if silent:
        ran = [model for model in evaluation.models if model.utterances]
        written = ", ".join(f"{model.label} {model.total('invented')}" for model in ran)
        told.append(
            f"In {silent} {'clip' if silent == 1 else 'clips'} nothing is said. "
            f"Words written there, in no other count: {written or 'none'}."
        )
    if len(evaluation.data.clips) < 30:
        count = len(evaluation.data.clips)
        few = "1 utterance is" if count == 1 else f"{count} utterances are"
        told.append(f"{few} few: intervals from fewer than 30 are too narrow.")
    stopped = [model.label for model in evaluation.models if any(u.remark for u in model.utterances)]
    if stopped:
        told.append(f"The runtime stopped early or failed on clips with {', '.join(stopped)}; see the list.")
    for model in evaluation.models:
        if model.inside_failure:
            told.append(f"The divergence of {model.label} could not be measured: {model.inside_failure}.")
    told += audio_lines(evaluation)
    several = len([summary for summary in evaluation.summaries if summary and summary.difference])
    if several > 4:
        told.append(
            f"{several} candidates were each judged at 95 %: of 20 that equal the reference, one would be called "
            "different by chance."
        )
    return told
