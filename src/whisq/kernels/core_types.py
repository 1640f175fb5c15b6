"""The native core's own table of types (``native/kernels.h``): what ``whisq.types`` does not say of a type."""

from __future__ import annotations

from typing import NamedTuple

from whisq.kernels import _core


class CoreType(NamedTuple):
    """One row: ggml's number and name, weights and bytes per block, and what feedback needs.

    ``sub_blocks`` is 0 for types whose blocks have one scale, else the sub-blocks of a super-block.
    """

    ggml_type: int
    name: str
    block_size: int
    block_bytes: int
    sub_blocks: int
    has_feedback: bool


CORE_TYPES: dict[int, CoreType] = {row[0]: CoreType(*row) for row in _core.types()}
"""Every type that the core knows, by ggml's number."""
