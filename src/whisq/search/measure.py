"""Measure what each matrix costs in each type: quantize one, look at what the model says next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisq import __version__, kernels
from whisq.calibration import Calibration, Probes
from whisq.errors import CalibrationError
from whisq.methods import Method, Rounder, method_for
from whisq.model import Model, TensorRef
from whisq.provenance import source_sha256
from whisq.search.probing import Prober
from whisq.search.sensitivity import Sensitivity
from whisq.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[str, float, float], None]

N_MIXES = 12
"""Random mixes measured to see how well single harms add up."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure: the method of rounding, on how many of the calibration's probes, with which seed."""

    method: Method = "feedback"
    probes: int = 16
    seed: int = 0
    device: str = "cpu"


def measure(
    model: Model,
    calibration: Calibration,
    tensors: Sequence[TensorRef],
    types: Mapping[str, Sequence[TensorType]],
    *,
    settings: Settings | None = None,
    progress: Progress = lambda label, done, total: None,
) -> tuple[Sensitivity, Bench]:
    """Return the harm of every matrix in every type it may take, and the bench for measuring whole mixes.

    Raises ``CalibrationError`` for a calibration without probes.
    """
    chosen = settings or Settings()
    bench = Bench(model, calibration, chosen)
    total = sum(len(types[tensor.name]) for tensor in tensors)
    done, started = 0, time.perf_counter()
    harms: dict[str, dict[str, float]] = {}
    for tensor in tensors:
        harms[tensor.name] = {}
        for kind in types[tensor.name]:
            harms[tensor.name][kind.name] = bench.divergence({tensor.name: kind}) if kind.is_quantized else 0.0
            done += 1
            progress("measuring matrices", done, total)
    mixes = _mixes(bench, harms, types, chosen.seed, progress)
    provenance = {
        "whisq": __version__,
        "model_sha256": source_sha256(model),
        "calibration": calibration.path.name,
        "calibration_data_sha256": calibration.heard.get("data_sha256"),
        "method": chosen.method,
        "probes": len(bench.probes),
        "tokens": bench.prober.n_tokens,
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Sensitivity(harms, *_fit(mixes), tuple(mixes), provenance), bench


def _mixes(
    bench: Bench,
    harms: Mapping[str, Mapping[str, float]],
    types: Mapping[str, Sequence[TensorType]],
    seed: int,
    progress: Progress,
) -> list[tuple[float, float]]:
    import numpy as np

    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(N_MIXES):
        # Each mix leans to small or to large types, so that the mixes differ in size.
        lean = generator.uniform(0.3, 3)
        mix = {}
        for name in harms:
            blocks = sorted((t for t in types[name] if t.is_quantized), key=lambda t: t.bits_per_weight)
            mix[name] = blocks[min(len(blocks) - 1, int(len(blocks) * generator.uniform() ** lean))]
        predicted = sum(harms[name][kind.name] for name, kind in mix.items())
        pairs.append((predicted, bench.divergence(mix)))
        progress("measuring mixes", number + 1, N_MIXES)
    return pairs


def _fit(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return measured ÷ predicted (geometric mean), and the correlation of the logarithms."""
    import numpy as np

    logs = np.log(np.maximum(np.array(pairs), 1e-12))
    return float(np.exp((logs[:, 1] - logs[:, 0]).mean())), float(np.corrcoef(logs.T)[0, 1])


class Bench:
    """Measures mixes of types on a calibration's probes."""

    def __init__(self, model: Model, calibration: Calibration, settings: Settings) -> None:
        import numpy as np

        found = calibration.load_probes()
        if found is None or len(found) == 0:
            raise CalibrationError(
                f"{calibration.path}: holds no probes to measure on", hint="make it with `whisq calibrate`"
            )
        calibration.check_fits(model)
        picked = np.unique(np.linspace(0, len(found) - 1, min(settings.probes, len(found))).round().astype(int))
        self.probes = Probes(found.mels[picked], tuple(found.languages[index] for index in picked))
        self.prober = Prober(model, self.probes, settings.device)
        self._model, self._calibration, self._method = model, calibration, settings.method
        self._rounder = Rounder(calibration, most_kept=4)
        self._rounded: dict[tuple[str, str], dict[str, NDArray[np.float16]]] = {}

    def divergence(self, mix: Mapping[str, TensorType]) -> float:
        """Return the divergence in nats a token with these matrices in these types, all others as they are."""
        import numpy as np

        weights: dict[str, NDArray[np.float32]] = {}
        for name, kind in mix.items():
            if kind.is_quantized:
                weights |= {key: array.astype(np.float32) for key, array in self._quantized(name, kind).items()}
        return self.prober.divergence(weights)

    def _quantized(self, name: str, kind: TensorType) -> dict[str, NDArray[np.float16]]:
        """Return a matrix after rounding, and its bias where that takes up a shift; kept in f16 for mixes."""
        import numpy as np

        key = (name, kind.name)
        if key not in self._rounded:
            weights = self._model.array(name)
            method = method_for(name, kind, self._method, self._calibration).method
            blocks = self._rounder.round(name, weights, kind, method, threads=2)
            decoded = kernels.dequantize(blocks.data, kind, weights.shape)
            made = {name: decoded.astype(np.float16)}
            bias = name.removesuffix("weight") + "bias"
            if method == "feedback" and bias in self._model:
                shift = self._rounder.bias_shift(name, weights, decoded)
                if shift is not None:
                    made[bias] = (self._model.array(bias) + shift).astype(np.float16)
            self._rounded[key] = made
        return self._rounded[key]
