"""The results as rows of text: for the terminal and for the tables behind the report's charts."""

from __future__ import annotations

from dataclasses import dataclass

from whisq.evaluation.results import Evaluation, ModelResult, Summary
from whisq.report.wording import (
    in_markdown,
    interval,
    megabytes_text,
    number,
    pace_text,
    percent,
    points,
    ratio_text,
    speed_text,
    verdict_word,
)
from whisq.screen import shown


@dataclass(frozen=True, slots=True)
class Table:
    """A heading for each column and rows of as many texts; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _rows(evaluation: Evaluation) -> list[tuple[ModelResult, Summary | None]]:
    return list(zip(evaluation.models, evaluation.summaries, strict=True))


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return sizes, error rates and their parts, in per cent of the words said."""
    columns = (
        "model",
        "MB",
        "bits/weight",
        "WER %",
        "95 %",
        "sub",
        "del",
        "ins",
        "loops",
        "CER %",
        "same text %",
    )
    rows = []
    for model, summary in _rows(evaluation):
        row = [model.label, megabytes_text(model.size_bytes), number(model.bits_per_weight, 2)]
        if summary is None:
            row += ["not run", *["–"] * 7]
        else:
            row += [
                percent(summary.word_error_rate.estimate, 2),
                interval(summary.word_error_rate),
                percent(summary.substitutions),
                percent(summary.deletions),
                percent(summary.insertions),
                percent(summary.runaway),
                percent(summary.character_error_rate.estimate, 2),
                percent(summary.exact_match, 0),
            ]
        rows.append(tuple(row))
    return Table(columns, tuple(rows))


def difference_table(evaluation: Evaluation) -> Table:
    """Return paired differences to the reference in points, for words and characters."""
    columns = ("model", "WER, points", "95 %", "p", "CER, points", "95 %", "verdict")
    rows = []
    for model, summary in _rows(evaluation)[1:]:
        if summary is None or summary.difference is None or summary.character_difference is None:
            rows.append((model.label, *["–"] * 5, "not run"))
            continue
        cells = []
        for found in (summary.difference, summary.character_difference):
            cells.append(points(found.interval.estimate))
            cells.append(f"{points(found.interval.low)} to {points(found.interval.high)}")
        p_value = summary.difference.p_value
        probability = "< 0.001" if p_value < 0.001 else number(p_value, 3)
        rows.append((model.label, *cells[:2], probability, *cells[2:], verdict_word(model, summary)))
    return Table(columns, tuple(rows))


def speed_table(evaluation: Evaluation) -> Table:
    """Return what a second of audio takes the reference, the others' times as multiples of that, and peak memory.

    Of what cannot be told from the reference's it says so, and gives no figure.
    """
    columns = (
        "model",
        "runtime",
        "load, s",
        "s of work a second",
        "time ÷ reference's",
        "CPU time",
        "encoder",
        "decoder",
        "peak memory, MB",
        "of it before loading",
    )
    rows = []
    for model, summary in _rows(evaluation):
        speed = summary.speed if summary else None
        times = ("–",) * 4
        if speed:
            times = (speed_text(speed), ratio_text(speed.cpu), ratio_text(speed.encoder), ratio_text(speed.decoder))
        rows.append(
            (
                model.label,
                f"{model.runtime} {model.runtime_version}" if model.runtime else "none",
                number(model.load_s, 2),
                pace_text(summary.pace) if summary and speed is None else "–",
                *times,
                megabytes_text(model.peak_bytes, 0),
                megabytes_text(model.baseline_bytes, 0),
            )
        )
    return Table(columns, tuple(rows))


def inside_table(evaluation: Evaluation) -> Table | None:
    """Return the measures inside the model; None where none were made.

    What no model has, such as a runtime's figure beside the forward pass's, has no column.
    """
    columns = (
        "model",
        "KL mean",
        "95 %",
        "KL 99th percentile",
        "same top token %",
        "encoder error %",
        "tokens",
        "KL in the runtime",
        "KL of timestamps",
        "times moved, ms",
    )
    rows = []
    for model, summary in _rows(evaluation):
        if summary is None or summary.divergence is None:
            continue
        found, beside, timed = summary.divergence, summary.beside_divergence, summary.timestamp_divergence
        shift_s = summary.timestamp_shift_s
        rows.append(
            (
                model.label,
                number(found.estimate, 5),
                f"{number(found.low, 5)} to {number(found.high, 5)}",
                number(summary.divergence_p99, 4),
                percent(summary.same_top, 2),
                percent(summary.encoder_error, 2),
                str(sum(len(one.divergences) for one in model.inside)),
                number(beside.estimate if beside else None, 5),
                number(timed.estimate if timed else None, 5),
                number(None if shift_s is None else 1000 * shift_s, 0),
            )
        )
    if not rows:
        return None
    nothing = number(None)
    kept = [place for place in range(len(columns)) if any(row[place] != nothing for row in rows)]
    return Table(tuple(columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows))


def text_lines(table: Table) -> list[str]:
    """Return the table for a terminal: the first column to the left, the others to the right."""
    rows = [tuple(map(shown, row)) for row in (table.columns, *table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def markdown_lines(table: Table) -> list[str]:
    """Return the table in Markdown: the first column to the left, the others to the right."""
    rules = ("---", *["--:"] * (len(table.columns) - 1))
    rows = (table.columns, rules, *table.rows)
    return ["| " + " | ".join(map(in_markdown, row)) + " |" for row in rows]
