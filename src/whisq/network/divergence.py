"""How far one model's next-token distributions are from another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisq.network.operations import Array, Operations

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOKENS = 16
"""Tokens whose distributions are compared at once: over Whisper's vocabulary 7 MB in float64."""


def divergences(expected: Array, logits: Array, operations: Operations) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence at each token, Σ p (log p - log q), in nats.

    ``expected`` are the reference's logits ``[tokens, vocabulary]``, ``logits`` the other model's; log-probabilities
    are logits, too. Computed in float64; where rounding leaves a negative sum, it is 0.
    """
    found = []
    for start in range(0, len(expected), _TOKENS):
        rows = slice(start, start + _TOKENS)
        truth = operations.log_softmax(expected[rows])
        each = (operations.exp(truth) * (truth - operations.log_softmax(logits[rows]))).sum(-1)
        found.append(np.maximum(operations.numpy(each), 0.0))
    return np.concatenate(found) if found else np.zeros(0)
