"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is; from any thread."""


def no_progress(label: str, done: float, total: float) -> None:
    """Say nothing."""
    del label, done, total
