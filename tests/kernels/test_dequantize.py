"""Blocks back to numbers: equal to the gguf package's, on every instruction set, for any bytes."""

import gguf
import numpy as np
import pytest

from whisq import kernels
from whisq.types import TYPES

QUANTIZED = [kind for kind in TYPES.values() if kind.is_quantized]


@pytest.mark.parametrize("isa", kernels.available_isas())
@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
def test_equal_to_gguf(kind, isa):
    weights = np.random.default_rng(1).standard_normal((23, 512)).astype(np.float32)
    blocks = kernels.quantize(weights, kind)
    wanted = gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind.ggml_type))
    for threads in (1, 2, 7):
        assert np.array_equal(kernels.dequantize(blocks, kind, weights.shape, threads=threads, isa=isa), wanted)


@pytest.mark.parametrize("isa", kernels.available_isas())
@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
def test_any_bytes(kind, isa):
    blocks = np.random.default_rng(2).integers(0, 256, (64, 4 * kind.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind.ggml_type))
    got = kernels.dequantize(blocks, kind, (64, 4 * kind.block_size), isa=isa)
    assert np.array_equal(got, wanted, equal_nan=True)


@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
def test_the_error_is_within_the_types_step(kind):
    weights = np.random.default_rng(3).standard_normal((16, 512)).astype(np.float32)
    back = kernels.dequantize(kernels.quantize(weights, kind), kind, weights.shape)
    noise_db = 10 * np.log10((weights**2).sum() / ((weights - back) ** 2).sum())
    assert abs(noise_db - kind.precision_db) < 3
