"""Units as whisq says them everywhere."""

from __future__ import annotations


def megabytes(size_bytes: float) -> float:
    """Return bytes as MB of 10⁶."""
    return size_bytes / 1e6
