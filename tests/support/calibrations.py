"""Calibrations of models that were never run: moments of random inputs."""

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np

from tests.support.models import WIDE
from whisq.calibration import Calibration, Moments, inputs_of, read_calibration, write_calibration
from whisq.whisper import Dimensions


def moments_of(width: int, seed: int, n_rows: int = 500, idle: slice | None = None) -> Moments:
    x = np.random.default_rng(seed).normal(0.3, 1, size=(n_rows, width)).astype(np.float32)
    if idle is not None:
        x[:, idle] = 0
    second = (x.T @ x / n_rows).astype(np.float32)
    second = np.triu(second) + np.triu(second, 1).T
    return Moments(n_rows, np.diag(second).copy(), x.mean(0), second)


def write(path: Path, of=WIDE, leave_out=(), idle=(), seed: int = 0, **audio):
    widths = {name: width for name, width in inputs_of(of).items() if name not in leave_out}
    made = {
        name: moments_of(width, seed + i, idle=slice(None) if name in idle else None)
        for i, (name, width) in enumerate(widths.items())
    }
    listed = [(name, width, 500) for name, width in widths.items()]
    write_calibration(path, {"data": ["clips"], "model_sha256": "x", **audio}, listed, made.__getitem__, None)
    return made


MULTILINGUAL = replace(WIDE, n_vocab=51865)


def languages_heard(path: Path, dims: Dimensions, **seconds: float) -> Calibration:
    """Write a calibration of so many seconds in each language, and return it as it is read."""
    write(path, WIDE, dims=list(astuple(dims)), languages=seconds, seconds=sum(seconds.values()))
    return read_calibration(path)
