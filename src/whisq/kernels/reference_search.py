"""The searches for a block's scale, in numpy: rows are blocks, and everything is float32 in ggml's order.

Source of the arithmetic: ggml 0.13, ``ggml-quants.c`` (``make_qx_quants``, ``make_qkx2_quants``,
``make_qkx3_quants``, ``make_qp_quants``, ``make_q3_quants``, ``quantize_row_iq4_nl_impl``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int32]
    Bools = NDArray[np.bool_]

F = np.float32
EPSILON = F(1e-15)
"""A block whose largest magnitude is below this counts as all zero."""

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], F)


def sequential_sum(values: Floats) -> Floats:
    """Sum the last axis one element after the other, as a loop in C does."""
    total = np.zeros(values.shape[:-1], F)
    for j in range(values.shape[-1]):
        total = total + values[..., j]
    return total


def nearest(values: NDArray[np.floating]) -> Integers:
    """Return the nearest integers, half to even, as ggml takes them from the bits of ``value + 1.5 × 2²³``."""
    bits: Integers = (np.asarray(values, F) + F(12582912)).view(np.int32)
    return (bits & 0x007FFFFF) - 0x00400000


def of_largest_magnitude(x: Floats) -> Floats:
    """Return each row's value of largest magnitude, the first of several; +0 where all are zeros of either sign."""
    value = x[np.arange(len(x)), np.abs(x).argmax(1)]
    return np.where(value == 0, F(0), value)


def smallest(x: Floats) -> Floats:
    """Return each row's smallest value, the first of several: it matters for the sign of a zero."""
    value: Floats = x[np.arange(len(x)), x.argmin(1)]
    return value


def search_scale(x: Floats, w: Floats, n_max: int) -> tuple[Floats, Integers, Bools]:
    """Return scale, stored integers ``l + n_max`` and which blocks are zero, for x ≈ scale × l."""
    largest = of_largest_magnitude(x)
    is_zero = np.abs(largest) < EPSILON

    def attempt(inverse: Floats) -> tuple[Integers, Floats, Floats]:
        l = np.clip(nearest(inverse[:, None] * x), -n_max, n_max - 1)
        return l, sequential_sum(w * x * l.astype(F)), sequential_sum(w * l.astype(F) * l.astype(F))

    best_l, sum_lx, sum_l2 = attempt(F(-n_max) / largest)
    scale = np.where(sum_l2 != 0, sum_lx / sum_l2, F(0)).astype(F)
    best = scale * sum_lx
    for step in range(-9, 10):
        if step == 0:
            continue
        l, sum_lx, sum_l2 = attempt(-(F(n_max) + F(0.1) * F(step)) / largest)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        best_l = np.where(better[:, None], l, best_l)
        scale = np.where(better, sum_lx / sum_l2, scale)
        best = np.where(better, scale * sum_lx, best)
    return np.where(is_zero, F(0), scale), np.where(is_zero[:, None], 0, best_l + n_max), is_zero


