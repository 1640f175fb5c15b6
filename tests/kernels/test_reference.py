"""The numpy definition equals ggml, and so the kernels equal it: three independent witnesses."""

import numpy as np
import pytest

from tests.support import oracle
from tests.support.edge_cases import EDGES, QUANTIZED, importances
from whisq import kernels
from whisq.kernels import reference


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
def test_reference_equals_ggml_and_the_kernels(kind, name):
    weights = EDGES[name]
    for label in ("none", "positive", "some zero"):
        importance = importances(weights.shape[1])[label]
        wanted = reference.quantize(weights, kind, importance)
        assert np.array_equal(wanted, oracle.quantize(weights, kind, importance)), label
        assert np.array_equal(wanted, kernels.quantize(weights, kind, importance=importance)), label


def test_a_block_worked_by_hand():
    # The largest magnitude is -8 (first come), so the scale is -8 / -8 = 1 and each integer is x + 8.
    weights = np.array([[-8, 7, 0, 1] + [0] * 12 + [3, -1] + [0] * 14], np.float32)
    block = reference.quantize(weights, "q4_0")[0]
    assert block[:2].view(np.float16)[0] == 1
    assert list(block[2:6]) == [0 | 11 << 4, 15 | 7 << 4, 8 | 8 << 4, 9 | 8 << 4]
