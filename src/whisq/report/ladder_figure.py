"""The report's first chart: size against divergence of every file, what loads where by its mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whisq.evaluation.results import Evaluation, ModelResult
from whisq.evaluation.statistics import Interval
from whisq.evaluation.which_file import Rung
from whisq.recipe import preset_names
from whisq.report.figures import Figure, chart_layout
from whisq.report.ladder import loads_text, number_of_nats
from whisq.report.wording import in_chart, megabytes_text
from whisq.runtimes.registry import RUNTIMES
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.search import Mix

_KINDS = {
    "the file made": ("circle", "var(--series-2)"),
    "one type throughout": ("square", "var(--series-1)"),
    "presets": ("diamond", "var(--series-4)"),
    "mixes": ("circle", "var(--series-6)"),
}
"""A mark and its colour for each kind of file; hollow where stock whisper.cpp does not load it."""


def ladder_figure(evaluation: Evaluation, curve: Sequence[Mix] = ()) -> Figure | None:
    """Return size against divergence on a log scale with intervals, searched mixes as a line; None without any.

    Filled marks load in the most particular runtime, hollow ones do not. What was made has a ring.
    """
    kinds: dict[str, list[tuple[Rung, Interval]]] = {}
    for rung in evaluation.which_file.rungs:
        if rung.divergence is not None and rung.divergence.estimate > 0:
            kinds.setdefault(_kind(evaluation, rung), []).append((rung, rung.divergence))
    traces = [_rungs_trace(evaluation, kind, rungs) for kind, rungs in kinds.items()]
    if not traces:
        return None
    searched = sorted((mix for mix in curve if mix.kind == "searched" and mix.harm > 0), key=lambda mix: mix.size_bytes)
    if searched:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "what the search expected",
                "x": [megabytes(mix.size_bytes) for mix in searched],
                "y": [mix.harm for mix in searched],
                "marker": {"size": 5, "color": "var(--series-3)", "symbol": "circle"},
                "line": {"color": "var(--series-3)", "width": 2},
                "hovertemplate": [
                    f"<b>{in_chart(mix.name)}</b><br>{megabytes_text(mix.size_bytes, 2)} MB<br>{mix.harm:.3g} nats per"
                    " token, on the search's audio<extra></extra>"
                    for mix in searched
                ],
            }
        )
    return {
        "data": traces,
        "layout": chart_layout(
            xaxis={"title": {"text": "size, MB"}},
            yaxis={"type": "log", "title": {"text": "divergence from the reference, nats per token"}},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            height=420,
        ),
    }


def _kind(evaluation: Evaluation, rung: Rung) -> str:
    if rung.file.name == evaluation.made:
        return "the file made"
    if rung.file.is_uniform:
        return "one type throughout"
    model = next(model for model in evaluation.models if model.label == rung.file.name)
    return "presets" if _preset_of(model) else "mixes"


def _preset_of(model: ModelResult) -> str:
    """Return the name of the preset that a file was made by, as it says itself or its name ends; empty for none."""
    ending = model.label.rpartition("-")[2]
    return ending if ending in preset_names() else ""


def _rungs_trace(evaluation: Evaluation, kind: str, rungs: list[tuple[Rung, Interval]]) -> Figure:
    shape, colour = _KINDS[kind]
    stock = RUNTIMES[0].name
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind,
        "x": [megabytes(rung.file.size_bytes) for rung, _ in rungs],
        "y": [found.estimate for _, found in rungs],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.estimate for _, found in rungs],
            "arrayminus": [found.estimate - found.low for _, found in rungs],
            "color": colour,
        },
        "marker": {
            "size": 11,
            "color": colour,
            "symbol": [
                shape if rung.file.loads_in is None or stock in rung.file.loads_in else f"{shape}-open"
                for rung, _ in rungs
            ],
        },
        "labels": [in_chart(rung.file.name.rpartition("/")[2]) for rung, _ in rungs],
        "made": [rung.file.name == evaluation.made for rung, _ in rungs],
        "hovertemplate": [
            f"<b>{in_chart(rung.file.name)}</b><br>{megabytes_text(rung.file.size_bytes, 2)} MB<br>"
            f"{number_of_nats(found.estimate)} nats per token ({number_of_nats(found.low)} to"
            f" {number_of_nats(found.high)})<br>{rung.standing}<br>loads in {loads_text(rung.file.loads_in)}"
            "<extra></extra>"
            for rung, found in rungs
        ],
    }
