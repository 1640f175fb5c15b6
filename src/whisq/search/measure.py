"""Measure what each matrix costs in each type: quantize one, look at what the model says next.

The divergence of a small change grows with its square, so one measurement of a matrix serves all types: the others
follow by the ratio of their Hessian-weighted output errors. For models too large even for that, the gradient says how
much an error at each output matters (``PatchedWhisper.fisher``), and only the most harmful pairs are measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from whisq.calibration import Calibration
from whisq.errors import PlanError
from whisq.model import Model, TensorRef
from whisq.progress import Progress, no_progress
from whisq.quantization.method import Method
from whisq.quantization.rounding import FEEDBACK, parse_method
from whisq.search.meter import MixMeter
from whisq.search.prediction import (
    Harms,
    How,
    Types,
    combined,
    correlation,
    largest_errors,
    random_mixes,
    random_parts,
    scale_of,
    to_measure,
)
from whisq.search.sensitivity import Sensitivity
from whisq.types import TensorType
from whisq.version import __version__
from whisq.work import Executor, Outline

LARGEST_MEASURED = 100_000_000
"""Weights of the largest model of which every matrix is measured: base has 74 million, small 244."""
N_MIXES = {"all": 10, "one": 6, "few": 4}
"""Random mixes measured to see how well single harms add up."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to measure: the method of rounding, on how many of the calibration's probes, with which seed.

    ``how``: "all" measures every matrix in every type, "one" every matrix in its smallest type, "few" the most
    harmful pairs only; None is "one" for models up to base and "few" beyond. ``cache`` is where what was measured is
    kept as it comes, None for nowhere; ``executor`` who measures, None for this process.
    """

    method: Method | str = FEEDBACK
    probes: int = 8
    seed: int = 0
    device: str = "cpu"
    how: How | None = None
    cache: Path | None = None
    executor: Executor | None = None

    def how_for(self, model: Model) -> How:
        """Return what None means for a model."""
        return self.how or ("one" if model.n_weights <= LARGEST_MEASURED else "few")


def parse_how(text: str) -> How | None:
    """Return the way of measuring of that name, None for ``auto``; raises ``PlanError``."""
    for how in get_args(How):
        if text == how:
            return how  # type: ignore[no-any-return]  # get_args is untyped
    if text == "auto":
        return None
    raise PlanError(f"unknown way of measuring '{text}'", hint=f"use one of: auto {' '.join(get_args(How))}")


def measure(
    model: Model,
    calibration: Calibration,
    tensors: Sequence[TensorRef],
    types: Types,
    *,
    settings: SearchSettings | None = None,
    progress: Progress = no_progress,
) -> tuple[Sensitivity, MixMeter]:
    """Return the harm of every matrix in every type it may take, and the meter for measuring whole mixes.

    Raises ``CalibrationError`` for a calibration without probes.
    """
    chosen = settings or SearchSettings()
    how = chosen.how_for(model)
    started = time.perf_counter()
    meter, blocks = _meter_and_blocks(model, calibration, tensors, types, chosen)
    errors = meter.output_errors(blocks, progress) if how == "one" else meter.predictions(blocks, chosen.seed, progress)
    wanted = to_measure(how, errors, blocks, chosen.seed)
    found: Harms = {name: {} for name in blocks}
    measured = meter.divergences([{name: kind} for name, kind in wanted], "measuring matrices", progress)
    for (name, kind), harm in zip(wanted, measured, strict=True):
        found[name][kind.name] = harm
    harms, checks = combined(how, errors, found, blocks)
    if how == "one":
        drawn = random_parts(largest_errors(errors, blocks), N_MIXES[how], chosen.seed)
    else:
        drawn = random_mixes(blocks, harms, N_MIXES[how], chosen.seed)
    totals = [sum(harms[name][kind.name] for name, kind in mix.items()) for mix in drawn]
    mixes = list(zip(totals, meter.divergences(drawn, "measuring mixes", progress), strict=True))
    provenance = {
        "whisq": __version__,
        "model_sha256": model.sha256,
        "model_fingerprint": model.fingerprint,
        "calibration": calibration.path.name,
        "calibration_data_sha256": calibration.audio.get("data_sha256"),
        "method": parse_method(chosen.method).name,
        "how": how,
        "probes": len(meter.probes),
        "tokens": meter.n_tokens,
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - started, 1),
        **({"calibration_of_other_model": calibration.model_name} if calibration.is_of(model) is False else {}),
    }
    types_measured = {name: tuple(kinds) for name, kinds in found.items() if kinds}
    return Sensitivity(
        harms, scale_of(mixes), correlation(mixes), tuple(mixes), provenance, types_measured, tuple(checks)
    ), meter


def _meter_and_blocks(
    model: Model, calibration: Calibration, tensors: Sequence[TensorRef], types: Types, settings: SearchSettings
) -> tuple[MixMeter, dict[str, list[TensorType]]]:
    meter = MixMeter(
        model,
        calibration,
        settings.method,
        settings.probes,
        settings.device,
        keep=settings.how_for(model) != "few",
        cache=settings.cache,
        executor=settings.executor,
    )
    return meter, {t.name: [kind for kind in types[t.name] if kind.is_quantized] for t in tensors}


def foresee_measuring(
    model: Model,
    calibration: Calibration,
    tensors: Sequence[TensorRef],
    types: Types,
    outline: Outline,
    *,
    settings: SearchSettings | None = None,
) -> None:
    """Note what ``measure`` would do of what is not kept yet.

    Which matrices and mixes are measured follows from errors that are not known yet: others stand for them here.
    """
    chosen = settings or SearchSettings()
    how = chosen.how_for(model)
    meter, blocks = _meter_and_blocks(model, calibration, tensors, types, chosen)
    # All of one size, so that the first of each counts as the worst.
    equal = {name: {kind.name: 1.0 for kind in kinds} for name, kinds in blocks.items()}
    singles = [{name: kind} for name, kind in to_measure(how, equal, blocks, chosen.seed)]
    worst = largest_errors(equal, blocks)
    drawn = random_parts(worst, N_MIXES[how], chosen.seed)
    meter.foresee(blocks, [*singles, *drawn], outline, None if how == "one" else chosen.seed)
