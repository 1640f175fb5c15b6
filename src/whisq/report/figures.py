"""The report's charts as plain dictionaries in plotly's words, drawn by the page's own charts.js.

Colours are written as the page's CSS variables (``var(--ink)``); the page's script puts in what they are in
the light or dark theme. Nothing here depends on a screen's width: the script sets that.
"""

from __future__ import annotations

from typing import Any

from whisq.evaluation.results import Evaluation, ModelResult, Summary
from whisq.report.wording import in_chart, interval, megabytes_text, number, percent, points, verdict_word
from whisq.units import megabytes

Figure = dict[str, Any]

_SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "star",
    "cross",
    "x",
    "hexagon",
    "triangle-down",
    "bowtie",
)
_VERDICT_SYMBOLS = {"worse": "triangle-right", "better": "triangle-left"}
_N_COLOURS = 8
INK, _MUTED, _GRID = "var(--ink)", "var(--muted)", "var(--line)"
_CLOSE = 0.012
"""Part of the axis within which two sizes would hide each other's interval."""


def chart_layout(**extra: Any) -> Figure:
    """Return what all charts have in common, with a chart's own settings over it."""
    axis = {
        "gridcolor": _GRID,
        "linecolor": _MUTED,
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
    }
    layout: Figure = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
        "hoverlabel": {
            "bgcolor": "var(--paper)",
            "bordercolor": _MUTED,
            "font": {"color": INK},
            "align": "left",
        },
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }
    for key, value in extra.items():
        layout[key] = {**layout[key], **value} if isinstance(layout.get(key), dict) else value
    return layout


def colour_of(index: int) -> str:
    """Return the CSS variable of a model's colour; the reference has the ink's."""
    return INK if index == 0 else f"var(--series-{(index - 1) % _N_COLOURS + 1})"


def _ran(evaluation: Evaluation) -> list[tuple[int, ModelResult, Summary]]:
    pairs = enumerate(zip(evaluation.models, evaluation.summaries, strict=True))
    return [(index, model, summary) for index, (model, summary) in pairs if summary is not None]


def spread(values: list[float], least: float) -> list[float]:
    """Return the values with those nearer than ``least`` set apart around their mean, order kept."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    placed = list(values)
    group: list[int] = []
    for index in [*order, None]:
        if index is not None and group and values[index] - values[group[-1]] < least:
            group.append(index)
            continue
        centre = sum(values[i] for i in group) / len(group) if group else 0.0
        for position, member in enumerate(group):
            placed[member] = centre + (position - (len(group) - 1) / 2) * least if len(group) > 1 else values[member]
        group = [index] if index is not None else []
    return placed


def size_figure(evaluation: Evaluation) -> Figure:
    """Return size against word error rate with 95 % intervals, one marker per model."""
    ran = _ran(evaluation)
    sizes = [megabytes(model.size_bytes) for _, model, _ in ran]
    span = max(sizes) - min(sizes) or max(sizes)
    traces = []
    for place, (index, model, summary) in zip(spread(sizes, _CLOSE * span), ran, strict=True):
        found = summary.word_error_rate
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": in_chart(model.label),
                "x": [place],
                "y": [100 * found.estimate],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (found.high - found.estimate)],
                    "arrayminus": [100 * (found.estimate - found.low)],
                    "color": colour_of(index),
                    "thickness": 1.5,
                    "width": 4,
                },
                "marker": {
                    "size": 11,
                    "color": colour_of(index),
                    "symbol": _SYMBOLS[index % len(_SYMBOLS)],
                },
                "hovertemplate": (
                    f"<b>{in_chart(model.label)}</b><br>{megabytes_text(model.size_bytes)} MB, "
                    f"{number(model.bits_per_weight, 2)} bits/weight<br>{percent(found.estimate, 2)} % of "
                    f"words wrong<br>95 %: {interval(found, 2)} %<br>{verdict_word(model, summary)}<extra></extra>"
                ),
            }
        )
    return {
        "data": traces,
        "layout": chart_layout(
            xaxis={"title": {"text": "size, MB"}},
            yaxis={"title": {"text": "word error rate, %"}, "rangemode": "tozero"},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            height=420,
        ),
    }


def difference_figure(evaluation: Evaluation) -> Figure | None:
    """Return every candidate's paired difference to the reference, one row each; None without candidates."""
    rows = [(i, model, summary.difference) for i, model, summary in _ran(evaluation) if summary.difference]
    if not rows:
        return None
    rows.sort(key=lambda row: row[1].size_bytes)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * found.interval.estimate for _, _, found in rows],
        "y": [in_chart(model.label) for _, model, _ in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (found.interval.high - found.interval.estimate) for _, _, found in rows],
            "arrayminus": [100 * (found.interval.estimate - found.interval.low) for _, _, found in rows],
            "color": _MUTED,
            "thickness": 1.5,
            "width": 5,
        },
        "marker": {
            "size": 11,
            "color": [f"var(--{found.verdict.split()[0]})" for _, _, found in rows],
            "symbol": [_VERDICT_SYMBOLS.get(found.verdict, "circle") for _, _, found in rows],
        },
        "hovertemplate": [
            f"<b>{in_chart(model.label)}</b><br>{points(found.interval.estimate)} points "
            f"({points(found.interval.low)} to {points(found.interval.high)})<br>{found.verdict}, "
            f"p = {found.p_value:.3f}<extra></extra>"
            for _, model, found in rows
        ],
    }
    return {
        "data": [trace],
        "layout": chart_layout(
            xaxis={"title": {"text": "difference in word error rate, points (right is worse)"}},
            yaxis={"showgrid": False, "type": "category"},
            shapes=[
                {
                    "type": "line",
                    "x0": 0,
                    "x1": 0,
                    "yref": "paper",
                    "y0": 0,
                    "y1": 1,
                    "line": {"color": INK, "width": 1},
                }
            ],
            showlegend=False,
            height=110 + 34 * len(rows),
        ),
    }


