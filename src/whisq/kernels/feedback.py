"""Better bytes in the same format: rounding with error feedback.

Columns are rounded in order, and each column's error is pushed onto the columns that are not yet rounded, in
proportion to how the layer's inputs correlate (GPTQ: Frantar et al. 2022, arXiv 2210.17323). The scale of a
block is chosen when the feedback reaches it. Then integers and scales are improved one by one, all others as they are
(``native/improve.cpp``). The loops are native.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.errors import CalibrationError, KernelError
from whisq.kernels import _core, chosen_isa, has_feedback
from whisq.kernels.blocks import Parts, format_of
from whisq.kernels.core_types import CORE_TYPES, refused_as
from whisq.kernels.threads import over_rows
from whisq.types import TYPES, TensorType, parse_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMPING = 0.03
"""Share of the mean second moment that is added to each; see ``damping_for``."""


def damping_for(n_columns: int, n_vectors: int) -> float:
    """Return the damping for moments of ``n_vectors`` inputs: the fewer, the less their correlations are trusted.

    The constants are the best of 0.003 to 3 on tiny.en, q4_0: 0.03 to 0.1 for the encoder's 16 000 vectors and
    0.1 to 1 for the decoder's 1000, judged on speakers that were not calibrated on.
    """
    return DAMPING + 0.3 * n_columns / max(1, n_vectors)


SWEEPS = 4
"""Times that every integer is improved, and in the last every scale too. All but the last cost little: in the second
one integer in a hundred moves."""

PANEL, TILE = 256, 8
"""Columns inside which rounding looks at every block, and columns that lie together in a ``Factor``."""


@dataclass(frozen=True, slots=True)
class Factor:
    """What feedback needs of a layer's inputs, prepared once for all types, as the core reads it.

    The damped second moment is H = V diag(``gain``) Vᵀ, V unit upper triangular. ``triangle`` has V and its mirror
    image, ``moment`` H, both ``float32[columns / 8, columns, 8]``: tiles of eight columns. ``inside`` is of every
    panel's diagonal block of V the inverse, strictly above its diagonal, ``float32[panels, 32, 256, 8]``. ``gain`` is
    ``float32[columns]``.
    """

    triangle: NDArray[np.float32]
    inside: NDArray[np.float32]
    gain: NDArray[np.float32]
    moment: NDArray[np.float32]

    @classmethod
    def empty(cls, columns: int) -> Factor:
        """Return one of the right sizes, with nothing in it yet."""
        shape, panels = (-(-columns // TILE), columns, TILE), -(-columns // PANEL)
        inside = np.empty((panels, PANEL // TILE, PANEL, TILE), np.float32)
        return cls(np.empty(shape, np.float32), inside, np.empty(columns, np.float32), np.empty(shape, np.float32))

    @property
    def second_moment(self) -> NDArray[np.float32]:
        """The damped second moment, ``float32[columns, columns]``."""
        return _untiled(self.moment)

    @property
    def lost(self) -> NDArray[np.float32]:
        """V, ``float32[columns, columns]``: what rounding took from a column, times its row, goes to the others."""
        return np.triu(_untiled(self.triangle))

    @property
    def upper(self) -> NDArray[np.float32]:
        """V⁻¹, ``float32[columns, columns]``: a column's error, times its row, is what the others make good.

        It is the upper Cholesky factor of H⁻¹ with every row divided by its diagonal; the same on every machine.
        """
        columns = len(self.gain)
        inverse = np.empty((columns, columns), np.float32)
        _core.invert(chosen_isa(None), self.triangle, columns, inverse)
        return inverse


def _untiled(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    columns = tiles.shape[1]
    return tiles.transpose(1, 0, 2).reshape(columns, -1)[:, :columns]


def factor_of(second_moment: NDArray[np.floating], damping: float = DAMPING, *, isa: str | None = None) -> Factor:
    """Return the factor of a second-moment matrix ``[columns, columns]`` (mean of x xᵀ over the inputs).

    Nothing is inverted but small blocks: one Cholesky factor serves all columns. It is taken in float32 by the core,
    the same on every machine. Raises ``CalibrationError`` when the matrix is not finite, or singular in spite of the
    damping.
    """
    moment, added = _checked(second_moment, damping)
    found = Factor.empty(len(moment))
    definite = _core.factor(
        chosen_isa(isa), moment, len(moment), added, found.triangle, found.inside, found.gain, found.moment
    )
    _require_definite(definite)
    return found


def check_factor(second_moment: NDArray[np.floating], damping: float = DAMPING) -> None:
    """Raise ``CalibrationError`` where ``factor_of`` would; it is the cheaper half of that."""
    moment, added = _checked(second_moment, damping)
    _require_definite(_core.factor(chosen_isa(None), moment, len(moment), added, None, None, None, None))


def _checked(second_moment: NDArray[np.floating], damping: float) -> tuple[NDArray[np.float32], float]:
    """Return a second moment in float32, and what damping adds to its diagonal: that share of its mean.

    Raises ``CalibrationError`` for one that is not square, not finite, all zero or negative.
    """
    moment = np.ascontiguousarray(second_moment, np.float32)
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        raise CalibrationError(f"a second moment has shape {list(moment.shape)}, expected a square")
    diagonal = np.diag(moment)
    if not np.isfinite(moment).all() or (diagonal < 0).any():
        raise CalibrationError("a second moment is not finite, or has a negative diagonal")
    mean = float(diagonal.mean(dtype=np.float64))
    if mean == 0:
        raise CalibrationError("a second moment is all zero", hint="the layer was never active: use more audio")
    return moment, float(np.float32(damping * mean))


def _require_definite(is_definite: bool) -> None:
    if not is_definite:
        raise CalibrationError(
            "a second moment is singular: it has no Cholesky factor",
            hint="raise the damping, or calibrate on more audio",
        )


def quantize_with_feedback(
    weights: NDArray[np.float32],
    type: str | TensorType,
    factor: Factor,
    *,
    threads: int = 1,
    isa: str | None = None,
    sweeps: int = SWEEPS,
) -> NDArray[np.uint8]:
    """Return ``float32[rows, columns]`` in a block format, ``uint8[rows, row bytes]``, rounded with feedback.

    Deterministic: the same bytes on every instruction set, with any number of threads. Raises ``KernelError`` for
    shapes that do not fit, and for a type that feedback cannot round to.
    """
    kind = parse_type(type)
    rows, columns = weights.shape
    if not kind.fits(columns) or factor.gain.shape != (columns,):
        raise KernelError(f"rows of {columns} do not fit {kind} and a factor of {factor.gain.shape[0]} columns")
    parts = feedback_parts(weights, kind, factor, threads=threads, isa=isa, sweeps=sweeps)
    return format_of(kind).pack(parts).reshape(rows, -1)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the core's feedback, or its fit, writes for rows of weights.

    ``levels`` are the stored integers, ``int8[rows, columns]``; the rest is ``float32[rows, …]``: a unit, and one of
    the minimums, per block, and the integers of the scales and minimums per sub-block.
    """

    levels: NDArray[np.int8]
    units: NDArray[np.float32]
    minimum_units: NDArray[np.float32]
    scale_integers: NDArray[np.float32]
    minimum_integers: NDArray[np.float32]

    @classmethod
    def zeros(cls, rows: int, columns: int, block_size: int, sub_blocks: int) -> Outputs:
        """Return outputs of the right sizes, all zero, for a type with ``sub_blocks`` per block, 0 for none."""
        units = columns // block_size
        shapes = (units, units, units * sub_blocks, units * sub_blocks)
        return cls(np.zeros((rows, columns), np.int8), *(np.zeros((rows, n), np.float32) for n in shapes))

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """All of them, in the order of the fields."""
        return self.levels, self.units, self.minimum_units, self.scale_integers, self.minimum_integers

    def parts(self, kind: TensorType) -> Parts:
        """Return what a type's blocks are made of."""
        n_subs = CORE_TYPES[kind.ggml_type].sub_blocks
        return Parts(
            self.levels.reshape(-1, kind.block_size).astype(np.int32) & 0xFF,
            self.units.reshape(-1),
            self.minimum_units.reshape(-1),
            self.scale_integers.reshape(-1, n_subs).astype(np.int32) if n_subs else None,
            self.minimum_integers.reshape(-1, n_subs).astype(np.int32) if n_subs else None,
        )

    def rows(self, start: int, stop: int) -> Outputs:
        """Return a view of some rows."""
        return Outputs(*(array[start:stop] for array in self.arrays))


