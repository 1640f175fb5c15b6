"""The block formats in numpy, one object per type: ggml's rounding, the layout of its blocks, and what they decode to.

The native core is tested against these definitions; rounding with feedback packs its blocks with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whisq.errors import KernelError
from whisq.kernels.blocks import fixed_values, k_quants, legacy
from whisq.kernels.blocks.format import BlockFormat, Parts

if TYPE_CHECKING:
    from whisq.types import TensorType

__all__ = ["FORMATS", "BlockFormat", "Parts", "format_of"]

FORMATS: dict[str, BlockFormat] = {
    definition.name: definition for definition in (*legacy.FORMATS, *k_quants.FORMATS, *fixed_values.FORMATS)
}
"""Every block format by its ggml name."""


def format_of(type: TensorType) -> BlockFormat:
    """Return the definition of a type's blocks. Raises ``KernelError`` for a type without blocks."""
    if type.name not in FORMATS:
        raise KernelError(f"{type} has no blocks", hint=f"types with blocks: {' '.join(FORMATS)}")
    return FORMATS[type.name]
