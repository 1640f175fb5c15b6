"""The native core's own table of types (``native/kernels.h``), and how it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from whisq.errors import KernelError
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


@contextlib.contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Raise ``KernelError``, which begins with ``what``, where the core in the block refuses its arguments."""
    try:
        yield
    except (ValueError, BufferError) as error:
        raise KernelError(f"{what}: {error}") from None
