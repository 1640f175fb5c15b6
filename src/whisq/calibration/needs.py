"""What a calibration needs of memory and disk, known before any work."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.calibration.calibration import triangle_size
from whisq.calibration.in_order import WINDOWS
from whisq.calibration.inputs import inputs_of
from whisq.calibration.outputs import weighed_outputs
from whisq.errors import CalibrationError, OutputError
from whisq.network.tokens import LONGEST_TEXT
from whisq.units import megabytes
from whisq.whisper import expected_tensors

if TYPE_CHECKING:
    from whisq.whisper import Dimensions

_LIBRARIES = 170_000_000
"""Bytes that Python, numpy, scipy and the audio library take."""
_FACTORING = 5
"""Matrices of the widest input in float64 that are there at once when it is said whether feedback can use it."""
_INPUTS = 7
"""Times the width of a layer: its inputs, which wait until a group of windows is through."""
_STATES = 4
"""Hidden states of all windows that are there at once: before and after a layer, the encoder's output, and room."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes: of memory, of disk beside the file for as long as the work takes, and of the file that is written."""

    memory_bytes: int
    spill_bytes: int
    file_bytes: int

    def __str__(self) -> str:
        disk_mb = megabytes(self.spill_bytes + self.file_bytes)
        kept_mb = megabytes(self.file_bytes)
        return f"{megabytes(self.memory_bytes):.0f} MB of memory and {disk_mb:.0f} MB of disk, {kept_mb:.0f} MB to stay"


def needs_of(
    dims: Dimensions, n_windows: int, n_tokens: int, *, spills: bool, writes: bool, weighs: bool = False
) -> Needs:
    """Return what calibrating a model takes on so many windows and tokens.

    With ``spills`` an interrupted run is kept on disk; with ``writes`` the model writes texts, for which its decoder is
    in memory; with ``weighs`` all of it and the outputs of its layers are. The memory is an upper bound: tiny.en on the
    built-in speech took 0.86 of it.
    """
    widths = inputs_of(dims).values()
    moments = sum(4 * (triangle_size(width) + width) for width in widths)
    states = 4 * (n_windows * dims.n_audio_ctx * dims.n_audio_state + n_tokens * dims.n_text_state)
    weights = 4 * (dims.n_vocab + dims.n_text_ctx + 16 * dims.n_text_state * dims.n_text_layer) * dims.n_text_state
    waiting = 4 * WINDOWS * dims.n_audio_ctx * _INPUTS * dims.n_audio_state
    memory = _LIBRARIES + _STATES * states + waiting + max(8 * _FACTORING * max(widths) ** 2, weights if writes else 0)
    outputs = weighed_outputs(dims) if weighs else {}
    if outputs:
        memory = max(memory, _LIBRARIES + states + _way_back(dims, outputs))
    if not spills:
        memory += 2 * moments
    weighed = 4 * sum(triangle_size(width) for width in outputs.values())
    return Needs(memory, moments + 2 * states if spills else 0, moments + weighed)


def _way_back(dims: Dimensions, outputs: Mapping[str, int]) -> int:
    """Return the bytes of a whole model, a window's outputs of all layers, its words' gradients, and the moments."""
    weights = sum(math.prod(spec.shape) for spec in expected_tensors(dims).values())
    # In a block each layer's output, what it saw, and the gradients on their way.
    window = dims.n_audio_ctx * 12 * dims.n_audio_state * (dims.n_audio_layer + 2)
    words = 4 * LONGEST_TEXT * dims.n_vocab
    return 4 * (weights + window + words + 2 * sum(width * width for width in outputs.values()))


def check_room(needs: Needs, output: Path, cache: Path | None) -> None:
    """Raise before any work where there is not as much: ``OutputError`` of disk, ``CalibrationError`` of memory.

    Memory is looked at where the system says what is free (Linux).
    """
    wanted: dict[Path, int] = {}
    for folder, size_bytes in ((output.parent, needs.file_bytes), (cache, needs.spill_bytes)):
        if folder is not None and size_bytes:
            place = _existing(folder)
            wanted[place] = wanted.get(place, 0) + size_bytes
    for place, size_bytes in wanted.items():
        free = shutil.disk_usage(place).free
        if free < size_bytes:
            raise OutputError(
                f"{place}: the calibration needs {megabytes(size_bytes):.0f} MB of disk,"
                f" {megabytes(free):.0f} MB are free",
                hint="free some space, or name a folder on another disk with --cache",
            )
    available = available_memory()
    if available is not None and available < needs.memory_bytes:
        raise CalibrationError(
            f"calibrating needs {megabytes(needs.memory_bytes):.0f} MB of memory,"
            f" {megabytes(available):.0f} MB are available",
            hint="run `whisq calibrate` on a machine with more memory, and name its file here: --calibration FILE",
        )


def available_memory(source: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes of memory that can be had without swapping; None where the system does not say."""
    try:
        lines = source.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable" and rest.split() and rest.split()[0].isdecimal():
            return int(rest.split()[0]) * 1024
    return None


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())
