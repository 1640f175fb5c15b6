"""Where a search's units are done: a model, a calibration's probes, and matrices rounded as a file would hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq import kernels
from whisq.calibration import Calibration, Probes, input_of, read_calibration
from whisq.calibration.inputs import is_taken_about_its_mean
from whisq.formats import open_model
from whisq.formats.sources import source_of
from whisq.kernels.threads import blas_on_one_thread
from whisq.model import Model
from whisq.network.devices import kind_of, operations_for
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.method import Method, Rounded, Weights
from whisq.quantization.rounding import exchanged, expected_by, parse_method, rounded
from whisq.search.probing import PatchedWhisper
from whisq.types import TensorType, parse_type
from whisq.work import Bench, Job, Needs, Parcel, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[np.float32]]

SAMPLED_ROWS = 64
"""Rows of a matrix of which the output error is computed: they are rounded one by one, and much alike. With 64 of them
tiny.en's recipes of ten sizes cost at most 0.4 % more than with all."""
THREADS = 2
MOST_KEPT = 300_000_000
"""Weights of the largest model whose roundings are kept: in all types they take seven bytes per weight."""
_BYTES, _BYTES_KEPT, _BYTES_PROBE, _BYTES_BESIDE = 9, 7, 5, 400_000_000
"""Memory of a bench: of a weight, of one with roundings kept, of a value that a probe's blocks see; and all else."""


