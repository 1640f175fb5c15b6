"""Units as whisq says them everywhere."""

from __future__ import annotations


def megabytes(size_bytes: float) -> float:
    """Return bytes as MB of 10⁶."""
    return size_bytes / 1e6


def duration(seconds: float) -> str:
    """Return a length of audio or time: ``43 s``, ``8 min``, ``1 h 40 min``, ``31 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 600:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{minutes / 60:.0f} h"
