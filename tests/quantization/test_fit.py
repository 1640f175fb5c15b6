"""The method that needs no audio, and what a model tells it of its layers' inputs."""

from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq import kernels
from whisq.kernels.fit import quantize_fitted
from whisq.quantization.expected import LEAST, expected_importance
from whisq.quantization.rounding import FIT, GGML
from whisq.types import TYPES

BLOCK = "encoder.blocks.0"
QUERY, OUT, FIRST, SECOND = (f"{BLOCK}.{part}.weight" for part in ("attn.query", "attn.out", "mlp.0", "mlp.2"))


def norm(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=256).astype(np.float32)


def model_with(folder: Path, tensors: dict[str, np.ndarray]) -> whisq.Model:
    return whisq.open_model(write_model(folder / "wide.bin", WIDE, 0, tensors))


def test_what_comes_out_of_a_norm_is_as_large_as_its_weight_and_bias(tmp_path: Path) -> None:
    weight, bias = norm(1), norm(2) - 2
    expected = weight.astype(np.float64) ** 2 + bias.astype(np.float64) ** 2
    for name, matrices in (
        (f"{BLOCK}.attn_ln", [QUERY]),
        (f"{BLOCK}.mlp_ln", [FIRST]),
        ("encoder.ln_post", ["decoder.blocks.0.cross_attn.key.weight"]),
        ("decoder.blocks.0.cross_attn_ln", ["decoder.blocks.0.cross_attn.query.weight"]),
        ("decoder.ln", ["decoder.token_embedding.weight"]),
    ):
        with model_with(tmp_path, {f"{name}.weight": weight, f"{name}.bias": bias}) as model:
            for matrix in matrices:
                found = expected_importance(model, matrix)
                assert np.allclose(found, expected / expected.mean() + LEAST, rtol=2e-3), matrix


def test_what_comes_out_of_gelu_is_as_large_as_drawn_inputs_make_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(scale=norm(4)[:, None].repeat(4, 0) / 16, size=(1024, 256)).astype(np.float32)
    tensors = {
        f"{BLOCK}.mlp_ln.weight": norm(5), f"{BLOCK}.mlp_ln.bias": norm(6) - 2, FIRST: first,
        f"{BLOCK}.mlp.0.bias": generator.normal(size=1024).astype(np.float32),
    }  # fmt: skip
    with model_with(tmp_path, tensors) as model:
        found = expected_importance(model, SECOND)
        inputs = generator.normal(size=(4000, 256)) * tensors[f"{BLOCK}.mlp_ln.weight"]
        inputs += tensors[f"{BLOCK}.mlp_ln.bias"]
        hidden = inputs @ model.array(FIRST).T + tensors[f"{BLOCK}.mlp.0.bias"]
    outputs = hidden / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    drawn = np.square(outputs).mean(0)
    assert np.median(np.abs((found - LEAST) / (drawn / drawn.mean()) - 1)) < 0.05


def test_where_the_model_does_not_tell_there_is_none(tmp_path: Path) -> None:
    zero = np.zeros(256, np.float32)
    with model_with(tmp_path, {f"{BLOCK}.attn_ln.weight": zero, f"{BLOCK}.attn_ln.bias": zero}) as model:
        assert expected_importance(model, OUT) is None
        assert expected_importance(model, f"{BLOCK}.attn_ln.weight") is None
        assert expected_importance(model, QUERY) is None
        assert expected_importance(model, FIRST) is not None
    with model_with(tmp_path, {f"{BLOCK}.attn_ln.weight": zero + np.float32(np.nan)}) as model:
        assert expected_importance(model, QUERY) is None


@pytest.mark.parametrize("name", ["q4_0", "q3_K"])
def test_a_file_holds_the_blocks_of_the_search(tmp_path: Path, name: str) -> None:
    with model_with(tmp_path, {f"{BLOCK}.attn_ln.weight": norm(7)}) as model:
        plan = whisq.make_plan(model, whisq.Recipe(TYPES[name]), method="fit", container="gguf")
        assert {a.method for a in plan.assignments if a.is_quantized_here} == {FIT}
        assert plan.calibration is None
        whisq.quantize(plan, tmp_path / "q.gguf", piece_weights=9999)
        with whisq.open_model(tmp_path / "q.gguf") as result:
            for matrix in (QUERY, OUT):
                blocks = quantize_fitted(model.array(matrix), name, expected_importance(model, matrix))
                assert bytes(result.rows(result[matrix])) == blocks.tobytes()
                assert blocks.tobytes() != kernels.quantize(model.array(matrix), name).tobytes()


def test_dense_types_are_ggmls(tmp_path: Path) -> None:
    with model_with(tmp_path, {}) as model:
        assert FIT.decide(model[QUERY].spec, TYPES["f16"], None).method is GGML
        assert FIT.provenance(None) == {"method": "fit"}
