"""A matrix whose weights are hit harder can cost less: what the model says decides (trinity #692, mlx #3798)."""

from pathlib import Path

import numpy as np

import whisq
from whisq import kernels
from whisq.calibration import Calibration
from whisq.search.goal import Goal, Space
from whisq.search.measure import SearchSettings
from whisq.search.run import search

QUERY, VALUE = (f"decoder.blocks.0.attn.{part}.weight" for part in ("query", "value"))
"""In tiny.en, of the same shape: q4_0 takes more from the first one's weights, and more from what the model says
with the second's."""


def weight_error(model: whisq.Model, name: str) -> float:
    weights = model.array(name)
    decoded = kernels.dequantize(kernels.quantize(weights, "q4_0").data, "q4_0", weights.shape)
    return float(np.square(weights - decoded).sum() / np.square(weights).sum())


def test_the_search_follows_the_divergence_not_the_error_of_the_weights(
    tiny_en_bin: Path, tiny_en_calibration: Calibration
) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        assert weight_error(model, QUERY) > 1.2 * weight_error(model, VALUE)
        protect = protected(model)
        one_of_each = whisq.Recipe(
            whisq.parse_type("q8_0"), (whisq.parse_rule(f"{VALUE}=q4_0"),), protect=tuple(protect)
        )
        goal = Goal(size_bytes=whisq.make_plan(model, one_of_each).size_bytes)
        space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", protect, ())
        found = search(model, tiny_en_calibration, goal, space, settings=SearchSettings("ggml", 1))
        chosen = {name: whisq.make_plan(model, found.recipe)[name].type.name for name in (QUERY, VALUE)}
    harms = found.sensitivity.harms
    assert harms[VALUE]["q4_0"] > 3 * harms[QUERY]["q4_0"]
    assert chosen == {QUERY: "q4_0", VALUE: "q8_0"}


def protected(model: whisq.Model) -> list[str]:
    """Return patterns for all matrices but the two."""
    return [t.name.replace(".", r"\.") for t in model.tensors if t.spec.is_matrix and t.name not in (QUERY, VALUE)]
