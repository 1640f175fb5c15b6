"""Calibrations of models that were never run: moments of random inputs."""

from collections.abc import Collection
from dataclasses import astuple, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.models import WIDE
from whisq.calibration import Calibration, Moments, inputs_of, read_calibration, write_calibration
from whisq.whisper import Dimensions


@lru_cache(maxsize=64)
def _moments_of(width: int, seed: int, n_rows: int, idle: tuple[int | None, int | None] | None) -> Moments:
    x = np.random.default_rng(seed).normal(0.3, 1, size=(n_rows, width)).astype(np.float32)
    if idle is not None:
        x[:, slice(*idle)] = 0
    second = (x.T @ x / n_rows).astype(np.float32)
    second = np.triu(second) + np.triu(second, 1).T
    made = Moments(n_rows, np.diag(second).copy(), x.mean(0), second)
    for array in (made.squares, made.mean, made.second_moment):
        array.setflags(write=False)
    return made


def moments_of(width: int, seed: int, n_rows: int = 500, idle: slice | None = None) -> Moments:
    """Return the moments of random inputs, of which the columns ``idle`` are zero; not to be written to."""
    return _moments_of(width, seed, n_rows, None if idle is None else (idle.start, idle.stop))


_written: dict[str, bytes] = {}


def write(
    path: Path,
    of: Dimensions = WIDE,
    leave_out: Collection[str] = (),
    idle: Collection[str] = (),
    seed: int = 0,
    **audio: Any,
) -> dict[str, Moments]:
    """Write a calibration of random inputs, and return their moments by input.

    ``leave_out`` are inputs without moments, ``idle`` those that are all zero; ``audio`` goes into its document. What
    was written once is copied: checking the second moments takes most of a second.
    """
    widths = {name: width for name, width in inputs_of(of).items() if name not in leave_out}
    made = {
        name: moments_of(width, seed + i, idle=slice(None) if name in idle else None)
        for i, (name, width) in enumerate(widths.items())
    }
    key = repr((of, sorted(leave_out), sorted(idle), seed, audio))
    if key not in _written:
        listed = [(name, width, 500) for name, width in widths.items()]
        write_calibration(path, {"data": ["clips"], "model_sha256": "x", **audio}, listed, made.__getitem__, None)
        _written[key] = path.read_bytes()
    path.write_bytes(_written[key])
    return made


MULTILINGUAL = replace(WIDE, n_vocab=51865)


def languages_heard(path: Path, dims: Dimensions, **seconds: float) -> Calibration:
    """Write a calibration of so many seconds in each language, and return it as it is read."""
    write(path, WIDE, dims=list(astuple(dims)), languages=seconds, seconds=sum(seconds.values()))
    return read_calibration(path)
