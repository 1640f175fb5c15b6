"""How far each tensor of a candidate is from the reference's, read in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whisq import kernels
from whisq.evaluation.results import TensorError
from whisq.formats import open_model
from whisq.model import Model, TensorRef

_PIECE_WEIGHTS = 1 << 22


def tensor_errors(reference: str | Path, candidate: str | Path) -> tuple[TensorError, ...]:
    """Return the error of every tensor that has more than one dimension, in the candidate's order.

    Empty when the two are models of different dimensions: there is nothing to compare weight by weight then.
    """
    with open_model(reference) as theirs, open_model(candidate) as ours:
        if theirs.dims != ours.dims:
            return ()
        return tuple(
            _error(theirs, ours, tensor) for tensor in ours.tensors if len(tensor.shape) > 1 and tensor.name in theirs
        )


def _error(theirs: Model, ours: Model, tensor: TensorRef) -> TensorError:
    original = theirs[tensor.name]
    signal = noise = 0.0
    step = max(1, _PIECE_WEIGHTS // tensor.n_columns)
    for start in range(0, tensor.n_rows, step):
        stop = min(start + step, tensor.n_rows)
        shape = (stop - start, tensor.n_columns)
        true = kernels.dequantize(theirs.rows(original, start, stop), original.type, shape).astype(np.float64)
        stored = kernels.dequantize(ours.rows(tensor, start, stop), tensor.type, shape)
        signal += float(np.square(true).sum())
        noise += float(np.square(true - stored).sum())
    theirs.release(original)
    ours.release(tensor)
    return TensorError(
        name=tensor.name,
        stack=tensor.stack,
        layer=tensor.layer,
        role=tensor.role,
        type=tensor.type.name,
        reference_type=original.type.name,
        n_weights=tensor.n_weights,
        size_bytes=tensor.size_bytes,
        signal=signal,
        noise=noise,
    )