def search_scale_min(
    x: Floats, w: Floats, n_max: int, start: float, step: float, n_steps: int, *, absolute_error: bool = False
) -> tuple[Floats, Floats, Integers]:
    """Return scale, minimum (not negative) and integers in [0, n_max], for x ≈ scale × l - minimum."""
    low, high = smallest(x), x.max(1)
    low = np.where(low > 0, F(0), low)
    sum_w, sum_x = sequential_sum(w), sequential_sum(w * x)
    is_flat = low == high

    def error_of(scale: Floats, minimum: Floats, l: Integers) -> Floats:
        difference = scale[:, None] * l.astype(F) + minimum[:, None] - x
        return sequential_sum(w * (np.abs(difference) if absolute_error else difference * difference))

    inverse = F(n_max) / (high - low)
    scale, minimum = F(1) / inverse, low
    best_l = np.clip(nearest(inverse[:, None] * (x - minimum[:, None])), 0, n_max)
    best = error_of(scale, minimum, best_l)
    for number in range(n_steps + 1):
        inverse = (F(start) + F(step) * F(number) + F(n_max)) / (high - minimum)
        l = np.clip(nearest(inverse[:, None] * (x - minimum[:, None])), 0, n_max)
        wl = w * l.astype(F)
        sum_l, sum_l2, sum_xl = sequential_sum(wl), sequential_sum(wl * l.astype(F)), sequential_sum(wl * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = this_minimum > 0
        this_scale = np.where(above, sum_xl / sum_l2, this_scale).astype(F)
        this_minimum = np.where(above, F(0), this_minimum).astype(F)
        error = error_of(this_scale.astype(F), this_minimum.astype(F), l)
        better = (determinant > 0) & (error < best) & ~is_flat
        best_l = np.where(better[:, None], l, best_l)
        best = np.where(better, error, best)
        scale = np.where(better, this_scale, scale)
        minimum = np.where(better, this_minimum, minimum)
    return np.where(is_flat, F(0), scale), -minimum, np.where(is_flat[:, None], 0, best_l)


def search_positive(x: Floats, w: Floats, n_max: int) -> tuple[Floats, Integers]:
    """Return the unit and integers in [0, n_max] for scales that are not negative, one super-block per row."""
    largest = np.maximum(x.max(1), F(0))
    is_zero = largest < EPSILON
    inverse = F(n_max) / largest

    def error_of(scale: Floats, l: Integers) -> Floats:
        difference = x - scale[:, None] * l.astype(F)
        return sequential_sum(w * difference * difference)

    best = error_of(F(1) / inverse, nearest(inverse[:, None] * x) & 0xFF)
    for step in range(-4, 5):
        if step == 0:
            continue
        attempt = (F(0.1) * F(step) + F(n_max)) / largest
        error = error_of(F(1) / attempt, np.minimum(nearest(attempt[:, None] * x), n_max))
        better = error < best
        best = np.where(better, error, best)
        inverse = np.where(better, attempt, inverse)
    l = np.minimum(nearest(inverse[:, None] * x), n_max)
    sum_lx, sum_l2 = sequential_sum(w * x * l.astype(F)), sequential_sum(w * l.astype(F) * l.astype(F))
    l = l & 0xFF
    for _ in range(5):
        for j in range(x.shape[1]):
            wj, xj, lj = w[:, j], x[:, j], l[:, j].astype(F)
            lx, l2 = sum_lx - wj * xj * lj, sum_l2 - wj * lj * lj
            following = np.minimum(nearest(xj * l2 / lx), n_max)
            is_open = (lx > 0) & (l2 > 0) & (following != l[:, j])
            lx = lx + wj * xj * following.astype(F)
            l2 = l2 + wj * following.astype(F) * following.astype(F)
            better = is_open & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            l[:, j] = np.where(better, following & 0xFF, l[:, j])
            sum_lx, sum_l2 = np.where(better, lx, sum_lx), np.where(better, l2, sum_l2)
    unit = np.where(is_zero | ~(sum_l2 > 0), F(0), sum_lx / sum_l2).astype(F)
    return unit, np.where(is_zero[:, None], 0, l)


def search_q3(x: Floats) -> tuple[Floats, Integers]:
    """Return scale and stored integers ``l + 4``: single integers are moved while the fit improves."""
    largest = of_largest_magnitude(x)
    is_zero = np.abs(largest) < EPSILON
    l = np.clip(nearest((F(-4) / largest)[:, None] * x), -4, 3)
    w = x * x
    sum_lx, sum_l2 = sequential_sum(w * x * l.astype(F)), sequential_sum(w * l.astype(F) * l.astype(F))
    for _ in range(5):
        for j in range(16):
            wj, xj, lj = w[:, j], x[:, j], l[:, j].astype(F)
            lx, l2 = sum_lx - wj * xj * lj, sum_l2 - wj * lj * lj
            is_open = lx > 0
            following = np.clip(nearest(xj * l2 / lx), -4, 3)
            lx = lx + wj * xj * following.astype(F)
            l2 = l2 + wj * following.astype(F) * following.astype(F)
            better = is_open & (following != l[:, j]) & (l2 > 0) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            l[:, j] = np.where(better, following, l[:, j])
            sum_lx, sum_l2 = np.where(better, lx, sum_lx), np.where(better, l2, sum_l2)
    scale = np.where(is_zero | ~(sum_l2 > 0), F(0), sum_lx / sum_l2).astype(F)
    return scale, np.where(is_zero[:, None], 0, l + 4)


def nearest_iq4(x: Floats) -> Integers:
    """Return the index of the nearest of ``IQ4_VALUES``, the upper one at a tie."""
    thresholds = (IQ4_VALUES[:-1] + IQ4_VALUES[1:]) / F(2)
    indices: Integers = (~(x[..., None] < thresholds)).sum(-1).astype(np.int32)
    return indices


def search_iq4(x: Floats, w: Floats) -> Floats:
    """Return the scale of blocks of 32, for x ≈ scale × a value of ``IQ4_VALUES``."""
    largest = of_largest_magnitude(x)

    def attempt(inverse: Floats) -> tuple[Floats, Floats]:
        q = IQ4_VALUES[nearest_iq4(inverse[:, None] * x)]
        return sequential_sum(w * q * x), sequential_sum(w * q * q)

    sum_qx, sum_q2 = attempt(F(1) / (-largest / IQ4_VALUES[0]))
    scale = np.where(sum_q2 > 0, sum_qx / sum_q2, F(0)).astype(F)
    best = scale * sum_qx
    for step in range(-7, 8):
        sum_qx, sum_q2 = attempt((F(step) + IQ4_VALUES[0]) / largest)
        better = (sum_q2 > 0) & (sum_qx * sum_qx > best * sum_q2)
        scale = np.where(better, sum_qx / sum_q2, scale)
        best = np.where(better, scale * sum_qx, best)
    return np.where(np.abs(largest) < EPSILON, F(0), scale)
