"""A calibration's probes, and matrices rounded as a file would hold them: what mixes are measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisq import kernels
from whisq.calibration import Calibration, Probes, input_of
from whisq.calibration.inputs import is_taken_about_its_mean
from whisq.errors import CalibrationError
from whisq.evaluation.cache import Cache
from whisq.hashing import file_sha256
from whisq.model import Model
from whisq.network.devices import operations_for
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.method import Method, Rounded, Weights
from whisq.quantization.rounding import exchanged, parse_method, rounded
from whisq.search.probing import PatchedWhisper
from whisq.types import TensorType
from whisq.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[np.float32]]

SAMPLED_ROWS = 64
"""Rows of a matrix of which the output error is computed: they are rounded one by one, and much alike. With 64 of them
tiny.en's recipes of ten sizes cost at most 0.4 % more than with all."""
THREADS = 2
MOST_KEPT = 300_000_000
"""Weights of the largest model whose roundings are kept: in all types they take seven bytes per weight."""


class MixMeter:
    """Measures mixes of types. With ``keep`` what was rounded once is kept, as blocks, up to ``MOST_KEPT``.

    What was measured is kept in the folder ``cache`` as it comes, so that an interrupted run resumes where it stopped.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        method: Method | str,
        probes: int,
        device: str,
        *,
        keep: bool,
        cache: Path | None = None,
    ) -> None:
        self._method = parse_method(method)
        # Said before minutes of measuring.
        missing = self._method.what_is_missing(calibration)
        if missing is not None:
            raise missing
        found = calibration.load_probes()
        if found is None or len(found) == 0:
            raise CalibrationError(
                f"{calibration.path}: holds no probes to measure on", hint="make it with `whisq calibrate`"
            )
        calibration.check_fits(model)
        calibration.check_weights(model)
        picked = np.unique(np.linspace(0, len(found) - 1, min(probes, len(found))).round().astype(int))
        self.probes = Probes(found.mels[picked], tuple(found.languages[index] for index in picked))
        self.prober = PatchedWhisper(model, self.probes, operations_for(device))
        self._model, self._calibration = model, calibration
        self._keep = keep and model.n_weights <= MOST_KEPT
        self._inputs = LayerInputs(calibration, most_kept=4)
        self._kept: dict[tuple[str, str], Rounded] = {}
        self._known = Cache(
            cache,
            "sensitivities",
            whisq=__version__,
            model=model.sha256 if cache else "",
            calibration=file_sha256(calibration.path) if cache else "",
            method=self._method.name,
            probes=len(self.probes),
            device=device,
        )

    def known(self, key: str, measure: Callable[[], float]) -> float:
        """Return a figure that was kept under a key, or measure and keep it."""
        found = self._known.get(key)
        if found is None:
            found = {"value": measure()}
            self._known.put(key, found)
        return float(found["value"])

    def divergence(self, mix: Mapping[str, TensorType]) -> float:
        """Return the divergence in nats per token with these matrices in these types, all others as they are."""
        quantized = {name: kind for name, kind in mix.items() if kind.is_quantized}
        if not quantized:
            return 0.0
        told = ",".join(f"{name}={kind.name}" for name, kind in sorted(quantized.items()))
        key = told if len(quantized) == 1 else hashlib.sha256(told.encode()).hexdigest()
        return self.known(key, lambda: self._divergence(quantized))

    def _divergence(self, mix: Mapping[str, TensorType]) -> float:
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
        found = method.round(spec, Weights.of(rows), kind, self._inputs.of_single_rows(), THREADS)
        change = rows - kernels.dequantize(found.blocks, kind, rows.shape)
        source = input_of(name)
        if source is None or source not in self._calibration.counts:
            each = np.square(change).sum(1, dtype=np.float64)
        else:
            moments = self._inputs.moments(name)
            if moments.second_moment is None:
                each = np.square(change) @ moments.squares.astype(np.float64)
            else:
                each = np.einsum("rc,rc->r", change @ moments.second_moment, change, dtype=np.float64)
            if method.shifts_bias and is_taken_about_its_mean(source) and moments.mean is not None:
                each = np.maximum(each - np.square(change @ moments.mean, dtype=np.float64), 0)
        if matters is None or (total := matters[::step].sum()) == 0:
            return float(each.mean())
        return float(each @ matters[::step] / total)

    def predicted(self, name: str, kind: TensorType, fisher: NDArray[np.float64]) -> float:
        """Return the divergence that a matrix makes in a type, if errors of its outputs matter as ``fisher`` says."""
        return 0.5 * float(fisher.sum()) * self.output_error(name, kind, fisher)

    def _exchanged(self, name: str, kind: TensorType) -> Tensors:
        """Return a matrix after rounding, and its bias where that takes up a shift."""
        tensor = self._model[name]
        found = self._kept.get((name, kind.name))
        if found is None:
            method = self._method.decide(tensor.spec, kind, self._calibration).method
            found = rounded(self._model, tensor, kind, method, self._inputs, THREADS)
            if self._keep:
                self._kept[name, kind.name] = found
        return exchanged(self._model, tensor, kind, found)
