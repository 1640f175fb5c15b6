"""Rounding in units, a matrix each: where they are done, and what they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.calibration import Calibration, read_calibration
from whisq.calibration.calibration import FORESEEN
from whisq.formats import open_model
from whisq.formats.sources import source_of
from whisq.kernels import Tally
from whisq.kernels.threads import available_cpus, blas_on_one_thread
from whisq.model import Model
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.method import Method, UnfitWeightsError
from whisq.quantization.rounding import expected_by, rounded_rows
from whisq.types import parse_type
from whisq.work import Bench, Job, Needs, Outline, Parcel, Source, Unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.model import TensorRef
    from whisq.quantization.plan import Assignment, Plan

_ROUNDING_S, _FACTOR_S = 2e-7, 3e-11
"""Seconds of a core: for each weight, and for an input's factor by its columns cubed. Feedback takes half of that on
base with AVX-512."""
_BYTES_BESIDE, _BYTES_WEIGHT, _BYTES_FACTOR = 400_000_000, 24, 40
"""Memory of a bench: of all else, of a weight of the largest matrix, and of an entry of the widest input's moments."""


@dataclass(frozen=True, slots=True)
class RoundedMatrix:
    """A whole matrix in its new type, and what its bias takes up; or only ``unfit``, what no block can hold of it."""

    blocks: bytes = b""
    bias_shift: NDArray[np.float32] | None = None
    unfit: Tally | None = None


class RoundingBench(Bench):
    """Rounds matrices of one model, as many rows at once as ``quantize`` does: so its bytes are the same."""

    def __init__(self, model: Model, calibration: Calibration | None, threads: int) -> None:
        self._model, self._threads = model, threads
        self._inputs = None if calibration is None else LayerInputs(calibration, most_kept=2)

    def do(self, argument: tuple[str, str, Method, int]) -> RoundedMatrix:
        """Return the matrix of a name in a type, rounded by a method, so many rows at once."""
        import numpy as np

        name, kind, method, step = argument
        model, tensor = self._model, self._model[name]
        expected = expected_by(method, model, name)
        starts = range(0, tensor.n_rows, step)
        within = self._threads if len(starts) == 1 else 1

        def some(start: int) -> RoundedMatrix:
            rows = start, min(start + step, tensor.n_rows)
            try:
                found = rounded_rows(
                    self._model, tensor, rows, parse_type(kind), method, self._inputs, expected, within
                )
            except UnfitWeightsError as error:
                return RoundedMatrix(unfit=error.tally)
            return RoundedMatrix(bytes(found.blocks), found.bias_shift)

        with blas_on_one_thread(), ThreadPoolExecutor(self._threads) as pool:
            parts = list(pool.map(some, starts))
        unfit = [part.unfit for part in parts if part.unfit is not None]
        if unfit:
            return RoundedMatrix(unfit=Tally(*map(sum, zip(*unfit, strict=True))))
        shifts = [part.bias_shift for part in parts if part.bias_shift is not None]
        return RoundedMatrix(b"".join(part.blocks for part in parts), np.concatenate(shifts) if shifts else None)

    def close(self) -> None:
        """Let go of the factors."""
        self._inputs = None


@dataclass(frozen=True)
class RoundingParcel(Parcel):
    """What a bench on another machine is made of."""

    name: str
    singular: Mapping[str, str] | None

    def open(self, paths: Mapping[str, Path], threads: int) -> RoundingBench:
        """Return a bench on files that were sent, or found."""
        model = open_model(str(paths["model"] / self.name if self.name else paths["model"]))
        if "calibration" not in paths:
            return RoundingBench(model, None, threads)
        # That it fits the model was looked at when the plan was made.
        found = replace(read_calibration(paths["calibration"]), singular=self.singular, takes_other_model=True)
        return RoundingBench(model, found, threads)


@dataclass(frozen=True, eq=False)
class RoundingJob(Job):
    """The matrices of one plan."""

    plan: Plan

    def open(self) -> RoundingBench:
        """Return a bench on what is open here."""
        return RoundingBench(self.plan.model, self.plan.calibration, available_cpus())

    def parcel(self) -> RoundingParcel:
        """Return what makes a bench elsewhere."""
        source, name = source_of(self.plan.model)
        sources, calibration, singular = {"model": source}, self.plan.calibration, None
        if calibration is not None:
            if calibration.path != FORESEEN:  # else it is only planned with
                sources["calibration"] = Source.of(calibration.path)
            singular = None if calibration.singular is None else dict(calibration.singular)
        return RoundingParcel(sources, Needs(bench_bytes(self.plan.slow)), name, singular)


def units_of(matrices: Sequence[tuple[Assignment, int]]) -> Iterator[Unit]:
    """Yield a unit for each matrix, given with the number of its rows that are rounded at once; the longest first."""
    for a, step in sorted(matrices, key=lambda pair: -_cost(pair[0].tensor, pair[0].method)):
        yield Unit(a.tensor.name, (a.tensor.name, a.type.name, a.method, step), _cost(a.tensor, a.method))


def foresee_rounding(plan: Plan, outline: Outline) -> None:
    """Note what a plan's matrices take."""
    sent = sum(a.size_after for a in plan.slow)
    units = units_of([(a, a.tensor.n_rows) for a in plan.slow])
    outline.note("rounding matrices", RoundingJob(plan), [unit.cost for unit in units], sent)


def _cost(tensor: TensorRef, method: Method) -> float:
    factor = _FACTOR_S * tensor.n_columns**3 if method.needs == "second moments" else 0.0
    return _ROUNDING_S * tensor.n_weights + factor


def bench_bytes(assignments: Sequence[Assignment]) -> int:
    """Return the memory that a bench takes for the largest of some matrices."""
    weights = max((a.tensor.n_weights for a in assignments), default=0)
    columns = max((a.tensor.n_columns for a in assignments), default=0)
    return _BYTES_BESIDE + _BYTES_WEIGHT * weights + _BYTES_FACTOR * columns**2
