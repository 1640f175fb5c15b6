"""A written file read back: rows that do not hold what they should.

No honest rounding makes a row worse than zeros would be: zero is a value of every type or next to one, and scales are
chosen by the row's own weights. So a row whose error is as large as the row itself was lost on the way, in whatever
type. That needs no constant, and a file that is merely bad passes.

Feedback rounds for what a layer's output becomes, about its mean, and may move weights far where no input is: there the
row counts as lost only where its output, too, is as wrong as zeros would make it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisq import kernels
from whisq.calibration.inputs import input_of, is_taken_about_its_mean
from whisq.formats import open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.calibration import Calibration
    from whisq.model import Model, TensorRef

    Rows = NDArray[np.float32]

PIECE_WEIGHTS = 1 << 20
NEGLIGIBLE = 1e-6
"""Of a matrix's mean energy of a row: what has less is below the smallest scale that f16 holds beside the others."""


@dataclass(frozen=True, slots=True)
class LostRow:
    """A row of a tensor whose error is ``relative_error`` times the row: 1 or more, or not a number."""

    tensor: str
    row: int
    relative_error: float

    def __str__(self) -> str:
        return f"{self.tensor}, row {self.row}: its error is {self.relative_error:.2g} times the row"


def lost_rows(source: Model, path: Path, calibration: Calibration | None = None) -> list[LostRow]:
    """Return the rows of a file's matrices that are no closer to the source's than zeros would be.

    ``calibration`` is what the file was rounded with. Raises ``FormatError`` for a file that cannot be read.
    """
    with open_model(path) as written:
        matrices = [tensor for tensor in source.tensors if tensor.spec.is_matrix]
        return [row for tensor in matrices for row in _lost(source, tensor, written, calibration)]


def _lost(source: Model, tensor: TensorRef, written: Model, calibration: Calibration | None) -> Iterator[LostRow]:
    import numpy as np

    signal, noise = np.empty(tensor.n_rows), np.empty(tensor.n_rows)
    step = max(1, PIECE_WEIGHTS // tensor.n_columns)
    for start in range(0, tensor.n_rows, step):
        rows = slice(start, min(start + step, tensor.n_rows))
        truth = _rows(source, tensor, rows)
        with np.errstate(all="ignore"):
            error = _rows(written, written[tensor.name], rows) - truth
            signal[rows] = np.square(truth, dtype=np.float64).sum(1)
            noise[rows] = np.square(error, dtype=np.float64).sum(1)
    suspects = np.flatnonzero(~(noise < signal) & (signal > NEGLIGIBLE * signal.mean()))
    for row in suspects:
        one = slice(int(row), int(row) + 1)
        truth = _rows(source, tensor, one)
        error = _rows(written, written[tensor.name], one) - truth
        if calibration is None or not _output_is_kept(tensor.name, truth[0], error[0], calibration):
            yield LostRow(tensor.name, int(row), float(np.sqrt(noise[row] / signal[row])))


def _output_is_kept(name: str, truth: Rows, error: Rows, calibration: Calibration) -> bool:
    """Return whether a row's output is closer to the source's than nothing would be, on the calibration's audio."""
    source = input_of(name)
    if source is None or source not in calibration.counts:
        return False
    moments = calibration.moments(source)
    if moments.second_moment is None:
        return False
    energies = []
    for row in (error, truth):
        wide = row.astype(float)
        energy = float(wide @ moments.second_moment.astype(float) @ wide)
        if is_taken_about_its_mean(source) and moments.mean is not None:
            energy -= float(wide @ moments.mean.astype(float)) ** 2
        energies.append(energy)
    return energies[0] < energies[1]


def _rows(model: Model, tensor: TensorRef, rows: slice) -> Rows:
    data = model.rows(tensor, rows.start, rows.stop)
    found: Rows = kernels.dequantize(data, tensor.type, (rows.stop - rows.start, tensor.n_columns))
    return found
