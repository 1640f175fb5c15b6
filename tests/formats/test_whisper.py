"""The table of Whisper's tensors: what each one says of itself."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from tests.support.models import TINY
from whisq.whisper import LARGEST_SIZES, Dimensions, expected_tensors

SPECS = expected_tensors(TINY)


def test_the_sizes_are_counted_right() -> None:
    """There were said to be eleven; a ``.bin`` has as many and its file type."""
    words = (Dimensions.__doc__ or "").split()
    assert words[:3] == ["The", "ten", "sizes"]
    assert len(fields(Dimensions)) == len(LARGEST_SIZES) == 10


@pytest.mark.parametrize("name", SPECS)
def test_rows_columns_and_weights(name: str) -> None:
    spec = SPECS[name]
    flat = np.zeros(spec.shape).reshape(-1, spec.shape[-1])
    assert (spec.n_rows, spec.n_columns) == flat.shape
    assert spec.n_weights == flat.size


def test_every_bias_belongs_to_one_matrix_and_has_a_value_per_output() -> None:
    found = [spec.bias for spec in SPECS.values() if spec.bias is not None]
    assert sorted(found) == sorted(name for name, spec in SPECS.items() if spec.role in ("bias", "conv_bias"))
    for spec in SPECS.values():
        if spec.bias is not None:
            assert SPECS[spec.bias].shape == spec.shape[:1]
            assert SPECS[spec.bias].stack == spec.stack


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("encoder.blocks.1.attn.query.weight", "encoder.blocks.1.attn.query.bias"),
        ("encoder.blocks.1.attn.key.weight", None),
        ("decoder.blocks.0.cross_attn.key.weight", None),
        ("decoder.blocks.0.cross_attn.value.weight", "decoder.blocks.0.cross_attn.value.bias"),
        ("decoder.blocks.0.mlp.2.weight", "decoder.blocks.0.mlp.2.bias"),
        ("encoder.conv2.weight", "encoder.conv2.bias"),
        ("decoder.token_embedding.weight", None),
        ("decoder.positional_embedding", None),
        ("decoder.ln.weight", None),
        ("decoder.ln.bias", None),
        ("decoder.blocks.0.mlp.2.bias", None),
    ],
)
def test_the_bias_of_a_tensor(name: str, bias: str | None) -> None:
    assert SPECS[name].bias == bias
