"""Measure what each matrix costs in each type: quantize one, look at what the model says next.

The divergence of a small change grows with its square, so one measurement of a matrix serves all types: the others
follow by the ratio of their Hessian-weighted output errors. For models too large even for that, the gradient says how
much an error at each output matters (``PatchedWhisper.fisher``), and only the most harmful pairs are measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from whisq.calibration import Calibration
from whisq.errors import PlanError
from whisq.hashing import source_sha256
from whisq.model import Model, TensorRef
from whisq.progress import Progress, no_progress
from whisq.quantization.rounding import Method
from whisq.search.bench import Bench
from whisq.search.sensitivity import Sensitivity
from whisq.types import TensorType
from whisq.version import __version__

How = Literal["all", "one", "few"]
Types = Mapping[str, Sequence[TensorType]]
Harms = dict[str, dict[str, float]]

LARGEST_MEASURED = 100_000_000
"""Weights of the largest model of which every matrix is measured: base has 74 million, small 244."""
N_MIXES = {"all": 10, "one": 10, "few": 4}
"""Random mixes measured to see how well single harms add up."""
N_CHECKS = 12


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure: the method of rounding, on how many of the calibration's probes, with which seed.

    ``how``: "all" measures every matrix in every type, "one" every matrix in its smallest type, "few" the most
    harmful pairs only; None is "one" for models up to base and "few" beyond.
    """

    method: Method = "feedback"
    probes: int = 8
    seed: int = 0
    device: str = "cpu"
    how: How | None = None

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
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> tuple[Sensitivity, Bench]:
    """Return the harm of every matrix in every type it may take, and the bench for measuring whole mixes.

    Raises ``CalibrationError`` for a calibration without probes.
    """
    chosen = settings or Settings()
    how = chosen.how_for(model)
    started = time.perf_counter()
    bench = Bench(model, calibration, chosen.method, chosen.probes, chosen.device, keep=how != "few")
    blocks = {t.name: [kind for kind in types[t.name] if kind.is_quantized] for t in tensors}
    errors = _predicted(bench, blocks, chosen.seed, progress)
    wanted = _to_measure(how, errors, blocks, chosen.seed)
    found: Harms = {name: {} for name in blocks}
    for number, (name, kind) in enumerate(wanted):
        found[name][kind.name] = bench.divergence({name: kind})
        progress("measuring matrices", number + 1, len(wanted))
    harms, checks = _combined(how, errors, found, blocks)
    mixes = []
    for number, mix in enumerate(random_mixes(blocks, harms, N_MIXES[how], chosen.seed)):
        mixes.append((sum(harms[name][kind.name] for name, kind in mix.items()), bench.divergence(mix)))
        progress("measuring mixes", number + 1, N_MIXES[how])
    provenance = {
        "whisq": __version__,
        "model_sha256": source_sha256(model),
        "calibration": calibration.path.name,
        "calibration_data_sha256": calibration.heard.get("data_sha256"),
        "method": chosen.method,
        "how": how,
        "probes": len(bench.probes),
        "tokens": bench.prober.n_tokens,
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    measured = {name: tuple(kinds) for name, kinds in found.items() if kinds}
    return Sensitivity(harms, *_fit(mixes), tuple(mixes), provenance, measured, tuple(checks)), bench


def _predicted(bench: Bench, blocks: Types, seed: int, progress: Progress) -> Harms:
    """Return what the gradient and the output errors say of every matrix and type."""
    progress("hearing the probes", 0, 1)
    fisher = bench.prober.fisher(list(blocks), seed=seed)
    progress("hearing the probes", 1, 1)
    harms: Harms = {}
    for number, (name, kinds) in enumerate(blocks.items()):
        harms[name] = {kind.name: bench.predicted(name, kind, fisher[name]) for kind in kinds}
        progress("rounding", number + 1, len(blocks))
    return harms


def _to_measure(how: How, errors: Harms, blocks: Types, seed: int) -> list[tuple[str, TensorType]]:
    if how == "all":
        return [(name, kind) for name, kinds in blocks.items() for kind in kinds]
    worst = {name: max(kinds, key=lambda kind: errors[name][kind.name]) for name, kinds in blocks.items() if kinds}
    if how == "one":
        rest = [(name, kind) for name, kinds in blocks.items() for kind in kinds if kind is not worst[name]]
        picked = np.random.default_rng(seed).permutation(len(rest))[:N_CHECKS]
        return sorted(worst.items()) + [rest[index] for index in sorted(picked)]
    # The most harmful of each stack, and as many spread over all others.
    order = sorted(worst, key=lambda name: -errors[name][worst[name].name])
    top = [n for stack in ("encoder", "decoder") for n in [m for m in order if m.startswith(stack)][: N_CHECKS // 3]]
    others = [name for name in order if name not in top]
    spread = (
        [others[i] for i in np.unique(np.linspace(0, len(others) - 1, N_CHECKS // 3).astype(int))] if others else []
    )
    return [(name, worst[name]) for name in (*top, *spread)]


def _combined(how: How, errors: Harms, found: Harms, blocks: Types) -> tuple[Harms, list[tuple[float, float]]]:
    """Return the harms, measured where they were, and pairs of predicted and measured single harms."""
    pairs = [(errors[name][kind], harm) for name, kinds in found.items() for kind, harm in kinds.items()]
    if how == "few":
        scales = {
            stack: _scale(
                [(errors[n][k], h) for n, kinds in found.items() if n.startswith(stack) for k, h in kinds.items()]
            )
            for stack in ("encoder", "decoder")
        }
        harms = {n: {k: scales[n.partition(".")[0]] * e for k, e in kinds.items()} for n, kinds in errors.items()}
    elif how == "one":
        harms = {}
        pairs = []
        for name, kinds in errors.items():
            anchor = max(kinds, key=lambda kind: kinds[kind], default="")
            ratio = found[name][anchor] / (kinds[anchor] or 1.0) if anchor else 0.0
            harms[name] = {kind: ratio * error for kind, error in kinds.items()}
            pairs += [(harms[name][kind], harm) for kind, harm in found[name].items() if kind != anchor]
    else:
        harms = {name: {} for name in errors}
    for name, kinds in found.items():
        harms[name].update(kinds)
    for name in blocks:
        harms[name]["f16"] = 0.0
    return harms, pairs


def random_mixes(blocks: Types, harms: Harms, count: int, seed: int) -> list[dict[str, TensorType]]:
    """Return mixes of types, each leaning to small or to large ones, so that they differ in size.

    Of types of one size only that with the least harm takes part.
    """
    generator = np.random.default_rng(seed)
    mixes = []
    for _ in range(count):
        lean = generator.uniform(0.3, 3)
        mix = {}
        for name, kinds in blocks.items():
            best: dict[float, TensorType] = {}
            for kind in sorted(kinds, key=lambda kind: -harms[name][kind.name]):
                best[kind.bits_per_weight] = kind
            options = [best[bits] for bits in sorted(best)]
            if options:
                mix[name] = options[min(len(options) - 1, int(len(options) * generator.uniform() ** lean))]
        mixes.append(mix)
    return mixes


def _scale(pairs: Sequence[tuple[float, float]]) -> float:
    """Return measured ÷ predicted, geometric mean; 1 without pairs."""
    logs = np.log(np.maximum(np.array(pairs).reshape(-1, 2), 1e-12))
    return float(np.exp((logs[:, 1] - logs[:, 0]).mean())) if len(pairs) else 1.0


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return that of the logarithms of predicted and measured; NaN where they do not differ."""
    logs = np.log(np.maximum(np.array(pairs).reshape(-1, 2), 1e-12))
    if len(pairs) < 2 or not np.ptp(logs, axis=0).all():
        return float("nan")
    return float(np.corrcoef(logs.T)[0, 1])


def _fit(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return _scale(pairs), correlation(pairs)
