"""What a model may become for a target, and what is not measured twice."""

from __future__ import annotations

import pytest

import whisq
from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq.calibration import read_calibration
from whisq.calibration.factors import check_factors
from whisq.clips.clip import Clip, ClipSet
from whisq.errors import PlanError
from whisq.optimization.choices import Choices, evenly, ladder_for
from whisq.progress import no_progress
from whisq.recipe.recipe import Recipe
from whisq.search.goal import Goal
from whisq.search.judging import Divergences
from whisq.search.uniform import Candidate
from whisq.types import F16, TYPES
from whisq.whisper import TOKEN_EMBEDDING

CLIPS = ClipSet("clips", "folder", tuple(Clip(str(n), None, "", sha256=str(n)) for n in range(7)))  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path):
    with whisq.open_model(write_model(tmp_path / "wide.bin", WIDE)) as opened:
        yield opened


@pytest.fixture
def calibration(tmp_path):
    write_calibration(tmp_path / "a.calib")
    return check_factors(read_calibration(tmp_path / "a.calib"))


class MadeUp:
    """In place of a judge: every method and type has its divergence; what was asked is kept."""

    asked: list[str]

    def __init__(self, model, clips, operations, progress) -> None:
        self.heard = [clip.id for clip in clips]
        self.languages = [("en", "de")] * len(clips)

    def divergences(self, plan) -> Divergences:
        MadeUp.asked.append(f"{plan.recipe.default} {plan.method}")
        precision = min(a.type.precision_db for a in plan.assignments if a.tensor.spec.is_matrix)
        better = {"ggml": 1.0, "importance": 0.7, "feedback": 0.4}[plan.method.name]
        total = better * 10 ** (-precision / 10)
        return Divergences((total, 2 * total), (1, 1))


@pytest.fixture
def made_up(monkeypatch):
    MadeUp.asked = []
    monkeypatch.setattr("whisq.optimization.choices.Judge", MadeUp)
    return MadeUp


def test_stock_whisper_cpp_gets_types_throughout(model) -> None:
    choices = Choices.of(model, "bin", target="whisper.cpp")
    assert choices.space is None
    assert {kind.name for kind in choices.recipes} >= {"q4_0", "iq4_nl", "iq4_xs", "q2_K", "q8_0"}
    for candidate in choices.candidates(None):
        assert candidate.plan.verdicts[0].loads
        assert candidate.plan[TOKEN_EMBEDDING].type is candidate.plan.recipe.default
    assert min(choices.sizes()) == choices.smallest().size_bytes
    with pytest.raises(PlanError, match=r"reads \.bin files"):
        Choices.of(model, "gguf", target="whisper.cpp").sizes()
    with pytest.raises(PlanError, match="one type for all matrices"):
        Choices.of(model, "bin", target="whisper.cpp", protect=(r".*mlp.*",)).sizes()


def test_a_runtime_of_mixes_gets_both(model) -> None:
    choices = Choices.of(model, "bin", target="transcribe.cpp", types=("q4_0", "q8_0"))
    assert {kind.name for kind in choices.recipes} == {"q4_0", "q8_0"}
    assert choices.space is not None
    uniform = whisq.make_plan(model, Recipe(TYPES["q4_0"], embedding=TYPES["q4_0"])).size_bytes
    assert min(choices.sizes()) == uniform
    assert max(choices.sizes()) == whisq.make_plan(model, Recipe(F16)).size_bytes
    kept = Choices.of(model, "bin", target="transcribe.cpp", types=("q4_0", "q8_0"), embedding="f16")
    assert all(c.plan[TOKEN_EMBEDDING].type is F16 for c in kept.candidates(None))
    gguf = Choices.of(model, "gguf", target="transcribe.cpp", types=("q4_0",))
    assert min(gguf.sizes()) == gguf.smallest().size_bytes > uniform


