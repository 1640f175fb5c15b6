"""Of two files the one that diverges less is better, whichever has the smaller error of weights."""

import pytest

from whisq.evaluation.results import DataRecord, Evaluation, InsideUtterance, ModelResult, TensorError


def model(label: str, noise: float, harm: float, clips: int = 12) -> ModelResult:
    tensor = TensorError("decoder.blocks.0.attn.query.weight", "decoder", 0, "query", "q4_0", "f16", 64, 36, 1.0, noise)
    inside = tuple(InsideUtterance(f"clip-{n}", (harm, harm * (1 + n / 10)), 2, 0.0, 1.0) for n in range(clips))
    return ModelResult(
        label,
        f"{label}.bin",
        "bin",
        "ab",
        100,
        64,
        {"q4_0": 1},
        None,
        None,
        "",
        None,
        None,
        None,
        (),
        inside,
        (tensor,),
    )


def evaluation(*models: ModelResult) -> Evaluation:
    return Evaluation(DataRecord("clips", "manifest", "cd", (), ()), models, {"seed": 0}, {})


def test_less_error_of_weights_and_more_divergence_is_worse() -> None:
    near, true = model("near", noise=0.001, harm=0.02), model("true", noise=0.01, harm=0.01)
    found = evaluation(model("f16", 0, 0), near, true)
    assert near.tensors[0].relative_error < true.tensors[0].relative_error
    assert found.divergence_difference(1, 2).verdict == "worse"
    assert found.divergence_difference(2, 1).verdict == "better"
    assert found.divergence_difference(1, 2).interval.estimate == pytest.approx(0.01275)


def test_equal_divergence_is_not_distinguishable() -> None:
    found = evaluation(model("f16", 0, 0), model("a", 0.1, 0.01), model("b", 0.2, 0.01))
    assert found.divergence_difference(1, 2).verdict == "not distinguishable"


def test_there_is_no_verdict_without_the_same_clips_on_both_sides() -> None:
    found = evaluation(model("f16", 0, 0), model("a", 0, 0.01), model("b", 0, 0.01, clips=5), model("c", 0, 0, clips=0))
    assert found.divergence_difference(1, 2) is None
    assert found.divergence_difference(3, 1) is None