def run_core(
    weights: NDArray[np.float32],
    factor: Factor,
    ggml_type: int,
    into: Outputs,
    *,
    isa: str | None = None,
    sweeps: int = SWEEPS,
) -> None:
    """Round rows to a type, by ggml's number, on this thread, with the GIL released.

    Raises ``KernelError`` for a number that is not a type, for one without feedback, and for sizes that do not fit:
    then nothing was written.
    """
    use = chosen_isa(isa)
    with refused_as(f"feedback on rows of {weights.shape[1]}"):
        _core.feedback(
            use,
            weights,
            factor.triangle,
            factor.inside,
            factor.gain,
            factor.moment,
            ggml_type,
            weights.shape[1],
            sweeps,
            *into.arrays,
        )


def feedback_parts(
    weights: NDArray[np.float32],
    kind: TensorType,
    factor: Factor,
    *,
    threads: int = 1,
    isa: str | None = None,
    sweeps: int = SWEEPS,
) -> Parts:
    """Return the integers and scales that feedback chose, block by block. Raises as ``quantize_with_feedback`` does."""
    if not has_feedback(kind):
        with_feedback = [other.name for other in TYPES.values() if has_feedback(other)]
        raise KernelError(
            f"there is no rounding with feedback for {kind}",
            hint=f"use another method for it, or one of: {' '.join(with_feedback)}",
        )
    rows, columns = weights.shape
    weights = np.ascontiguousarray(weights, np.float32)
    found = Outputs.zeros(rows, columns, kind.block_size, CORE_TYPES[kind.ggml_type].sub_blocks)

    def work(start: int, stop: int) -> None:
        if start < stop:
            run_core(weights[start:stop], factor, kind.ggml_type, found.rows(start, stop), isa=isa, sweeps=sweeps)

    over_rows(work, rows, threads)
    return found.parts(kind)