def test_a_limit_holds_for_every_file(model, calibration) -> None:
    choices = Choices.of(model, "bin", target="whisper.cpp")
    limit = choices.candidates(None)[3].plan.size_bytes
    found = choices.candidates(calibration, limit)
    assert found
    assert all(candidate.plan.size_bytes <= limit for candidate in found)
    assert {candidate.method.name for candidate in found} == {"ggml", "importance", "feedback"}


def test_the_best_within_a_size_and_the_smallest_within_a_divergence(model, calibration, made_up) -> None:
    choices = Choices.of(model, "bin", target="whisper.cpp", types=("q4_0", "iq4_nl", "q5_0", "q8_0"))
    sizes = {c.plan.recipe.default.name: c.plan.size_bytes for c in choices.candidates(None)}
    answers = {
        name: ladder_for(choices, Goal(size_bytes=size), calibration, CLIPS, progress=no_progress).chosen.name
        for name, size in sizes.items()
    }
    assert answers == {
        "q4_0": "iq4_nl feedback",
        "iq4_nl": "iq4_nl feedback",
        "q5_0": "q5_0 feedback",
        "q8_0": "q8_0 feedback",
    }
    bits = 8 * sizes["q5_0"] / model.n_weights
    assert ladder_for(choices, Goal(bits=bits), calibration, CLIPS, progress=no_progress).chosen.name == "q5_0 feedback"
    loose = Goal(divergence=10 ** (-TYPES["q4_0"].precision_db / 10))
    assert ladder_for(choices, loose, calibration, CLIPS, progress=no_progress).chosen.size_bytes == sizes["q4_0"]


def test_what_was_judged_is_not_judged_again(model, calibration, made_up, tmp_path) -> None:
    choices = Choices.of(model, "bin", target="whisper.cpp", types=("q4_0", "q5_0"))
    limit = Goal(size_bytes=choices.candidates(None)[0].plan.size_bytes)
    small = ladder_for(choices, limit, calibration, CLIPS, cache=tmp_path / "cache", progress=no_progress)
    first = len(made_up.asked)
    assert first == 3
    again = ladder_for(choices, limit, calibration, CLIPS, cache=tmp_path / "cache", progress=no_progress)
    assert len(made_up.asked) == first
    assert [j.divergences for j in again.judged] == [j.divergences for j in small.judged]
    assert again.languages == small.languages == (("en", "de"),) * len(CLIPS.clips)
    more = Goal(bits=8 * choices.candidates(None)[1].plan.size_bytes / model.n_weights)
    ladder_for(choices, more, calibration, CLIPS, cache=tmp_path / "cache", progress=no_progress)
    assert made_up.asked[first:] == ["q5_0 ggml", "q5_0 importance", "q5_0 feedback"]
    ladder_for(choices, limit, calibration, CLIPS, most_clips=3, cache=tmp_path / "cache", progress=no_progress)
    assert len(made_up.asked) > first + 3


def test_a_dominated_mix_is_not_the_answer(model, calibration, made_up) -> None:
    choices = Choices.of(model, "bin", target="transcribe.cpp", types=("q4_0", "q8_0"))
    plan = choices.plan_of(Recipe(TYPES["q4_0"]))  # embedding f16: larger than all of q4_0, and no closer
    mix = Candidate("searched mix", plan, is_uniform=False)
    goal = Goal(size_bytes=plan.size_bytes)
    ladder = ladder_for(choices, goal, calibration, CLIPS, mixes=[mix], progress=no_progress)
    assert ladder.chosen.candidate.is_uniform
    assert ladder.chosen.divergences.mean < next(j for j in ladder.judged if j.name == "searched mix").divergences.mean


def test_clips_are_taken_evenly() -> None:
    assert [clip.id for clip in evenly(CLIPS.clips, 3)] == ["0", "2", "4"]
    assert evenly(CLIPS.clips, None) == list(CLIPS.clips)
    assert evenly(CLIPS.clips, 99) == list(CLIPS.clips)
