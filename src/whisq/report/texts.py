"""An evaluation as text: what to ship first, for a terminal; with all tables, in Markdown."""

from __future__ import annotations

from whisq.evaluation.results import Evaluation
from whisq.report.ladder import answer_lines, ladder_table
from whisq.report.tables import (
    Table,
    accuracy_table,
    difference_table,
    inside_table,
    markdown_lines,
    speed_table,
    text_lines,
)
from whisq.report.wording import in_markdown, inside_sentence, remarks, speed_remark, verdict_sentence

ON_A_TERMINAL = ("model", "time ÷ reference's", "CPU time", "encoder", "decoder", "peak memory, MB")
"""Columns of speeds that fit there; Markdown and the report have all."""


def markdown_text(evaluation: Evaluation) -> str:
    """Return all tables with a heading each, a verdict for each model and remarks, in Markdown."""
    inside, speeds = inside_table(evaluation), speed_table(evaluation)
    titled = (
        ("Which file to ship", ladder_table(evaluation.which_file)),
        ("Sizes and error rates", accuracy_table(evaluation)),
        ("Differences to the reference, same clips", difference_table(evaluation)),
        ("Inside the model", inside),
        ("Speed and memory", speeds),
    )
    lines = []
    for title, table in titled:
        if table is not None and table.rows:
            lines += [f"### {title}", ""]
            lines += [in_markdown(inside_sentence(evaluation)), ""] if table is inside else []
            lines += [in_markdown(speed_remark(evaluation)), ""] if table is speeds else []
            if not lines[2:]:
                for answer in answer_lines(evaluation.which_file):
                    lines += [in_markdown(answer), ""]
            lines += [*markdown_lines(table), ""]
    lines += ["### Verdicts", ""]
    for index, model in enumerate(evaluation.models):
        lines.append(f"- **{in_markdown(model.label)}**: {in_markdown(verdict_sentence(evaluation, index))}")
    told = [in_markdown(remark) for remark in remarks(evaluation)]
    return "\n".join([*lines, *([""] if told else []), *told]) + "\n"


def _columns(table: Table, names: tuple[str, ...]) -> Table:
    """Return some of a table's columns."""
    places = [table.columns.index(name) for name in names]
    return Table(names, tuple(tuple(row[place] for place in places) for row in table.rows))


def terminal_lines(evaluation: Evaluation) -> list[str]:
    """Return all that the terminal shows: what to ship, one table, the verdict of words on each model, remarks."""
    which = evaluation.which_file
    lines = answer_lines(which)
    lines += ["", *text_lines(ladder_table(which)), ""]
    where = inside_sentence(evaluation)
    lines += [where, ""] if where else []
    if any(summary and summary.speed and summary.speed.is_measurable for summary in evaluation.summaries):
        lines += [*text_lines(_columns(speed_table(evaluation), ON_A_TERMINAL)), ""]
    if said := speed_remark(evaluation):
        lines += [said, ""]
    for index, model in enumerate(evaluation.models):
        lines.append(f"{model.label}: {verdict_sentence(evaluation, index)}")
    told = remarks(evaluation)
    return [*lines, *([""] if told else []), *told]
