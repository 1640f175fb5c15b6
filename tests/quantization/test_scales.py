"""No file with scales that are NaN or infinite is written, whoever made them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import model_bytes
from tests.support.models import WIDE
from whisq import Recipe, make_plan, open_model, quantize
from whisq.errors import WeightError
from whisq.kernels import dequantize
from whisq.kernels import quantize as blocks_of
from whisq.quantization.convert import make_conversion
from whisq.quantization.scales import count_unfinite
from whisq.types import BF16, TYPES

QUERY = "encoder.blocks.0.attn.query.weight"


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.is_quantized], ids=str)
def test_every_scale_is_found(kind) -> None:
    """Every pair of bytes of a block set to what is no number: counted exactly where all weights become so."""
    weights = np.random.default_rng(1).standard_normal((1, 3 * 256)).astype(np.float32)
    whole = blocks_of(weights, kind).reshape(-1)
    assert count_unfinite(whole, kind) == 0
    start = kind.block_bytes
    for at in range(kind.block_bytes - 1):
        changed = whole.copy()
        changed[start + at : start + at + 2] = (0, 0x7E) if kind.name != "mxfp4" else (0xFF, 0)
        block = changed[start : 2 * start]
        broken = not np.isfinite(dequantize(block, kind, (1, kind.block_size))).all()
        if kind.name != "mxfp4":
            assert count_unfinite(changed, kind) == broken, at
    if kind.name == "mxfp4":
        changed = whole.copy()
        changed[start] = 0xFF
        assert count_unfinite(changed, kind) == 1


@pytest.mark.parametrize("scale", [0x7E00, 0x7C00, 0xFC00])
def test_copied_blocks(tmp_path: Path, scale: int) -> None:
    (tmp_path / "a.bin").write_bytes(model_bytes(WIDE))
    with open_model(tmp_path / "a.bin") as model:
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "q.bin")
    content = bytearray((tmp_path / "q.bin").read_bytes())
    struct.pack_into("<H", content, content.find(QUERY.encode()) + len(QUERY), scale)
    (tmp_path / "nan.bin").write_bytes(content)
    with open_model(tmp_path / "nan.bin") as model:
        plans = [make_conversion(model, "gguf"), make_plan(model, Recipe(TYPES["q4_0"]), allow_requantize=True)]
        for plan in plans:
            with pytest.raises(WeightError, match=f"{QUERY}: 1 of 2048 blocks of q4_0"):
                quantize(plan, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_bf16_overflows(tmp_path: Path) -> None:
    change = {QUERY: np.full((256, 256), 3.4e38, np.float32)}
    (tmp_path / "a.bin").write_bytes(model_bytes(WIDE, 0, change))
    with open_model(tmp_path / "a.bin") as model, pytest.raises(WeightError, match="65536 blocks of bf16") as caught:
        quantize(make_conversion(model, "bin", BF16), tmp_path / "out.bin")
    assert "larger than bf16 can hold" in str(caught.value.hint)
