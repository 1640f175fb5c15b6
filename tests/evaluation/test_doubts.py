"""What makes a comparison mean something else than it seems to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.evaluations import made_evaluation
from whisq.errors import PlanError
from whisq.evaluation.doubts import doubts, refuse_other_models
from whisq.evaluation.model_files import describe

SOURCE = {"whisq.source.name": "other.bin", "whisq.source.format": "bin", "whisq.source.sha256": "12" * 32}


@pytest.fixture(scope="module")
def made():
    """An evaluation whose files are all different ones."""
    found = made_evaluation()
    models = tuple(replace(model, sha256=f"{index:064x}") for index, model in enumerate(found.models))
    return replace(found, models=models)


def with_model(evaluation, index, **changed):
    models = list(evaluation.models)
    models[index] = replace(models[index], **changed)
    return replace(evaluation, models=tuple(models))


def test_a_comparison_as_it_should_be_raises_none(made) -> None:
    assert doubts(made) == []


def test_the_same_file_twice_by_its_hash(made) -> None:
    (told,) = doubts(with_model(made, 2, sha256=made.models[0].sha256))
    assert told == "reference and harmed are the same file, by their SHA-256"


def test_a_quantized_reference_with_a_finer_candidate(made) -> None:
    (told,) = doubts(with_model(made, 0, types={"q5_0": 10}, size_bytes=1000))
    assert "the reference, reference, is quantized itself (q5_0)" in told
    assert "Take" in told
    smaller = with_model(made, 0, types={"q8_0": 10}, size_bytes=10**12)
    assert doubts(smaller) == [], "a reference in q8_0 beside smaller files is what one may have"


def test_weights_that_no_rounding_explains(made) -> None:
    tensors = list(made.models[2].tensors)
    place = next(i for i, t in enumerate(tensors) if t.type == t.reference_type == "f16")
    strange = replace(tensors[place], noise=0.02**2)
    (told,) = doubts(with_model(made, 2, tensors=(*tensors[:place], strange, *tensors[place + 1 :])))
    assert "harmed seems to be of other weights than reference" in told
    assert strange.name in told
    assert "2.0 % off" in told


@pytest.mark.parametrize(
    ("kind", "explained", "strange"), [("q8_0", 0.02, 0.1), ("q4_0", 0.15, 0.75), ("q2_K", 0.5, 0.9)]
)
def test_what_rounding_explains_depends_on_the_type(made, kind, explained, strange) -> None:
    tensor = replace(made.models[2].tensors[0], type=kind, noise=explained**2)
    assert doubts(with_model(made, 2, tensors=(tensor,))) == []
    assert len(doubts(with_model(made, 2, tensors=(replace(tensor, noise=strange**2),)))) == 1


def test_weights_of_another_source_by_what_the_file_says(made) -> None:
    (told,) = doubts(with_model(made, 2, provenance=SOURCE))
    assert told.startswith("harmed says that it was made from another file than reference: other.bin")
    known = {**SOURCE, "whisq.source.sha256": made.models[0].sha256}
    assert doubts(with_model(made, 2, provenance=known)) == []
    both = with_model(with_model(made, 2, provenance=SOURCE), 0, provenance=SOURCE)
    assert doubts(both) == []
    converted = {**SOURCE, "whisq.source.format": "huggingface"}
    assert doubts(with_model(made, 2, provenance=converted)) == [], "the same weights have another hash there"


def test_other_dimensions_and_other_tokens_are_refused_all_at_once(tmp_path) -> None:
    from tests.support.containers import write_model
    from tests.support.models import NARROW, WIDE

    wide, small = (describe(write_model(tmp_path / f"{n}.bin", d), n) for n, d in (("wide", WIDE), ("small", NARROW)))
    refuse_other_models([wide, replace(wide, label="again")])
    other = replace(wide, tokens=(b"zzz", *wide.tokens[1:]))
    with pytest.raises(PlanError) as raised:
        refuse_other_models([wide, small, other])
    assert "small.bin is another model than" in str(raised.value)
    assert f"n_text_state is {small.dims.n_text_state}, in the reference {wide.dims.n_text_state}" in str(raised.value)
    assert "its tokens are not those of the reference" in str(raised.value)


def test_loops_of_marks_that_the_reference_does_not_write(made) -> None:
    first, *others = made.models[2].utterances
    looping = replace(first, text=f"{first.text} and so on . . . . . . . . .")
    (told,) = doubts(with_model(made, 2, utterances=(looping, *others)))
    assert told.startswith("harmed writes marks over and over in one clip, which no error rate counts: … ")
    assert told.endswith("and so on . . . . . . . . .")
    both = with_model(
        with_model(made, 2, utterances=(looping, *others)), 0, utterances=(looping, *made.models[0].utterances[1:])
    )
    assert doubts(both) == [], "it is what the reference does, too"
