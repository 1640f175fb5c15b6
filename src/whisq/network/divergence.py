"""How far one model's next-token distributions are from another's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from whisq.network.operations import Array, Operations

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOKENS = 4
"""Tokens whose distributions are compared at once: over Whisper's vocabulary 1.7 MB in float64, so that the cache holds
them."""


@dataclass(frozen=True, slots=True)
class Distributions:
    """A reference's next-token distributions, to compare several models with.

    ``logits`` float32 ``[tokens, vocabulary]``, ``probabilities`` float64 of that shape, ``log_sums`` float64
    ``[tokens]``: the logarithm of the sum of each token's exponentials.
    """

    logits: Array = field(repr=False)
    probabilities: Array = field(repr=False)
    log_sums: Array = field(repr=False)
    operations: Operations

    def divergences(self, logits: Array) -> NDArray[np.float64]:
        """Return the Kullback-Leibler divergence of another model's logits at each token, Σ p (log p - log q), in nats.

        Computed in float64; where rounding leaves a negative sum, it is 0. It is exactly 0 for equal logits.
        """
        found = [np.zeros(0)]
        for start in range(0, len(self.logits), _TOKENS):
            rows = slice(start, start + _TOKENS)
            other = self.operations.float64(logits[rows])
            apart = self.operations.float64(self.logits[rows]) - other
            # Σ p (log p - log q) = Σ p (logit - other logit) + the difference of their log-sums.
            mean = (self.probabilities[rows][:, None, :] @ apart[:, :, None])[:, 0, 0]
            each = mean + (self.operations.log_sum_exp(other) - self.log_sums[rows])
            found.append(np.maximum(self.operations.numpy(each), 0.0))
        return np.concatenate(found)


def distributions(logits: Array, operations: Operations) -> Distributions:
    """Return the next-token distributions of logits ``[tokens, vocabulary]``."""
    wide = operations.float64(logits)
    log_sums = operations.log_sum_exp(wide)
    return Distributions(logits, operations.exp(wide - log_sums[:, None]), log_sums, operations)


def divergences(expected: Array, logits: Array, operations: Operations) -> NDArray[np.float64]:
    """Return ``Distributions.divergences`` of one model's logits from the logits ``expected``."""
    return distributions(expected, operations).divergences(logits)
