"""From what was measured to a recipe: spaces, goals, mixes and curves of a made-up model."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import whisq
from tests.support.calibrations import write as write_calibration
from tests.support.containers import model_bytes, write_model
from tests.support.models import NARROW, WIDE
from whisq.calibration import read_calibration
from whisq.errors import PlanError
from whisq.provenance import provenance_of
from whisq.quantization.rounding import FEEDBACK
from whisq.search import (
    Choice,
    Goal,
    Mix,
    Sensitivity,
    Space,
    curve,
    read_sensitivity,
    refuse_out_of_reach,
    search,
    sizes_of_mixes,
    solve,
)
from whisq.search.allocate import allocate
from whisq.types import F16, TYPES
from whisq.whisper import TOKEN_EMBEDDING

Q4, Q5, Q8 = TYPES["q4_0"], TYPES["q5_0"], TYPES["q8_0"]

pytestmark = pytest.mark.usefixtures("any_vocabulary")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "wide.bin").write_bytes(model_bytes(WIDE))
    with whisq.open_model(tmp_path / "wide.bin") as opened:
        yield opened


def sensitivity_of(space: Space, how: str = "one", seed: int = 0) -> Sensitivity:
    generator = np.random.default_rng(seed)
    harms = {}
    for tensor in space.tensors:
        matters = 10 ** generator.uniform(-4, -1)
        harms[tensor.name] = {k.name: matters * 4.0**-k.bits_per_weight for k in space.types[tensor.name] if k != F16}
        harms[tensor.name]["f16"] = 0.0
    measured = dict.fromkeys(harms, ("q4_0",))
    return Sensitivity(harms, 1.25, 0.98, ((0.1, 0.12),), {"how": how, "method": "feedback", "tokens": 9}, measured)


def searched(model, goal: Goal, space: Space):
    # The calibration is not looked at for a .bin.
    return solve(model, None, goal, space, sensitivity_of(space))


def fast_mix(model, goal: Goal, space: Space, seconds: dict[str, float]):
    return solve(model, None, goal, space, replace(sensitivity_of(space), seconds=seconds), prefer_fast=True)


def test_a_searched_file_is_within_its_size_and_half_a_percent_and_a_bigger_one_harms_less(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    smallest, largest = (whisq.make_plan(model, whisq.Recipe(t)).size_bytes for t in (Q4, Q8))
    last = np.inf
    for size in np.linspace(smallest * 1.01, largest, 5).astype(int):
        found = searched(model, Goal(size_bytes=int(size)), space)
        plan = whisq.make_plan(model, found.recipe)
        assert 0.995 * size <= plan.size_bytes <= size
        assert plan.size_bytes == found.mix.size_bytes
        assert found.mix.predicted <= last
        last = found.mix.predicted


@pytest.mark.parametrize("names", [("q4_0", "q8_0"), ("q5_0", "q4_1", "q8_0")])
def test_it_is_the_best_of_all_mixes_of_a_few_matrices(model, names) -> None:
    space = Space.of(model, names, "transcribe.cpp", (r"encoder.*", r"decoder\.blocks\.\d\.attn.*"), ())
    some = replace(space, tensors=space.tensors[:5], types={t.name: space.types[t.name] for t in space.tensors[:5]})
    known = sensitivity_of(some)
    choices = {
        t.name: [
            Choice(k.name, t.n_rows * k.row_bytes(t.n_columns), known.harms[t.name][k.name]) for k in some.types[t.name]
        ]
        for t in some.tensors
    }
    all_mixes = list(product(*choices.values()))
    for budget in np.quantile([sum(c.size_bytes for c in mix) for mix in all_mixes], (0.1, 0.5, 0.9)):
        best = min(sum(c.harm for c in m) for m in all_mixes if sum(c.size_bytes for c in m) <= budget)
        assert sum(c.harm for c in allocate(choices, int(budget)).values()) == pytest.approx(best, rel=1e-5)


def test_protection_the_target_and_misfits_are_respected(model) -> None:
    embedding = "decoder.token_embedding.weight"
    plain = Space.of(model, (), "transcribe.cpp", (r".*cross_attn.*",), (), F16)
    assert embedding not in plain.types
    assert not any("cross_attn" in name for name in plain.types)
    assert not {"q3_K", "iq4_nl"} & {kind.name for kinds in plain.types.values() for kind in kinds}
    whole = Space.of(model, (), "whisper.cpp-pr3605", (), (re.escape(embedding),))
    assert embedding in whole.types
    assert {"q3_K", "iq4_nl"} <= {kind.name for kinds in whole.types.values() for kind in kinds}
    for tensor in whole.tensors:
        assert all(kind.fits(tensor.n_columns) for kind in whole.types[tensor.name])
    with pytest.raises(PlanError, match="does not load q3_K"):
        Space.of(model, ("q3_K",), "transcribe.cpp", (), ())
    with pytest.raises(PlanError, match="cannot load mixed types"):
        Space.of(model, (), "whisper.cpp", (), ())
    found = searched(model, Goal(bits=9.0), plain)
    plan = whisq.make_plan(model, found.recipe, target="transcribe.cpp")
    assert plan.bits_per_weight <= 9.0
    assert plan[embedding].type is F16
    assert all(plan[t.name].type is F16 for t in model.tensors if "cross_attn" in t.name and t.spec.is_matrix)


def test_a_divergence_is_a_goal_too(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    known = sensitivity_of(space)
    limit = 2 * known.predicted({t.name: "q5_1" for t in space.tensors})
    found = searched(model, Goal(divergence=limit), space)
    assert found.mix.predicted <= limit
    tighter = searched(model, Goal(divergence=limit / 10), space)
    assert tighter.mix.size_bytes > found.mix.size_bytes


def test_preferring_speed_takes_the_faster_types_within_size_and_a_tenth(model) -> None:
    space = Space.of(model, ("q4_0", "q5_0", "q5_1", "q8_0"), "transcribe.cpp", (), ())
    size = whisq.make_plan(model, whisq.Recipe(TYPES["q5_1"])).size_bytes
    plain = searched(model, Goal(size_bytes=size), space)
    slow = {"q4_0": 1.0, "q5_0": 9.0, "q5_1": 9.0, "q8_0": 1.0, "f16": 2.0}
    fast = fast_mix(model, Goal(size_bytes=size), space, slow)
    assert fast.mix.size_bytes <= plain.mix.size_bytes
    assert fast.mix.predicted <= 1.1 * plain.mix.predicted * (1 + 1e-9)

    def seconds(found) -> float:
        plan = whisq.make_plan(model, found.recipe)
        return sum(slow[plan[t.name].type.name] * t.n_weights for t in space.tensors)

    assert seconds(fast) < seconds(plain)


def test_preferring_speed_keeps_a_divergence_that_was_asked_for(model) -> None:
    space = Space.of(model, ("q4_0", "q5_0", "q5_1", "q8_0"), "transcribe.cpp", (), ())
    limit = sensitivity_of(space).predicted({t.name: "q5_1" for t in space.tensors})
    slow = {"q4_0": 1.0, "q5_0": 9.0, "q5_1": 9.0, "q8_0": 9.0, "f16": 9.0}
    assert fast_mix(model, Goal(divergence=limit), space, slow).mix.predicted <= limit


def test_types_that_the_runtime_cannot_time_take_no_part_where_speed_is_preferred(model) -> None:
    space = Space.of(model, (), "whisper.cpp-pr3605", (), ())
    slow = {"q4_0": 1.0, "q5_0": 2.0, "q8_0": 3.0, "f16": 9.0}
    size = whisq.make_plan(model, whisq.Recipe(Q5)).size_bytes
    found = fast_mix(model, Goal(size_bytes=size), space, slow)
    assert {rule.type.name for rule in found.recipe.rules} <= slow.keys()
    assert found.mix.size_bytes <= size


def test_a_size_is_that_of_the_container_that_was_asked_for(model, tmp_path) -> None:
    space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
    write_calibration(tmp_path / "a.calib")
    heard = read_calibration(tmp_path / "a.calib")
    size = whisq.make_plan(model, whisq.Recipe(Q4)).size_bytes + 400_000
    found = solve(model, heard, Goal(size_bytes=size, container="gguf"), space, sensitivity_of(space))
    stated = provenance_of(model, found.recipe, FEEDBACK, heard)
    plan = whisq.make_plan(model, found.recipe, container="gguf", provenance=stated, calibration=heard)
    assert 0.97 * size < plan.size_bytes == found.mix.size_bytes <= size


@pytest.mark.parametrize(
    "bound", [{"size_bytes": 0}, {"bits": float("nan")}, {"bits": float("inf")}, {"divergence": -1.0}]
)
def test_goals_that_are_none(bound) -> None:
    with pytest.raises(PlanError, match="must be above 0"):
        Goal(**bound)


@pytest.mark.parametrize("bounds", [{}, {"size_bytes": 9, "bits": 4.5}])
def test_a_goal_is_one(bounds) -> None:
    with pytest.raises(PlanError, match="one goal is needed"):
        Goal(**bounds)


def test_what_was_not_measured_is_not_left_out_silently(model) -> None:
    known = sensitivity_of(Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ()))
    space = Space.of(model, ("q4_0", "q5_0"), "transcribe.cpp", (), ())
    with pytest.raises(PlanError, match="q5_0 was not measured"):
        solve(model, None, Goal(bits=12.0), space, known)


def test_what_was_measured_is_kept_before_it_is_solved(model, tmp_path, capsys, monkeypatch) -> None:
    from whisq.cli import main

    write_calibration(tmp_path / "a.calib", model_sha256=model.sha256)
    known = sensitivity_of(Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ()))
    monkeypatch.setattr("whisq.search.measure_space", lambda *_, **__: (known, None))
    monkeypatch.setattr("whisq.search.solve", None)  # the solving breaks
    words = ["search", model.path, "--calibration", tmp_path / "a.calib", "--types", "q4_0,q8_0", "--bits", 12]
    words += ["-o", tmp_path / "mix.toml", "--sensitivity", tmp_path / "s.json"]
    assert main([str(word) for word in words]) == 2
    assert "internal" in capsys.readouterr().err
    assert read_sensitivity(tmp_path / "s.json") == known


def test_a_calibration_of_another_model_is_refused_before_its_moments_are_factored(
    model, tmp_path, capsys, monkeypatch
) -> None:
    from whisq.cli import main

    write_calibration(tmp_path / "a.calib", replace(WIDE, n_text_layer=2))
    monkeypatch.setattr("whisq.calibration.factors.check_factors", None)
    words = ["search", model.path, "--calibration", tmp_path / "a.calib", "--bits", 12, "-o", tmp_path / "mix.toml"]
    assert main([str(word) for word in words]) == 1
    assert "it belongs to another model" in capsys.readouterr().err


def test_a_space_knows_the_bytes_of_every_mix(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), (r"decoder\.token_embedding\.weight",))
    plans = {
        mix.name: whisq.make_plan(
            model,
            whisq.load_recipe(mix.name)
            if mix.kind == "preset"
            else whisq.Recipe(TYPES[mix.name], protect=space.protect, unprotect=space.unprotect),
        )
        for mix in space.usual
    }
    assert {"q4_0", "q4_K", "q8_0", "balanced"} <= plans.keys()
    for mix in space.usual:
        assert mix.size_bytes == plans[mix.name].size_bytes, mix.name
        assert mix.types == {t.name: plans[mix.name][t.name].type for t in space.tensors}, mix.name
        if mix.kind == "uniform":
            assert mix.size_bytes == space.size_of(mix.types)
            goal = Goal(bits=plans[mix.name].bits_per_weight * (1 + 1e-12))
            assert space.limit_of(goal) == mix.size_bytes
    assert min(mix.size_bytes for mix in space.usual) >= space.size_of(space.smallest())


def test_nothing_is_planned_again_to_solve(model, monkeypatch) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    for module in ("goal", "run"):
        monkeypatch.setattr(f"whisq.search.{module}.make_plan", None)
    for goal in (Goal(bits=10.0), Goal(size_bytes=space.size_of(space.smallest())), Goal(divergence=0.1)):
        assert searched(model, goal, space).mix.size_bytes > 0
    assert len(curve(space, sensitivity_of(space))) > len(space.usual)


def test_a_goal_out_of_reach_is_refused_before_measuring_with_what_is_possible(model) -> None:
    space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
    smallest, largest = sizes_of_mixes(space)
    assert smallest == whisq.make_plan(model, whisq.Recipe(Q4, embedding=Q8)).size_bytes
    assert largest == whisq.make_plan(model, whisq.Recipe(F16)).size_bytes
    said = rf"the smallest possible file has {smallest / 1e6:.2f} MB \({smallest} bytes\)"
    # The calibration would be looked at to measure.
    with pytest.raises(PlanError, match=f"are too few: {said}"):
        search(model, None, Goal(size_bytes=smallest - 1), space)
    with pytest.raises(PlanError, match=f"leave nothing to choose: {said}"):
        search(model, None, Goal(size_bytes=largest + 1), space)
    for bits in (1.0, 40.0):
        with pytest.raises(PlanError, match=r"the smallest possible file has [\d.]+ bits per weight, the model in f16"):
            search(model, None, Goal(bits=bits), space)
    with pytest.raises(PlanError, match="a model that only guesses"):
        search(model, None, Goal(divergence=50.0), space)
    for goal in (Goal(size_bytes=smallest), Goal(size_bytes=largest)):
        refuse_out_of_reach(goal, (smallest, largest), model)


def test_the_embedding_joins_from_q8_0_up_and_lower_only_by_name(model) -> None:
    tight = Goal(size_bytes=sizes_of_mixes(Space.of(model, (), "transcribe.cpp", (), ()))[0])
    space = Space.of(model, (), "transcribe.cpp", (), ())
    assert [kind.name for kind in space.types[TOKEN_EMBEDDING]] == ["q8_0", "f16"]
    recipe = searched(model, tight, space).recipe
    assert recipe.embedding is Q8
    assert not any("token_embedding" in str(rule) for rule in recipe.rules)
    assert "embedding = 'q8_0'" in whisq.save_recipe(recipe)
    assert whisq.make_plan(model, recipe)[TOKEN_EMBEDDING].type is Q8
    named = Space.of(model, (), "transcribe.cpp", (), (), Q5)
    assert named.types[TOKEN_EMBEDDING] == (Q5,)
    assert searched(model, Goal(bits=12.0), named).recipe.embedding is Q5
    for kept in (
        Space.of(model, (), "transcribe.cpp", (), (), F16),
        Space.of(model, (), "transcribe.cpp", (r"decoder\.token_embedding.*",), ()),
        Space.of(model, ("q4_0", "q5_0"), "transcribe.cpp", (), ()),
    ):
        assert TOKEN_EMBEDDING not in kept.types
        assert searched(model, Goal(bits=12.0), kept).recipe.embedding is None
    with pytest.raises(PlanError, match="does not load iq4_nl"):
        Space.of(model, (), "transcribe.cpp", (), (), TYPES["iq4_nl"])


def test_what_was_measured_without_the_embedding_still_serves(model) -> None:
    before = sensitivity_of(Space.of(model, (), "transcribe.cpp", (), (), F16))
    space = Space.of(model, (), "transcribe.cpp", (), ())
    found = solve(model, None, Goal(bits=12.0), space, before)
    plan = whisq.make_plan(model, found.recipe)
    assert plan[TOKEN_EMBEDDING].type is F16
    assert plan.size_bytes == found.mix.size_bytes
    assert plan.bits_per_weight <= 12.0
    with pytest.raises(PlanError, match=r"token_embedding\.weight was not measured"):
        solve(model, None, Goal(bits=12.0), Space.of(model, (), "transcribe.cpp", (), (), Q8), before)


def test_bits_are_those_of_the_result_not_of_an_f32_source(tmp_path) -> None:
    path = write_model(tmp_path / "f32.bin", WIDE, kind=0)
    with whisq.open_model(path) as model:
        found = searched(model, Goal(bits=9.0), Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ()))
        assert 8.9 <= whisq.make_plan(model, found.recipe).bits_per_weight <= 9.0


def test_it_says_so_when_a_uniform_type_is_better(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    found = searched(model, Goal(bits=10.0), space)
    assert found.better_than_all
    assert not replace(found, others=(replace(found.mix, name="q4_0", kind="uniform"),)).better_than_all
    rival = Mix("q4_0", "uniform", found.mix.size_bytes, found.mix.predicted / 2, None)
    assert not replace(found, others=(rival,)).better_than_all
    assert not replace(found, others=(replace(rival, size_bytes=rival.size_bytes - 1),)).better_than_all
    assert replace(found, others=(replace(rival, size_bytes=rival.size_bytes + 1),)).better_than_all
    measured = replace(found.mix, measured=0.5)
    assert not replace(found, mix=measured, others=(replace(rival, measured=0.4),)).better_than_all


def test_the_curve_has_all_uniform_types_and_a_mix_of_each_size_that_is_no_worse(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    found = curve(space, sensitivity_of(space))
    uniform = {mix.name: mix for mix in found if mix.kind == "uniform"}
    assert {"q4_0", "q5_1", "q8_0"} <= uniform.keys()
    mixes = [mix for mix in found if mix.kind == "searched"]
    assert len(mixes) == len({mix.size_bytes for mix in uniform.values()})
    for mix in mixes:
        rivals = [other for other in uniform.values() if other.size_bytes <= mix.size_bytes]
        assert all(mix.predicted <= other.predicted * (1 + 1e-6) for other in rivals)
    assert any(mix.kind == "preset" for mix in found)


def test_an_asked_type_that_fits_none_of_the_matrices_is_not_missed(tmp_path) -> None:
    # Rows of 64 fit no K type once mlp.2, whose rows have 256, is protected.
    with whisq.open_model(write_model(tmp_path / "narrow.bin", NARROW)) as narrow:
        space = Space.of(narrow, ("q4_0", "q4_K"), "transcribe.cpp", (r".*mlp\.2\.weight",), ())
        assert {kind.name for kind in space.asked} == {"q4_0"}
        harms = {t.name: {kind.name: 1.0 for kind in space.types[t.name]} for t in space.tensors}
        known = Sensitivity(harms, 1.0, 1.0, (), {"method": "ggml", "tokens": 1}, {})
        found = solve(narrow, None, Goal(bits=20.0), space, known)  # type: ignore[arg-type]  # a .bin needs none
    assert len(found.recipe.rules) == len(space.tensors)
