"""Plans: what happens to every tensor, and why."""

from dataclasses import replace

import pytest

from tests.support.containers import write_model
from tests.support.models import NARROW, WIDE
from whisq import Recipe, load_recipe, make_plan, open_model, parse_rule, quantize
from whisq.errors import PlanError
from whisq.types import TYPES

pytestmark = pytest.mark.usefixtures("any_vocabulary")

EMBEDDING = "decoder.token_embedding.weight"
LIFT = (r"decoder\.token_embedding\.weight",)


@pytest.fixture
def f16(tmp_path):
    with open_model(write_model(tmp_path / "f16.bin", WIDE)) as model:
        yield model


@pytest.fixture
def f32(tmp_path):
    with open_model(write_model(tmp_path / "f32.bin", WIDE, kind=0)) as model:
        yield model


def verdict(plan, runtime):
    return next(v for v in plan.verdicts if v.runtime == runtime)


def test_what_is_never_quantized(f16):
    plan = make_plan(f16, Recipe(TYPES["q4_0"], (parse_rule(".*=q4_0"),)))
    for a in plan.assignments:
        if a.tensor.name in (EMBEDDING, "encoder.positional_embedding", "encoder.conv1.bias"):
            assert a.why == "protected"
        if not a.tensor.spec.is_matrix or a.tensor.name == EMBEDDING:
            assert not a.type.is_quantized
            assert a.type is a.tensor.type
        else:
            assert a.type is TYPES["q4_0"]
            assert a.why == "rule"


def test_an_f32_source_is_stored_as_whisper_cpp_reserves_it(f32):
    plan = make_plan(f32, Recipe(TYPES["q4_0"]))
    assert plan[EMBEDDING].type is TYPES["f16"]
    assert plan["encoder.conv1.weight"].type is TYPES["f16"]
    assert plan["encoder.conv1.bias"].type is TYPES["f32"]
    assert plan["encoder.positional_embedding"].type is TYPES["f32"]
    assert verdict(plan, "whisper.cpp-pr3605").loads


def test_f32_throughout_is_f32_only_where_nothing_is_protected(f32):
    names = (EMBEDDING, "encoder.conv1.weight")
    protected = make_plan(f32, Recipe(TYPES["f32"]))
    assert [protected[name].type.name for name in names] == ["f16", "f16"]
    throughout = make_plan(f32, Recipe(TYPES["f32"], unprotect=LIFT))
    assert [throughout[name].type.name for name in names] == ["f32", "f32"]


def test_keep_f32_keeps_them_and_says_who_refuses(f32):
    plan = make_plan(f32, Recipe(TYPES["q4_0"]), keep_f32=True)
    assert plan[EMBEDDING].type is TYPES["f32"]
    assert plan["encoder.conv1.weight"].type is TYPES["f32"]
    assert verdict(plan, "transcribe.cpp").loads
    assert not verdict(plan, "whisper.cpp-pr3605").loads


def test_a_plan_does_not_depend_on_the_one_before(f16):
    recipe = load_recipe("compact")
    first = make_plan(f16, recipe)
    make_plan(f16, Recipe(TYPES["q8_0"]))
    assert make_plan(f16, recipe).assignments == first.assignments


def test_misfits_fall_back_to_the_next_precise_type(tmp_path):
    with open_model(write_model(tmp_path / "m.bin", NARROW)) as model:
        for asked, got in (("q4_K", "q5_0"), ("q6_K", "q8_0"), ("iq4_xs", "iq4_nl"), ("q2_K", "q4_0")):
            plan = make_plan(model, Recipe(TYPES[asked]))
            narrow, wide = plan["encoder.blocks.0.mlp.0.weight"], plan["encoder.blocks.0.mlp.2.weight"]
            assert (narrow.type.name, narrow.is_fallback) == (got, True)
            assert (wide.type.name, wide.is_fallback) == (asked, False)


def test_misfits_can_be_refused_all_at_once(tmp_path):
    with open_model(write_model(tmp_path / "m.bin", NARROW)) as model, pytest.raises(PlanError) as caught:
        make_plan(model, Recipe(TYPES["q4_K"], on_misfit="error"))
    assert "encoder.blocks.0.attn.query.weight: rows of 64 do not fit q4_K" in str(caught.value)
    assert "decoder.blocks.2.mlp.0.weight" in str(caught.value)


