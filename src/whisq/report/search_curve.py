"""Size against divergence of searched mixes, uniform types and presets: the chart and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whisq.report.figures import Figure, chart_layout
from whisq.report.tables import Table
from whisq.report.wording import in_chart, megabytes_text
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.search import Mix

_KINDS = {
    "searched": ("searched mixes", "lines+markers", "circle", "var(--series-1)"),
    "uniform": ("one type throughout", "markers", "square", "var(--series-2)"),
    "preset": ("presets", "markers", "diamond-open", "var(--series-3)"),
}


def curve_figure(curve: Sequence[Mix]) -> Figure | None:
    """Return size against divergence on a log scale, measured where it was; None without any."""
    traces = []
    for kind, (title, mode, symbol, colour) in _KINDS.items():
        mixes = sorted((m for m in curve if m.kind == kind and m.harm > 0), key=lambda mix: mix.size_bytes)
        if mixes:
            traces.append(
                {
                    "type": "scatter",
                    "mode": mode,
                    "name": title,
                    "x": [megabytes(mix.size_bytes) for mix in mixes],
                    "y": [mix.harm for mix in mixes],
                    "marker": {"size": 11, "color": colour, "symbol": symbol},
                    "line": {"color": colour, "width": 2},
                    "hovertext": [_hover(mix) for mix in mixes],
                    "hovertemplate": "%{hovertext}<extra></extra>",
                }
            )
    if not traces:
        return None
    return {
        "data": traces,
        "layout": chart_layout(
            xaxis={"title": {"text": "size, MB"}},
            yaxis={"type": "log", "title": {"text": "divergence, nats per token"}, "exponentformat": "power"},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            height=420,
        ),
    }


def _hover(mix: Mix) -> str:
    measured = "not measured" if mix.measured is None else f"measured {mix.measured:.3g} nats"
    size = f"{megabytes_text(mix.size_bytes, 2)} MB"
    return f"<b>{in_chart(mix.name)}</b><br>{size}<br>{measured}, expected {mix.predicted:.3g}"


def curve_table(curve: Sequence[Mix]) -> Table:
    """Return all mixes by size, with both divergences."""
    rows = [
        (
            mix.name,
            mix.kind,
            megabytes_text(mix.size_bytes, 2),
            f"{mix.predicted:.3g}",
            "not measured" if mix.measured is None else f"{mix.measured:.3g}",
        )
        for mix in sorted(curve, key=lambda mix: (mix.size_bytes, mix.name))
    ]
    return Table(("mix", "kind", "MB", "expected, nats", "measured, nats"), tuple(rows))
