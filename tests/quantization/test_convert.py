"""Conversions: what is said of each tensor. That the weights survive is in tests/formats/test_same_weights.py."""

from pathlib import Path

import whisq
from tests.support.containers import write_model
from tests.support.models import NARROW
from whisq.cli.plan_text import plan_as_json
from whisq.quantization.convert import make_conversion
from whisq.types import F16, F32

MATRIX, NORM = "encoder.blocks.0.mlp.0.weight", "encoder.ln_post.weight"


def test_a_weight_matrix_is_not_said_to_be_none(tmp_path: Path) -> None:
    """It was "mlp.0: not a weight matrix"."""
    with whisq.open_model(write_model(tmp_path / "m.bin", NARROW)) as model:
        kept, changed, same = (make_conversion(model, "gguf", kind) for kind in (None, F32, F16))
    assert (kept[MATRIX].why, kept[MATRIX].reason) == ("converted", "converted: type kept")
    assert same[MATRIX].reason == "converted: type kept"
    assert changed[MATRIX].reason == "converted to f32"
    assert changed["decoder.token_embedding.weight"].reason == "converted to f32"
    for plan in (kept, changed):
        assert (plan[NORM].why, plan[NORM].reason) == ("kept", "norm: not a weight matrix")
    said = {tensor["name"]: tensor for tensor in plan_as_json(changed, "m.gguf", None)["tensors"]}
    assert (said[MATRIX]["why"], said[MATRIX]["reason"]) == ("converted", "converted to f32")