class MixBench(Bench):
    """Measures mixes of types. With ``keep`` what was rounded once is kept, as blocks, up to ``MOST_KEPT``."""

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        method: Method,
        probes: Probes,
        device: str,
        *,
        keep: bool,
        threads: int | None = None,
    ) -> None:
        self.prober = PatchedWhisper(model, probes, operations_for(device, threads))
        self._method, self._threads = method, threads or THREADS
        self._model, self._calibration = model, calibration
        self._keep = keep and model.n_weights <= MOST_KEPT
        self._inputs = LayerInputs(calibration, most_kept=4)
        self._kept: dict[tuple[str, str], Rounded] = {}

    def do(self, argument: Any) -> Any:
        """Return what is asked for: ``("tokens",)``, ``("gradients", …)``, ``("errors", …)``, ``("mix", …)``."""
        what, *details = argument
        if what == "tokens":
            return self.prober.n_tokens
        if what == "gradients":
            return self.prober.squares(*details)
        if what == "errors":
            name, kinds, fisher = details
            if fisher is None:
                return [self.output_error(name, parse_type(kind)) for kind in kinds]
            return [self.predicted(name, parse_type(kind), fisher) for kind in kinds]
        return self.divergence({name: parse_type(kind) for name, kind in details[0].items()})

    def left(self, key: str) -> Any:
        """Return the rounding that the unit of a key, NAME=TYPE, has made, as bytes; None where it is not kept."""
        found = self._kept.get(_place(key))
        return None if found is None else (bytes(found.blocks), found.bias_shift)

    def take(self, key: str, left: Any) -> None:
        """Take a rounding of another bench."""
        if left is not None:
            blocks, shift = left
            self._kept[_place(key)] = Rounded(memoryview(blocks), None if shift is None else shift.copy())

    def has(self, key: str) -> bool:
        """Return whether a unit's rounding was made or taken here."""
        return not self._keep or _place(key) in self._kept

    def close(self) -> None:
        """Let go of the roundings."""
        self._kept.clear()

    def divergence(self, mix: Mapping[str, TensorType]) -> float:
        """Return the divergence in nats per token with these matrices in these types, all others as they are."""
        weights: Tensors = {}
        for name, kind in mix.items():
            weights |= self._exchanged(name, kind)
        return self.prober.divergence(weights)

    def output_error(self, name: str, kind: TensorType, matters: NDArray[np.float64] | None = None) -> float:
        """Return the mean error of a matrix's outputs in a type; ``matters`` are their weights, None for equal ones.

        The error of an output, a row of the matrix, is ΔW H ΔWᵀ with the calibration's second moments H; about the
        mean where a shift of the output goes into the bias or, of keys, changes no attention. An even sample of the
        rows is rounded, each as it would be if no output were weighed.
        """
        weights = self._model.array(name)
        step = max(1, len(weights) // SAMPLED_ROWS)
        rows = np.ascontiguousarray(weights[::step])
        spec = self._model[name].spec
        method = self._method.decide(spec, kind, self._calibration).method
        given = Weights.of(rows, expected_by(method, self._model, name))
        found = method.round(spec, given, kind, self._inputs.of_single_rows(), self._threads)
        change = rows - kernels.dequantize(found.blocks, kind, rows.shape)
        # On one thread: how BLAS shares a product out would be seen in the last digits.
        with blas_on_one_thread():
            each = self._errors(name, change, shifts_bias=method.shifts_bias)
            if matters is None or (total := matters[::step].sum()) == 0:
                return float(each.mean())
            return float(each @ matters[::step] / total)

    def _errors(self, name: str, change: NDArray[np.float32], *, shifts_bias: bool) -> NDArray[np.float64]:
        """Return the error of each output of a matrix whose rows are changed by ``change``."""
        source = input_of(name)
        if source is None or source not in self._calibration.counts:
            each: NDArray[np.float64] = np.square(change).sum(1, dtype=np.float64)
            return each
        moments = self._inputs.moments(name)
        if moments.second_moment is None:
            each = np.square(change) @ moments.squares.astype(np.float64)
        else:
            each = np.einsum("rc,rc->r", change @ moments.second_moment, change, dtype=np.float64)
        if shifts_bias and is_taken_about_its_mean(source) and moments.mean is not None:
            each = np.maximum(each - np.square(change @ moments.mean, dtype=np.float64), 0)
        return each

    def predicted(self, name: str, kind: TensorType, fisher: NDArray[np.float64]) -> float:
        """Return the divergence that a matrix makes in a type, if errors of its outputs matter as ``fisher`` says."""
        return 0.5 * float(fisher.sum()) * self.output_error(name, kind, fisher)

    def _exchanged(self, name: str, kind: TensorType) -> Tensors:
        """Return a matrix after rounding, and its bias where that takes up a shift."""
        tensor = self._model[name]
        found = self._kept.get((name, kind.name))
        if found is None:
            method = self._method.decide(tensor.spec, kind, self._calibration).method
            found = rounded(self._model, tensor, kind, method, self._inputs, self._threads)
            if self._keep:
                self._kept[name, kind.name] = found
        return exchanged(self._model, tensor, kind, found)


def _place(key: str) -> tuple[str, str]:
    name, _, kind = key.rpartition("=")
    return name, kind


@dataclass(frozen=True)
class MixParcel(Parcel):
    """What a bench on another machine is made of."""

    name: str
    method: str
    probes: Probes
    device: str
    keep: bool
    singular: Mapping[str, str] | None

    def open(self, paths: Mapping[str, Path], threads: int) -> MixBench:
        """Return a bench on files that were sent, or found."""
        model = open_model(str(paths["model"] / self.name if self.name else paths["model"]))
        # That it fits the model was looked at before the work was shared out.
        calibration = replace(read_calibration(paths["calibration"]), singular=self.singular, takes_other_model=True)
        method = parse_method(self.method)
        return MixBench(model, calibration, method, self.probes, self.device, keep=self.keep, threads=threads)


@dataclass(frozen=True, eq=False)
class MixJob(Job):
    """A search's units: of one model, calibration and method."""

    model: Model
    calibration: Calibration
    method: Method
    probes: Probes
    device: str
    keep: bool

    def open(self) -> MixBench:
        """Return a bench on what is open here."""
        return MixBench(self.model, self.calibration, self.method, self.probes, self.device, keep=self.keep)

    def parcel(self) -> MixParcel:
        """Return what makes a bench elsewhere."""
        source, name = source_of(self.model)
        sources = {"model": source, "calibration": Source.of(self.calibration.path)}
        singular = None if self.calibration.singular is None else dict(self.calibration.singular)
        keep = self.keep and self.model.n_weights <= MOST_KEPT
        needs = Needs(bench_bytes(self.model, len(self.probes), keep), gpus=0 if self.device == "cpu" else 1)
        return MixParcel(sources, needs, name, self.method.name, self.probes, kind_of(self.device), keep, singular)


def bench_bytes(model: Model, n_probes: int, keep: bool) -> int:
    """Return the memory that a bench takes: weights in float32 twice, what the probes' blocks saw, and roundings."""
    dims = model.dims
    per_probe = dims.n_audio_layer * dims.n_audio_state * 400 + dims.n_text_layer * dims.n_text_state * 48
    per_weight = _BYTES + (_BYTES_KEPT if keep else 0)
    return _BYTES_BESIDE + per_weight * model.n_weights + _BYTES_PROBE * n_probes * per_probe


def picked_probes(found: Probes, most: int) -> Probes:
    """Return so many probes at most, evenly spaced."""
    picked = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return Probes(found.mels[picked], tuple(found.languages[index] for index in picked))
