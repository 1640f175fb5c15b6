"""One type throughout: which types and methods take part, which are measured, and which is the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

import whisq
from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_model
from tests.support.models import NARROW, WIDE
from whisq.calibration import read_calibration
from whisq.calibration.factors import check_factors
from whisq.errors import PlanError
from whisq.runtimes.registry import parse_runtime
from whisq.search.judging import Divergences
from whisq.search.uniform import LEAST_SHARE, Candidate, judge_all, uniform_candidates, uniform_recipe, uniform_types
from whisq.types import TYPES
from whisq.whisper import TOKEN_EMBEDDING

STOCK = parse_runtime("whisper.cpp")


@pytest.fixture
def model(tmp_path):
    with whisq.open_model(write_model(tmp_path / "wide.bin", WIDE)) as opened:
        yield opened


@pytest.fixture
def narrow(tmp_path):
    with whisq.open_model(write_model(tmp_path / "narrow.bin", NARROW)) as opened:
        yield opened


@pytest.fixture
def calibration(tmp_path):
    write_calibration(tmp_path / "a.calib")
    return check_factors(read_calibration(tmp_path / "a.calib"))


def candidates_of(model, names, calibration=None):
    recipes = {kind: uniform_recipe(kind) for kind in uniform_types(model, names, STOCK)}
    return uniform_candidates(model, recipes, "bin", calibration, "whisper.cpp")


class Measuring:
    """Answers with made-up divergences, and keeps what was asked."""

    def __init__(self, **means: float) -> None:
        self.means, self.asked = means, []

    def __call__(self, candidate: Candidate) -> Divergences:
        self.asked.append(candidate.name)
        mean = self.means[candidate.name.replace(" ", "_")]
        # Ten pieces that differ from each other much more than the files do.
        return Divergences(tuple(10 * mean * (1 + piece) / 5.5 for piece in range(10)), (10,) * 10)


def test_the_types_are_those_that_fit_every_row(model, narrow) -> None:
    wide = {kind.name for kind in uniform_types(model, (), STOCK)}
    assert wide == set("q4_0 q4_1 q5_0 q5_1 q8_0 q2_K q3_K q4_K q5_K q6_K iq4_nl iq4_xs".split())
    assert {kind.name for kind in uniform_types(narrow, (), STOCK)} == {
        "q4_0",
        "q4_1",
        "q5_0",
        "q5_1",
        "q8_0",
        "iq4_nl",
    }
    assert uniform_types(model, ("mxfp4",), STOCK) == (TYPES["mxfp4"],)
    with pytest.raises(PlanError, match="q4_K does not fit rows of 64"):
        uniform_types(narrow, ("q4_0", "q4_K"), STOCK)
    with pytest.raises(PlanError, match=r"transcribe\.cpp does not load iq4_nl"):
        uniform_types(model, ("iq4_nl",), parse_runtime("transcribe.cpp"))


def test_every_file_is_whole_and_loads_there(model, calibration) -> None:
    found = candidates_of(model, ("q4_0", "q8_0", "iq4_nl"), calibration)
    names = [candidate.name for candidate in found]
    assert {"q4_0 ggml", "q4_0 importance", "q4_0 feedback", "q8_0 ggml", "q8_0 feedback"} <= set(names)
    # What needs no calibration is for where there is none.
    assert "q4_0 fit" not in names
    # q8_0 does not look at importance: that file would be ggml's again.
    assert "q8_0 importance" not in names
    for candidate in found:
        assert {a.type for a in candidate.plan.assignments if a.tensor.spec.is_matrix} == {
            candidate.plan.recipe.default
        }
        assert candidate.plan[TOKEN_EMBEDDING].method.name == candidate.method.name
    assert [c.name for c in candidates_of(model, ("q4_0",))] == ["q4_0 ggml"]


def test_protection_of_the_embedding_holds_where_mixes_load(model) -> None:
    assert uniform_recipe(TYPES["q4_0"], (r"decoder\.token.*",)).embedding is None
    kept = uniform_recipe(TYPES["q4_0"], embedding=TYPES["q8_0"])
    assert whisq.make_plan(model, kept)[TOKEN_EMBEDDING].type is TYPES["q8_0"]


def test_the_closest_is_the_answer(model, calibration) -> None:
    measuring = Measuring(
        q4_0_ggml=0.09, q4_0_importance=0.06, q4_0_feedback=0.04,
        q5_0_ggml=0.02, q5_0_importance=0.015, q5_0_feedback=0.01,
        q8_0_ggml=0.0004, q8_0_feedback=0.0002,
    )  # fmt: skip
    ladder = judge_all(candidates_of(model, ("q4_0", "q5_0"), calibration), measuring)
    assert ladder.chosen.name == "q5_0 feedback"
    assert [j.size_bytes for j in ladder.judged] == sorted(j.size_bytes for j in ladder.judged)
    # 0.15 × 0.09 is more than 0.01: no method makes q4_0 the closest.
    assert ladder.untried == ("q4_0 importance", "q4_0 feedback")
    assert 0.09 * LEAST_SHARE > 0.01
    assert "q4_0 feedback" not in measuring.asked
    everything = judge_all(candidates_of(model, ("q4_0", "q5_0", "q8_0"), calibration), measuring)
    assert everything.chosen.name == "q8_0 feedback"


def test_of_files_as_good_the_smallest_is_the_answer(model) -> None:
    found = candidates_of(model, ("q4_0", "q5_0", "q5_1"))
    ladder = judge_all(found, Measuring(q4_0_ggml=0.09, q5_0_ggml=0.0201, q5_1_ggml=0.02))
    assert ladder.chosen.name == "q5_1 ggml"  # every piece says so, however little it is
    level = Measuring(q4_0_ggml=0.09, q5_0_ggml=0.02, q5_1_ggml=0.02)
    assert judge_all(found, level).chosen.name == "q5_0 ggml"


def test_what_clips_cannot_tell_apart_is_as_good_within_a_twentieth(model) -> None:
    small, large = candidates_of(model, ("q5_0", "q5_1"))
    truth = {
        "q5_0 ggml": Divergences((1.0, 3.0, 1.0, 3.2), (10,) * 4),
        "q5_1 ggml": Divergences((3.0, 1.0, 3.0, 1.0), (10,) * 4),
    }
    ladder = judge_all([small, large], lambda c: truth[c.name])
    assert ladder.chosen.name == "q5_0 ggml"
    truth["q5_0 ggml"] = Divergences((1.0, 4.0, 1.0, 4.0), (10,) * 4)
    assert judge_all([small, large], lambda c: truth[c.name]).chosen.name == "q5_1 ggml"


def test_a_mix_is_the_answer_only_where_no_uniform_file_is_as_good(model) -> None:
    found = candidates_of(model, ("q4_0", "q5_0"))
    plan = whisq.make_plan(model, whisq.Recipe(TYPES["q5_0"], (whisq.parse_rule(r".*mlp.*\.weight=q4_0"),)))
    mix = Candidate("this mix", plan, is_uniform=False)
    better = judge_all(found, Measuring(this_mix=0.01, q4_0_ggml=0.09, q5_0_ggml=0.02), mixes=[mix])
    assert better.chosen.name == "this mix"
    for mean in (0.02, 0.03):
        dominated = judge_all(found, Measuring(this_mix=mean, q4_0_ggml=0.09, q5_0_ggml=0.02), mixes=[mix])
        assert dominated.chosen.name == "q5_0 ggml"


def test_within_a_divergence_the_smallest_is_the_answer_and_nothing_larger_is_measured(model, calibration) -> None:
    found = candidates_of(model, ("q4_0", "q5_0", "q8_0"), calibration)
    measuring = Measuring(
        q4_0_ggml=0.09, q4_0_importance=0.06, q4_0_feedback=0.04, q5_0_ggml=0.02, q5_0_importance=0.015,
        q5_0_feedback=0.01, q8_0_ggml=0.0004, q8_0_feedback=0.0002,
    )  # fmt: skip
    assert judge_all(found, measuring, divergence=0.05).chosen.name == "q4_0 feedback"
    assert not [name for name in measuring.asked if name.startswith("q5")]
    assert judge_all(found, measuring, divergence=0.03).chosen.name == "q5_0 feedback"
    with pytest.raises(PlanError, match=r"q8_0 feedback comes closest, with 0\.0002"):
        judge_all(found, measuring, divergence=0.0001)


def test_nothing_to_choose_from_is_told() -> None:
    with pytest.raises(PlanError, match="no type is left"):
        judge_all([], Measuring())


def test_a_candidate_says_its_method(model) -> None:
    (only,) = candidates_of(model, ("q4_0",))
    assert replace(only, name="other").method.is_plain
