"""What a model itself tells of its layers' inputs, without audio: which columns they are large in.

The input of most layers comes out of a norm: a normalized vector's values times its weight, plus its bias. That of a
block's second layer is GELU of the first's outputs. Taken as independent and normal, those give every column a mean
square. That of what attention gives is not known so well, and left open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration.inputs import EMBEDDING_INPUT, ENCODER_OUTPUT, input_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.model import Model

    Array = NDArray[np.float64]

LEAST = 0.1
"""What every column counts at least, as a share of the mean: of base's matrices in q4_0 that takes the output error, as
calibrated moments see it, from 0.857 to 0.855 of ggml's, and a norm may have weights of zero."""
_BITS = 10
"""Of an importance: products and tanh differ between machines in their last bits, blocks do not."""
_NODES = np.linspace(-4, 4, 33)
"""Where a normal distribution is taken, in standard deviations."""


def expected_importance(model: Model, matrix: str) -> NDArray[np.float32] | None:
    """Return how large the inputs of a matrix are expected to be, ``float32[columns]``: mean squares by their mean.

    None where the model does not tell: for the output layers of attention, for what is no matrix, and where norms or
    weights are zero or not finite. The same on every machine.
    """
    with np.errstate(all="ignore"):
        squares = _mean_squares(model, matrix)
        if squares is None or not np.isfinite(squares).all() or not squares.any():
            return None
        mantissas, exponents = np.frexp(squares / squares.mean() + LEAST)
    rounded: NDArray[np.float32] = np.ldexp(np.rint(np.ldexp(mantissas, _BITS)), exponents - _BITS).astype(np.float32)
    return rounded


def _mean_squares(model: Model, matrix: str) -> Array | None:
    source = input_of(matrix)
    if source is None:
        return None
    block, _, part = source.rpartition(".")
    if source == EMBEDDING_INPUT:
        norm = "decoder.ln"
    elif source == ENCODER_OUTPUT:
        norm = "encoder.ln_post"
    elif part == "out":
        return None
    else:
        norm = f"{block}_ln"
    weight, bias = _vector(model, f"{norm}.weight"), _vector(model, f"{norm}.bias")
    if part != "2":
        return weight**2 + bias**2
    first = model.array(f"{block}.0.weight")
    means = (first * bias.astype(np.float32)).sum(1, dtype=np.float64) + _vector(model, f"{block}.0.bias")
    variances = np.square(first * weight.astype(np.float32)).sum(1, dtype=np.float64)
    share = np.exp(-np.square(_NODES) / 2)
    inputs = means[:, None] + np.sqrt(variances)[:, None] * _NODES
    # GELU by its approximation with tanh: near enough, and without scipy.
    outputs = inputs / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (inputs + 0.044715 * inputs**3)))
    found: Array = (np.square(outputs) * (share / share.sum())).sum(1)
    return found


def _vector(model: Model, name: str) -> Array:
    return np.asarray(model.array(name), np.float64).reshape(-1)
