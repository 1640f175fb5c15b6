"""Whether what is written can be computed with: no scale of a block is NaN or infinite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from whisq.errors import WeightError
from whisq.quantization.method import GGML
from whisq.types import BF16, F16, F32, TYPES, TensorType

if TYPE_CHECKING:
    from whisq.kernels import Buffer
    from whisq.quantization.plan import Assignment, Plan

_AT_THE_END = {"q2_K": 2, "q3_K": 1, "q6_K": 1}
_AT_THE_START = {"q4_0": 1, "q4_1": 2, "q5_0": 1, "q5_1": 2, "q8_0": 1, "q4_K": 2, "q5_K": 2, "iq4_nl": 1, "iq4_xs": 1}
"""Scales in f16 of each block, and where they are."""
_POWER_OF_TWO = TYPES["mxfp4"]


def may_be_unfinite(assignment: Assignment) -> bool:
    """Return whether the scales of a tensor have to be looked at.

    From finite weights, which are counted, ggml's own rounding makes finite scales; a copy's are the source's, those of
    other methods depend on a calibration, and bf16 rounds the largest of f32 to infinity.
    """
    copied = assignment.tensor.type is assignment.type and assignment.type.is_quantized
    return copied or assignment.method is not GGML or assignment.type is BF16


def count_unfinite(blocks: Buffer, type: TensorType) -> int:
    """Return the number of blocks with a scale that is NaN or infinite; of a type without blocks, of such values."""
    import numpy as np

    if type is F32:
        return int((~np.isfinite(np.frombuffer(blocks, "<f4"))).sum())
    if type in (F16, BF16):
        exponent = 0x7C00 if type is F16 else 0x7F80
        return int((np.frombuffer(blocks, "<u2") & exponent == exponent).sum())
    rows = np.frombuffer(blocks, np.uint8).reshape(-1, type.block_bytes)
    if type is _POWER_OF_TWO:
        return int((rows[:, 0] == 0xFF).sum())
    at_the_end = _AT_THE_END.get(type.name)
    part = rows[:, -2 * at_the_end :] if at_the_end else rows[:, : 2 * _AT_THE_START[type.name]]
    return int((np.ascontiguousarray(part).view("<u2") & 0x7C00 == 0x7C00).any(axis=1).sum())


def refuse_unfinite(plan: Plan, found: Mapping[str, int]) -> None:
    """Raise ``WeightError`` for blocks whose scale is NaN or infinite, counted by tensor."""
    if not found:
        return
    order = [a for a in plan.assignments if a.tensor.name in found]
    listed = "\n".join(
        f"  {a.tensor.name}: {found[a.tensor.name]} of {a.tensor.n_weights // a.type.block_size} blocks of {a.type}"
        for a in order
    )
    hint = "make the model again from its original source: this file is damaged"
    if any(a.method is not GGML for a in order):
        hint = "make the calibration again, or use --method ggml"
    elif any(a.type is BF16 for a in order):
        hint = "write f32: some weights are larger than bf16 can hold"
    raise WeightError(
        f"{plan.model.path}: scales of {len(order)} tensors would be NaN or infinite:\n{listed}", hint=hint
    )