def speed_figure(evaluation: Evaluation) -> Figure:
    """Return peak memory as bars, and above them the times that can be told from the reference's, where any can."""
    rows = _ran(evaluation)[::-1]
    timed = [(index, model, s.speed.wall) for index, model, s in rows if s.speed and s.speed.is_measurable]

    def bars(shown: list[tuple[int, ModelResult]], values: list[float | None], axis: str, digits: int) -> Figure:
        return {
            "type": "bar",
            "orientation": "h",
            "x": values,
            "y": [in_chart(model.label) for _, model in shown],
            "xaxis": f"x{axis}",
            "yaxis": f"y{axis}",
            "marker": {"color": [colour_of(index) for index, _ in shown]},
            "text": [number(value, digits) for value in values],
            "textposition": "auto",
            "hovertemplate": f"<b>%{{y}}</b><br>%{{text}} {'times the reference' if axis else 'MB'}<extra></extra>",
        }

    memory = [None if model.peak_bytes is None else megabytes(model.peak_bytes) for _, model, _ in rows]
    figure = chart_layout(
        xaxis={"title": {"text": "peak memory, MB"}, "rangemode": "tozero"},
        yaxis={"showgrid": False, "type": "category"},
        showlegend=False,
        height=70 + 30 * len(rows) + (70 + 30 * len(timed) if timed else 0),
    )
    data = [bars([(index, model) for index, model, _ in rows], memory, "", 0)]
    if timed:
        title = {"text": "time as a multiple of the reference's"}
        figure["xaxis2"] = {**figure["xaxis"], "title": title, "anchor": "y2"}
        figure["yaxis2"] = {**figure["yaxis"], "anchor": "x2", "domain": [0.62, 1]}
        figure["yaxis"]["domain"] = [0, 0.4]
        ratios = [ratio.interval if ratio else None for _, _, ratio in timed]
        times = bars([(index, model) for index, model, _ in timed], [r.estimate if r else None for r in ratios], "2", 2)
        times["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [r.high - r.estimate if r else 0 for r in ratios],
            "arrayminus": [r.estimate - r.low if r else 0 for r in ratios],
            "color": INK,
            "thickness": 1,
        }
        data.append(times)
    return {"data": data, "layout": figure}


def inside_figure(evaluation: Evaluation) -> Figure | None:
    """Return mean divergence with intervals, and its 99th percentile, on a log scale; None without any."""
    rows = [(i, model, s) for i, model, s in _ran(evaluation) if s.divergence and s.divergence.estimate > 0]
    if not rows:
        return None
    rows.sort(key=lambda row: row[1].size_bytes)
    labels = [in_chart(model.label) for _, model, _ in rows]
    means = [s.divergence for _, _, s in rows if s.divergence]
    mean = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean, 95 %",
        "x": [found.estimate for found in means],
        "y": labels,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.estimate for found in means],
            "arrayminus": [found.estimate - found.low for found in means],
            "color": "var(--series-1)",
            "width": 5,
        },
        "marker": {"size": 11, "color": "var(--series-1)"},
        "hovertemplate": "<b>%{y}</b><br>mean %{x:.3g} nats<extra></extra>",
    }
    tail = {
        "type": "scatter",
        "mode": "markers",
        "name": "99th percentile",
        "x": [s.divergence_p99 for _, _, s in rows],
        "y": labels,
        "marker": {"size": 10, "color": "var(--series-2)", "symbol": "diamond-open"},
        "hovertemplate": "<b>%{y}</b><br>99th percentile %{x:.3g} nats<extra></extra>",
    }
    title = {"text": "Kullback–Leibler divergence of the next token, nats"}
    return {
        "data": [mean, tail],
        "layout": chart_layout(
            xaxis={"type": "log", "title": title, "exponentformat": "none", "dtick": _log_step(rows)},
            yaxis={"showgrid": False, "type": "category"},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            height=140 + 34 * len(rows),
        ),
    }


def _log_step(rows: list[tuple[int, ModelResult, Summary]]) -> float | str:
    """Return the step between ticks: decades, or 1, 2 and 5 in each where there are not two."""
    values = [value for _, _, s in rows if s.divergence for value in (s.divergence.low, s.divergence_p99) if value]
    return 1 if max(values, default=1.0) > 100 * min(values, default=1.0) else "D2"