def test_target_whisper_cpp_takes_the_embedding_along(f16):
    plan = make_plan(f16, Recipe(TYPES["q5_0"]), target="whisper.cpp")
    embedding = plan[EMBEDDING]
    assert (embedding.type.name, embedding.why, embedding.reason) == ("q5_0", "embedding", "the embedding's own type")
    assert verdict(plan, "whisper.cpp").loads
    assert plan.recipe.embedding is TYPES["q5_0"]
    same = make_plan(f16, Recipe(TYPES["q5_0"], unprotect=LIFT), target="whisper.cpp")
    assert [a.type for a in plan.assignments] == [a.type for a in same.assignments]
    # A runtime that loads mixes, and none at all, leave the guideline alone.
    for target in ("transcribe.cpp", None):
        assert make_plan(f16, Recipe(TYPES["q5_0"]), target=target)[EMBEDDING].why == "protected"


def test_an_embedding_that_the_user_protects_stays_and_the_target_refuses(f16):
    with pytest.raises(PlanError, match="the token embedding is f16, the other matrices q5_0") as caught:
        make_plan(f16, Recipe(TYPES["q5_0"], protect=(r".*token_embedding.*",)), target="whisper.cpp")
    assert f"leave out --protect for {EMBEDDING}" in caught.value.hint


def test_the_embeddings_own_type_is_that_whatever_the_rules_say(f16):
    recipe = Recipe(TYPES["q4_0"], (parse_rule(r"decoder\.token_embedding\.weight=q5_1"),), embedding=TYPES["q8_0"])
    plan = make_plan(f16, recipe)
    assert (plan[EMBEDDING].type.name, plan[EMBEDDING].rule) == ("q8_0", None)
    kept = make_plan(f16, replace(recipe, embedding=TYPES["f16"]))
    assert kept[EMBEDDING].type.name == "f16"


def test_rows_that_a_type_does_not_fit_get_types_of_about_its_size_for_stock_whisper_cpp(tmp_path):
    with open_model(write_model(tmp_path / "m.bin", NARROW)) as model, pytest.raises(PlanError) as caught:
        make_plan(model, Recipe(TYPES["q4_K"]), target="whisper.cpp")
    assert "use one type that fits all rows: iq4_nl or q4_0" in caught.value.hint


def test_a_file_that_no_runtime_loads_is_a_warning(f16):
    plan = make_plan(f16, Recipe(TYPES["iq4_nl"]), container="gguf")
    (finding,) = plan.findings
    assert finding.code == "loads-nowhere"
    assert "transcribe.cpp: it does not take iq4_nl" in finding.message
    assert finding.hint.startswith("for transcribe.cpp: use types among f32 f16")


def test_target_whisper_cpp_refuses_a_mix_and_names_the_rule(f16):
    with pytest.raises(PlanError) as caught:
        make_plan(f16, Recipe(TYPES["q5_0"], (parse_rule(".*mlp.*=q4_0"),), unprotect=LIFT), target="whisper.cpp")
    assert "'.*mlp.*'=q4_0" in str(caught.value)


def test_target_transcribe_cpp_refuses_types_it_does_not_take(f16):
    with pytest.raises(PlanError) as caught:
        make_plan(f16, Recipe(TYPES["q8_0"], (parse_rule(r".*mlp.*\.weight=q3_K"),)), target="transcribe-cpp")
    assert "q3_K" in str(caught.value)
    assert "q4_K" in caught.value.hint


def test_unknown_target(f16):
    with pytest.raises(PlanError, match="unknown runtime 'foo'"):
        make_plan(f16, Recipe(TYPES["q8_0"]), target="foo")


def test_a_quantized_source_is_refused_unless_allowed(tmp_path, f16):
    quantize(make_plan(f16, Recipe(TYPES["q8_0"])), tmp_path / "q.bin")
    with open_model(tmp_path / "q.bin") as model:
        with pytest.raises(PlanError, match="already quantized") as caught:
            make_plan(model, Recipe(TYPES["q4_0"]))
        assert "--allow-requantize" in caught.value.hint
        plan = make_plan(model, Recipe(TYPES["q4_0"]), allow_requantize=True)
        quantize(plan, tmp_path / "q2.bin")
        same = make_plan(model, Recipe(TYPES["q8_0"]), allow_requantize=True)
        quantize(same, tmp_path / "q3.bin")
    assert (tmp_path / "q3.bin").read_bytes() == (tmp_path / "q.bin").read_bytes()


def test_reasons_read_well(tmp_path):
    with open_model(write_model(tmp_path / "m.bin", NARROW)) as model:
        plan = make_plan(model, Recipe(TYPES["q4_K"]))
    assert plan[EMBEDDING].reason == "protected: never quantized"
    assert "which rows of 64 do not fit" in plan["encoder.blocks.0.mlp.0.weight"].reason
    assert plan["encoder.blocks.0.mlp.2.weight"].reason == "the default type"
