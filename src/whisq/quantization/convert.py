"""From one container to another, without a recipe: every tensor keeps its type, or all matrices get one."""

from __future__ import annotations

from typing import Any

from whisq.errors import PlanError
from whisq.formats import layout_of
from whisq.formats.layout import ContainerName, Output
from whisq.model import Model, TensorRef
from whisq.quantization.plan import Assignment, Plan
from whisq.recipe import Recipe
from whisq.runtimes.registry import verdicts
from whisq.types import BF16, F16, F32, TensorType

CONVERSION_TYPES = (F16, F32, BF16)
"""What matrices may be turned into here; block types are ``quantize``'s."""


def make_conversion(
    model: Model,
    container: ContainerName,
    type: TensorType | None = None,
    provenance: dict[str, Any] | None = None,
) -> Plan:
    """Return the plan of a conversion, for ``quantize`` to carry out.

    ``type`` is for all matrices, None keeps theirs. Norms, biases and positions become f32, which every loader
    wants. Conv kernels follow an f32 or f16 ``type``; bf16 ones become f16, since no loader takes them.

    Raises ``PlanError`` for a block type.
    """
    if type is not None and type not in CONVERSION_TYPES:
        raise PlanError(
            f"convert does not write {type}, only {', '.join(t.name for t in CONVERSION_TYPES)}",
            hint=f"whisq quantize INPUT OUTPUT {type}",
        )
    assignments = tuple(
        Assignment(tensor, _type_of(tensor, type), "converted" if tensor.spec.is_matrix else "kept")
        for tensor in model.tensors
    )
    outputs = [Output(a.tensor, a.type) for a in assignments]
    return Plan(
        model,
        Recipe(type or _commonest(model)),
        container,
        assignments,
        layout_of(container, model, outputs, provenance),
        verdicts(container, [(output.tensor.spec, output.type) for output in outputs]),
        provenance=provenance or {},
    )


def _type_of(tensor: TensorRef, asked: TensorType | None) -> TensorType:
    if tensor.spec.is_matrix:
        return asked or tensor.type
    if tensor.role != "conv":
        return F32
    return F32 if (asked or tensor.type) is F32 else F16


def _commonest(model: Model) -> TensorType:
    counts: dict[TensorType, int] = {}
    for tensor in model.tensors:
        if tensor.spec.is_matrix:
            counts[tensor.type] = counts.get(tensor.type, 0) + tensor.n_weights
    return max(counts, key=lambda kind: counts[kind])
