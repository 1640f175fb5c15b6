"""Every mistake that people make with rules: one warning naming the rule, with a hint that mends it."""

import pytest

from tests.support.containers import write_model
from tests.support.models import NARROW, WIDE
from whisq import Recipe, make_plan, open_model, parse_rule
from whisq.types import TYPES


@pytest.fixture
def found(tmp_path):
    def find(*rules, default="q8_0", dims=NARROW, **recipe):
        with open_model(write_model(tmp_path / "m.bin", dims)) as model:
            asked = Recipe(TYPES[default], tuple(parse_rule(rule) for rule in rules), **recipe)
            return make_plan(model, asked).findings

    return find


def test_sound_rules_are_silent(found):
    assert not found(r"encoder\.blocks\..*mlp.*\.weight=q4_0", r".*attn.*\.weight=q5_0")


def test_no_match_offers_our_name_for_theirs(found):
    (finding,) = found(r".*attn_q\.weight=q4_0")
    assert finding.code == "no-match"
    assert finding.rule == 0
    assert r".*attn\.query\.weight" in finding.hint


def test_no_match_offers_the_nearest_names(found):
    (finding,) = found(r"encoder\.blocks\.0\.mlp\.1\.weight=q4_0")
    assert "encoder.blocks.0.mlp.0.weight" in finding.hint


def test_no_match_because_the_pattern_is_a_part(found):
    (finding,) = found("mlp=q4_0")
    assert "'.*mlp.*' would" in finding.hint


def test_a_glob_that_is_a_valid_expression(found):
    (finding,) = found("encoder*mlp*weight=q4_0")
    assert "'encoder.*mlp.*weight'" in finding.hint


def test_rule_that_matches_only_what_is_never_quantized(found):
    (finding,) = found(r".*\.bias=q4_0")
    assert finding.code == "never-quantized"
    assert "'.*\\.bias'=q4_0" in finding.message


def test_rule_for_the_protected_embedding_alone_says_how_to_lift_it(found):
    (finding,) = found(r"decoder\.token_embedding\.weight=q8_0")
    assert finding.code == "never-quantized"
    assert "--embedding q8_0 lifts that" in finding.hint


def test_the_guidelines_own_example_has_a_dead_rule(found):
    findings = found(
        r".*mlp.*\.weight=q4_0", r".*attn.*\.weight=q6_k", r"encoder\.blocks\.[0-2]\..*=q8_0", dims=WIDE, default="q5_0"
    )
    (finding,) = [f for f in findings if f.code == "shadowed"]
    assert finding.rule == 2
    assert r"'.*mlp.*\.weight'=q4_0" in finding.message
    assert finding.hint.startswith("put it first")
    repaired = found(
        r"encoder\.blocks\.[0-2]\..*=q8_0", r".*mlp.*\.weight=q4_0", r".*attn.*\.weight=q6_k", dims=WIDE, default="q5_0"
    )
    assert not repaired


@pytest.mark.parametrize("pattern", [".*", r"decoder\..*"])
def test_rule_that_reaches_for_a_protected_tensor(found, pattern):
    (finding,) = found(f"{pattern}=q4_0")
    assert finding.code == "protected"
    assert "decoder.token_embedding.weight" in finding.message
    narrower = finding.hint.split("'")[1]
    assert not found(f"{narrower}=q4_0")


def test_lifted_protection_is_no_mistake(found):
    assert not found(".*=q4_0", unprotect=(r"decoder\.token_embedding\.weight",))


def test_misfit(found):
    (finding,) = found(r".*attn.*\.weight=q6_K")
    assert finding.code == "misfit"
    assert "become q8_0" in finding.message
    assert not found(r".*attn.*\.weight=q6_K", dims=WIDE)


def test_misfit_of_the_default(found):
    (finding,) = found(default="q4_K")
    assert "the default type q4_K" in finding.message
    assert "become q5_0" in finding.message


def test_a_larger_result(found):
    assert "larger" in {finding.code for finding in found(default="f32")}


def test_unprotect_that_lifts_nothing(found):
    (finding,) = found(unprotect=("encoder",))
    assert "lifts nothing" in finding.message


def test_unprotect_of_what_cannot_be_quantized(found):
    (finding,) = found(unprotect=(r"encoder\.positional_embedding",))
    assert "stays f32" in finding.message


def test_protect_that_matches_nothing(found):
    (finding,) = found(protect=("foo",))
    assert "--protect 'foo' matches no tensor" in finding.message


def test_every_finding_has_a_hint(found):
    findings = found(".*attn_q=q4_0", ".*=q4_K", r".*\.bias=q4_0", ".*mlp.*=q5_0", default="f32")
    assert {f.code for f in findings} >= {"no-match", "protected", "never-quantized", "shadowed", "misfit"}
    assert all(f.hint for f in findings)
