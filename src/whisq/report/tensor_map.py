"""The map of a model, blocks × roles: which type each matrix has, and how far it is from the reference's."""

from __future__ import annotations

import math

from whisq.evaluation.results import TensorError
from whisq.report.figures import INK, Figure, chart_layout
from whisq.report.wording import in_chart, megabytes_text, number, percent
from whisq.types import TYPES
from whisq.whisper import MATRIX_ROLES


def _grid(tensors: tuple[TensorError, ...]) -> tuple[list[str], list[str], list[list[TensorError | None]]]:
    """Return block names from the audio on, the roles in use, and the tensor in each cell."""
    cells = {(t.stack, t.layer, t.role): t for t in tensors if t.layer is not None and t.role in MATRIX_ROLES}
    blocks = sorted({key[:2] for key in cells}, key=lambda key: (key[0] != "encoder", key[1]))
    roles = [role for role in MATRIX_ROLES if any(key[2] == role for key in cells)]
    grid = [[cells.get((*block, role)) for role in roles] for block in blocks]
    return [f"{stack} {layer}" for stack, layer in blocks], list(roles), grid


def map_figures(tensors: tuple[TensorError, ...]) -> dict[str, Figure] | None:
    """Return the map of one model, blocks × roles, coloured by type and by error; None without tensors."""
    blocks, roles, grid = _grid(tensors)
    if not blocks:
        return None
    hover = [[_tensor_hover(cell) if cell else "" for cell in row] for row in grid]
    short = [role.replace("cross_attn.", "cross ").replace("attn.", "self ").replace("mlp.", "mlp ") for role in roles]
    common = {
        "type": "heatmap",
        "x": short,
        "y": blocks,
        "hovertext": hover,
        "hoverinfo": "text",
        "textfont": {"color": "var(--on-cell)"},
        "xgap": 2,
        "ygap": 2,
    }
    layout = chart_layout(
        xaxis={"side": "top", "tickangle": -45, "showgrid": False},
        yaxis={"autorange": "reversed", "showgrid": False, "type": "category"},
        height=150 + 30 * len(blocks),
    )
    return {
        "type": {"data": [common | _by_type(grid)], "layout": layout},
        "error": {"data": [common | _by_error(grid)], "layout": layout},
    }


def _tensor_hover(tensor: TensorError) -> str:
    snr = "no difference" if tensor.relative_error == 0 else f"{number(tensor.snr_db)} dB signal to noise"
    return (
        f"<b>{in_chart(tensor.name)}</b><br>{in_chart(tensor.type)}, {megabytes_text(tensor.size_bytes, 2)} MB<br>"
        f"{snr}, {percent(tensor.relative_error, 2)} % relative error"
    )


def _by_type(grid: list[list[TensorError | None]]) -> Figure:
    used = {cell.type for row in grid for cell in row if cell}
    kinds = sorted(used, key=lambda name: (TYPES[name].bits_per_weight, name))
    scale = []
    for place, kind in enumerate(kinds):
        colour = f"var(--type-{_tone(kind)})"
        scale += [[place / len(kinds), colour], [(place + 1) / len(kinds), colour]]
    return {
        "z": [[kinds.index(cell.type) if cell else None for cell in row] for row in grid],
        "text": [[cell.type if cell else "" for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "zmin": -0.5,
        "zmax": len(kinds) - 0.5,
        "colorscale": scale,
        "showscale": False,
    }


def _tone(kind: str) -> int:
    """Return which of the eight tones, 1 for the fewest bits, a type is shown in."""
    bits = TYPES[kind].bits_per_weight
    return next((tone for tone, most in enumerate((3, 4, 4.5, 5, 6, 7, 9), 1) if bits <= most), 8)


def _by_error(grid: list[list[TensorError | None]]) -> Figure:
    finite = [cell.snr_db for row in grid for cell in row if cell and math.isfinite(cell.snr_db)]

    def value(cell: TensorError | None) -> float | None:
        """Give what is infinite the colour of the best or the worst that is not."""
        if cell is None:
            return None
        if math.isinf(cell.snr_db):
            return max(finite, default=0.0) if cell.snr_db > 0 else min(finite, default=0.0)
        return cell.snr_db

    def text(cell: TensorError | None) -> str:
        if cell is None:
            return ""
        return "=" if cell.relative_error == 0 else number(cell.snr_db)

    values = [[value(cell) for cell in row] for row in grid]
    texts = [[text(cell) for cell in row] for row in grid]
    return {
        "z": values,
        "text": texts,
        "texttemplate": "%{text}",
        "colorscale": [[0, "var(--heat-1)"], [0.5, "var(--heat-2)"], [1, "var(--heat-3)"]],
        "colorbar": {
            "title": {"text": "dB"},
            "thickness": 10,
            "outlinewidth": 0,
            "tickfont": {"color": INK},
        },
    }
