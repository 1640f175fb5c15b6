"""Which harms are measured, how the others follow from these, and how well predicted and measured agree.

Pure: numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from whisq.types import TensorType

How = Literal["all", "one", "few"]
Types = Mapping[str, Sequence[TensorType]]
Harms = dict[str, dict[str, float]]

N_CHECKS = 12
"""Single harms measured beyond what the predictions need, to compare with them."""


def to_measure(how: How, errors: Harms, blocks: Types, seed: int) -> list[tuple[str, TensorType]]:
    """Return the matrices and types to measure, of which ``errors`` are predicted.

    "one" also measures ``N_CHECKS`` other types, "few" as many of the most harmful matrices of each stack and others.
    """
    if how == "all":
        return [(name, kind) for name, kinds in blocks.items() for kind in kinds]
    worst = largest_errors(errors, blocks)
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


def largest_errors(errors: Harms, blocks: Types) -> dict[str, TensorType]:
    """Return the type of every matrix in which it errs most."""
    return {name: max(kinds, key=lambda kind: errors[name][kind.name]) for name, kinds in blocks.items() if kinds}


def combined(how: How, errors: Harms, found: Harms, blocks: Types) -> tuple[Harms, list[tuple[float, float]]]:
    """Return the harms, measured where they were, and pairs of predicted and measured single harms."""
    pairs = [(errors[name][kind], harm) for name, kinds in found.items() for kind, harm in kinds.items()]
    if how == "few":
        scales = {
            stack: scale_of(
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


def random_parts(mix: Mapping[str, TensorType], count: int, seed: int) -> list[dict[str, TensorType]]:
    """Return mixes of some of a mix's matrices, from a quarter of them to all; the others stay as they are.

    What is measured one by one is all that they need: nothing is rounded for them.
    """
    generator = np.random.default_rng(seed)
    shares = np.linspace(0.25, 1, count)
    return [{name: kind for name, kind in mix.items() if generator.uniform() < share} for share in shares]


def scale_of(pairs: Sequence[tuple[float, float]]) -> float:
    """Return measured ÷ predicted, geometric mean; 1 without pairs."""
    logs = np.log(np.maximum(np.array(pairs).reshape(-1, 2), 1e-12))
    return float(np.exp((logs[:, 1] - logs[:, 0]).mean())) if len(pairs) else 1.0


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return that of the logarithms of predicted and measured; NaN where they do not differ."""
    logs = np.log(np.maximum(np.array(pairs).reshape(-1, 2), 1e-12))
    if len(pairs) < 2 or not np.ptp(logs, axis=0).all():
        return float("nan")
    return float(np.corrcoef(logs.T)[0, 1])
