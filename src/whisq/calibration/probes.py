"""A few short pieces of the calibration's audio, kept with it: a search measures on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROBE_FRAMES = 800
"""Mel frames of a probe: 8 s."""
MOST_PROBES = 24


@dataclass(frozen=True, slots=True)
class Probes:
    """Log-mel spectra ``float16[probes, n_mels, frames]``, and the language of each (empty where not known)."""

    mels: NDArray[np.float16]
    languages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.languages)
