"""What a search asks for, figure by figure: from what is kept of an earlier run, else done as units of work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.calibration import Calibration
from whisq.errors import CalibrationError
from whisq.hashing import file_sha256
from whisq.model import Model
from whisq.progress import Progress, no_progress
from whisq.quantization.method import Method
from whisq.quantization.rounding import parse_method
from whisq.search.bench import MixJob, picked_probes
from whisq.search.probing import mean_of
from whisq.types import TensorType
from whisq.version import __version__
from whisq.work import Executor, Local, Outline, Unit
from whisq.work.known import Cache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mix = Mapping[str, TensorType]
Blocks = Mapping[str, Sequence[TensorType]]
Figures = dict[str, dict[str, float]]
SAMPLES = 2
"""Ways back for each probe."""
_ROUNDING_S, _FORWARD_S, _BACK_S = 6e-7, 1e-8, 2.5e-8
"""Seconds of a core for each weight: rounded, run over a probe, and gone back through: on tiny.en with AVX2, the
last by the multiplications it has."""
_FACTOR_S, _SAMPLE_S = 3e-10, 1e-5
"""Seconds of a core for a factor, by columns cubed, and for a sample's rounding, by columns."""


class MixMeter:
    """Measures mixes of types. With ``keep`` what was rounded once is kept, as far as the model is not too large.

    What was measured is kept in the folder ``cache`` as it comes, so that an interrupted run resumes where it stopped;
    ``executor`` does what is not there. Raises ``CalibrationError`` for a calibration without probes, and for one of
    another model.
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
        executor: Executor | None = None,
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
        self.probes = picked_probes(found, probes)
        self.executor = executor or Local()
        self._model, self._keep = model, keep
        self._job = MixJob(model, calibration, self._method, self.probes, device, keep)
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

    @property
    def n_tokens(self) -> int:
        """Tokens that are measured on."""
        return int(self._figures([Unit("tokens", ("tokens",))], "", no_progress)["tokens"])

    def divergence(self, mix: Mix) -> float:
        """Return the divergence in nats per token with these matrices in these types, all others as they are."""
        return self.divergences([mix])[0]

    def divergences(self, mixes: Sequence[Mix], stage: str = "", progress: Progress = no_progress) -> list[float]:
        """Return the divergence of each mix, in their order."""
        units = [self._unit_of(mix) for mix in mixes]
        found = self._figures([unit for unit in units if unit is not None], stage, progress)
        return [0.0 if unit is None else found[unit.key] for unit in units]

    def output_errors(self, blocks: Blocks, progress: Progress) -> Figures:
        """Return the mean error of every matrix's outputs in every type."""
        return self._errors(blocks, "output error ", None, progress)

    def predictions(self, blocks: Blocks, seed: int, progress: Progress) -> Figures:
        """Return what the gradient and the output errors say of every matrix and type."""
        return self._errors(blocks, f"predicted {seed} ", seed, progress)

    def foresee(self, blocks: Blocks, mixes: Sequence[Mix], outline: Outline, seed: int | None) -> None:
        """Note what is not kept yet of the errors of matrices in types, by gradients with a seed, and of mixes."""
        prefix = "output error " if seed is None else f"predicted {seed} "
        missing = self._missing(blocks, prefix)
        tokens = [] if self._known.get("tokens") else [1.0]
        gradients = [self._gradient_cost] * len(self.probes) if missing and seed is not None else []
        errors = [unit.cost for unit in self._error_units(missing, {})]
        units = {unit.key: unit for unit in map(self._unit_of, mixes) if unit is not None}
        costs = [unit.cost for unit in units.values() if self._known.get(unit.key) is None]
        stages = {"computing gradients": gradients, "rounding": errors, "measuring": [*tokens, *costs]}
        for name, some in stages.items():
            outline.note(name, self._job, some)

    def _missing(self, blocks: Blocks, prefix: str) -> dict[str, list[str]]:
        found = {}
        for name, kinds in blocks.items():
            wanted = [kind.name for kind in kinds if self._known.get(f"{prefix}{name}={kind.name}") is None]
            if wanted:
                found[name] = wanted
        return found

    @property
    def _gradient_cost(self) -> float:
        return (_FORWARD_S + SAMPLES * _BACK_S) * self._model.n_weights

    def _errors(self, blocks: Blocks, prefix: str, seed: int | None, progress: Progress) -> Figures:
        """Return figures of every matrix and type by their keys; with a seed rows count as the gradient says."""
        missing = self._missing(blocks, prefix)
        # Only for what an earlier run has not kept.
        fisher = self._fisher(list(blocks), seed, progress) if missing and seed is not None else {}
        total = sum(map(len, blocks.values()))
        done = total - sum(map(len, missing.values()))
        for unit, values in self._done(self._error_units(missing, fisher)):
            _, name, some, _ = unit.argument
            for kind, value in zip(some, values, strict=True):
                self._known.put(f"{prefix}{name}={kind}", {"value": value})
            done += len(some)
            progress("rounding", done, total)
        return {
            name: {kind.name: self._kept(f"{prefix}{name}={kind.name}") for kind in kinds}
            for name, kinds in blocks.items()
        }

    def _kept(self, key: str) -> float:
        found = self._known.get(key)
        if found is None:
            raise ValueError(f"{key}: not measured")
        return float(found["value"])

    def _fisher(self, names: list[str], seed: int, progress: Progress) -> dict[str, NDArray[np.float64]]:
        n_probes, cost = len(self.probes), self._gradient_cost
        progress("computing gradients", 0, n_probes)
        passes: dict[int, list[dict[str, Any]]] = {}
        units = (Unit(f"gradients {n}", ("gradients", names, n, SAMPLES, seed), cost) for n in range(n_probes))
        for unit, value in self._done(units):
            passes[unit.argument[2]] = value
            progress("computing gradients", len(passes), n_probes)
        ordered = [one for number in range(n_probes) for one in passes[number]]
        return mean_of(ordered, SAMPLES * self.n_tokens)

    def _error_units(
        self, missing: Mapping[str, Sequence[str]], fisher: Mapping[str, NDArray[np.float64]]
    ) -> list[Unit]:
        units = []
        for name, kinds in missing.items():
            cost = _FACTOR_S * self._model[name].n_columns ** 3 + _SAMPLE_S * self._model[name].n_columns * len(kinds)
            argument = ("errors", name, tuple(kinds), fisher.get(name))
            units.append(Unit(f"errors of {name} in {','.join(kinds)}", argument, cost))
        # The longest first: what is begun last should not be what takes longest. Those of one size stay in their
        # order, in which matrices with the same input follow each other.
        return sorted(units, key=lambda unit: -unit.cost)

    def _unit_of(self, mix: Mix) -> Unit | None:
        """Return what measures a mix, None where nothing in it is quantized.

        A single matrix leaves its rounding to the mixes that it is in.
        """
        quantized = {name: kind.name for name, kind in mix.items() if kind.is_quantized}
        if not quantized:
            return None
        singles = [f"{name}={kind}" for name, kind in sorted(quantized.items())]
        told = ",".join(singles)
        cost = _FORWARD_S * self._model.n_weights * len(self.probes)
        if len(singles) == 1:
            cost += _ROUNDING_S * self._model[next(iter(quantized))].n_weights
            return Unit(told, ("mix", quantized), cost, leaves=self._keep)
        return Unit(hashlib.sha256(told.encode()).hexdigest(), ("mix", quantized), cost, uses=tuple(singles))

    def _figures(self, units: Sequence[Unit], stage: str, progress: Progress) -> dict[str, float]:
        """Return figures by key, kept ones as they are; others are measured and kept."""
        missing = {unit.key: unit for unit in units if self._known.get(unit.key) is None}
        total = len({unit.key for unit in units})
        done = total - len(missing)
        for unit, value in self._done(missing.values()):
            self._known.put(unit.key, {"value": value})
            done += 1
            progress(stage, done, total)
        if not missing and stage:
            progress(stage, total, total)
        return {unit.key: self._kept(unit.key) for unit in units}

    def _done(self, units: Iterable[Unit]) -> Iterable[tuple[Unit, Any]]:
        for done in self.executor.run(self._job, units):
            yield done.unit, done.value
