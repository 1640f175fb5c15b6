"""How far each tensor of a candidate is from the reference's, for the results' record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from whisq.compare import compare
from whisq.evaluation.model_files import ModelFile
from whisq.evaluation.results import TensorError
from whisq.formats import open_model
from whisq.records import RecordError, record
from whisq.work.known import Cache


def tensor_errors(reference: str | Path, candidate: str | Path) -> tuple[TensorError, ...]:
    """Return the error of every tensor that has more than one dimension, in the candidate's order.

    Empty when the two are models of different dimensions: there is nothing to compare weight by weight then.
    """
    with open_model(reference) as theirs, open_model(candidate) as ours:
        if theirs.dims != ours.dims:
            return ()
        names = [tensor.name for tensor in ours.tensors if len(tensor.shape) > 1 and tensor.name in theirs]
        found = {difference.name: difference for difference in compare(theirs, ours, names).tensors}
        return tuple(
            TensorError(
                name=name,
                stack=ours[name].stack,
                layer=ours[name].layer,
                role=ours[name].role,
                type=found[name].types[1].name,
                reference_type=found[name].types[0].name,
                n_weights=found[name].n_weights,
                size_bytes=found[name].sizes_bytes[1],
                signal=found[name].signal,
                noise=found[name].noise,
                n_not_finite=found[name].n_not_finite,
            )
            for name in names
        )


def known_tensor_errors(reference: ModelFile, file: ModelFile, cache_folder: Path | None) -> tuple[TensorError, ...]:
    """Return ``tensor_errors`` of two files, from the cache where they are there."""
    cache = Cache(cache_folder, "tensors", model=file.sha256, reference=reference.sha256, layout=_LAYOUT)
    kept = cache.get("errors")
    if kept is not None:
        try:
            return record(_Kept, kept).tensors
        except RecordError:
            pass  # damaged, or of another whisq: found again
    found = tensor_errors(reference.path, file.path)
    cache.put("errors", asdict(_Kept(found)))
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    tensors: tuple[TensorError, ...]


_LAYOUT = 1
"""Of what is cached of a tensor; counted up when its fields change."""
