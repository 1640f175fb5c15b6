"""What the kernels, their definition and ggml are all asked for."""

import numpy as np

from whisq.types import TYPES

QUANTIZED = [kind for kind in TYPES.values() if kind.is_quantized]


def _edge_cases():
    g = np.random.default_rng(7)
    signs = np.where(g.random((8, 512)) < 0.5, 1, -1)
    return {
        "zeros": np.zeros((5, 256)),
        "negative zeros": -np.zeros((5, 256)),
        "zeros of both signs": np.where(g.random((9, 256)) < 0.5, 0.0, -0.0),
        "some zeros of both signs, the rest positive": np.where(
            g.random((9, 256)) < 0.5, g.choice([0.0, -0.0], (9, 256)), 1
        ),
        "ends equally far out": np.where(g.random((9, 256)) < 0.1, g.choice([1.0, -1.0], (9, 256)), 0.1),
        "denormals": g.standard_normal((9, 256)) * 1e-40,
        "tiny": g.standard_normal((9, 256)) * 1e-30,
        "below f16": g.standard_normal((9, 256)) * 1e-8,
        "constant": np.full((3, 256), 0.37),
        "negative constant": np.full((3, 256), -2.5),
        "f16's limits": signs * 65504.0,
        "one huge": np.where(g.random((8, 512)) < 0.005, 60000, g.standard_normal((8, 512))),
        "sparse": np.where(g.random((16, 512)) < 0.95, 0, g.standard_normal((16, 512))),
        "positive": np.abs(g.standard_normal((17, 512))),
        "integers": g.integers(-8, 8, (33, 512)),
        "beyond f16": g.standard_normal((9, 256)) * 1e6,
        "all magnitudes": g.standard_normal((33, 512)) * 10.0 ** g.integers(-12, 4, (33, 512)),
        "just below powers of two": np.nextafter(np.float32(2.0) ** g.integers(-16, 15, (33, 512)), np.float32(0)),
        "alternating": signs * np.linspace(0, 1, 512),
        "zero blocks among others": np.where(np.arange(512) // 32 % 2, 0, g.standard_normal((9, 512))),
    }


EDGES = {name: np.asarray(values, np.float32) for name, values in _edge_cases().items()}
"""Weights at the ends of what blocks can hold: where kernels, ggml and the definition would differ if anywhere."""


def importances(columns):
    """Return an importance for every column, of every kind that a kernel must take, by name."""
    g = np.random.default_rng(3)
    return {
        "none": None,
        "positive": (g.random(columns) ** 3).astype(np.float32),
        "some zero": np.where(g.random(columns) < 0.3, 0, g.random(columns)).astype(np.float32),
        "a block of zeros": np.where(np.arange(columns) // 32 % 3 == 0, 0, g.random(columns)).astype(np.float32),
        "all zero": np.zeros(columns, np.float32),
    }
