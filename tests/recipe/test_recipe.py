"""Rules, selectors, recipes as TOML, and what the presets say for small and large models."""

from dataclasses import replace

import pytest

from tests.support.models import NARROW
from whisq import Recipe, load_recipe, parse_rule, save_recipe
from whisq.errors import RecipeError, TypeNameError
from whisq.recipe import Rule, Selector, preset_names
from whisq.recipe.recipe import ROLE_FAMILIES, glob_as_regex, match_name
from whisq.types import TYPES
from whisq.whisper import Dimensions, expected_tensors

LARGE = Dimensions(51866, 1500, 1280, 20, 32, 448, 1280, 20, 32, 128)
SMALL = Dimensions(51864, 1500, 384, 6, 4, 448, 384, 6, 4, 80)


def test_the_last_equals_sign_splits():
    rule = parse_rule(r"(?=enc).*\.weight=Q4_k")
    assert rule.what == r"(?=enc).*\.weight"
    assert rule.type is TYPES["q4_K"]


@pytest.mark.parametrize("text", ["q4_0", "=q4_0", "pattern=", ""])
def test_what_is_no_rule(text):
    with pytest.raises(RecipeError, match="is not a rule") as caught:
        parse_rule(text)
    assert "PATTERN=TYPE" in caught.value.hint


def test_unknown_type_names_the_rule():
    with pytest.raises(TypeNameError, match=r"in the rule '\.\*=q9_9'"):
        parse_rule(".*=q9_9")


def test_bad_expression():
    with pytest.raises(RecipeError, match="not a regular expression"):
        parse_rule("(mlp=q4_0")


def test_a_glob_is_told_what_it_would_be():
    with pytest.raises(RecipeError) as caught:
        parse_rule("*.mlp.*.weight=q4_0")
    assert r".*\.mlp\..*\.weight" in caught.value.hint


@pytest.mark.parametrize("pattern", [".*", r".*mlp.*\.weight", r"decoder\..*", r"encoder\.blocks\.[0-2]\..*"])
def test_expressions_are_not_taken_for_globs(pattern):
    assert glob_as_regex(pattern) is None


def test_a_pattern_must_match_the_whole_name():
    assert match_name("mlp", "encoder.blocks.0.mlp.0.weight") is None
    assert match_name(r".*mlp.*", "encoder.blocks.0.mlp.0.weight").dialect == "canonical"


@pytest.mark.parametrize(
    ("pattern", "dialect"),
    [
        (r"dec\.blocks\.0\.cross_attn\.q\.weight", "transcribe.cpp"),
        (r"model\.decoder\.layers\.0\.encoder_attn\.q_proj\.weight", "huggingface"),
        (r"decoder\.blocks\.0\.cross_attn\.query\.weight", "canonical"),
    ],
)
def test_patterns_in_every_dialect(pattern, dialect):
    assert match_name(pattern, "decoder.blocks.0.cross_attn.query.weight").dialect == dialect


def test_first_match_wins():
    recipe = Recipe(TYPES["q8_0"], (parse_rule(".*mlp.*=q4_0"), parse_rule(".*=q5_0")))
    specs = expected_tensors(NARROW)
    assert recipe.first_rule(specs["encoder.blocks.0.mlp.0.weight"], NARROW)[0] == 0
    assert recipe.first_rule(specs["encoder.blocks.0.attn.out.weight"], NARROW)[0] == 1


def test_protection_and_lifting():
    specs = expected_tensors(NARROW)
    embedding, block = specs["decoder.token_embedding.weight"], specs["encoder.blocks.0.mlp.0.weight"]
    assert Recipe(TYPES["q4_0"]).protects(embedding)
    assert not Recipe(TYPES["q4_0"]).protects(block)
    lifted = Recipe(TYPES["q4_0"], unprotect=(r"decoder\.token_embedding\.weight",))
    assert not lifted.protects(embedding)
    assert replace(lifted, protect=(".*token.*",)).protects(embedding)
    assert Recipe(TYPES["q4_0"], protect=(r".*blocks\.0.*",)).protects(block)


def test_round_trip_through_toml(tmp_path):
    recipe = Recipe(
        TYPES["q5_0"],
        (
            parse_rule(r".*it's\.weight=q4_0"),
            parse_rule(r".*mlp.*\.weight=q6_K"),
            Rule(Selector(ROLE_FAMILIES["attention"], "decoder", (0.5, 1.0)), TYPES["q8_0"], reason='says "why"'),
        ),
        protect=(r"encoder\.blocks\.0.*",),
        unprotect=(r"decoder\.token_embedding\.weight",),
        embedding=TYPES["q8_0"],
        on_misfit="error",
        name="mine: it's a \x1b, a \x7f and a 😀",
    )
    path = tmp_path / "mine.toml"
    path.write_text(save_recipe(recipe, {"whisq": "0.1.0"}))
    back = load_recipe(path)
    assert [(r.what, r.type, r.reason) for r in back.rules] == [(r.what, r.type, r.reason) for r in recipe.rules]
    assert replace(back, rules=()) == replace(recipe, rules=())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not toml", "not valid TOML"),
        ("[recipe]\n", "no default type"),
        ('[recipe]\ndefault = "q9"\n', "unknown tensor type"),
        ('[recipe]\ndefault = "q4_0"\nfoo = 1\n', "unknown key 'foo'"),
        ('[recipe]\ndefault = "q4_0"\non_misfit = "maybe"\n', "on_misfit"),
        ('[recipe]\ndefault = "q4_0"\n[[rules]]\ntype = "q4_0"\n', "either a pattern or"),
        ('[recipe]\ndefault = "q4_0"\n[[rules]]\npattern = ".*"\n', "has no type"),
        ('[recipe]\ndefault = "q4_0"\n[[rules]]\npattern = "("\ntype = "q4_0"\n', "not a regular expression"),
        ('[recipe]\ndefault = "q4_0"\n[[rules]]\nroles = ["foo"]\ntype = "q4_0"\n', "unknown role 'foo'"),
        ('[recipe]\ndefault = "q4_0"\n[[rules]]\nstack = "foo"\ntype = "q4_0"\n', "unknown stack"),
        ('[recipe]\ndefault = "q4_0"\n[[rules]]\ndepth = [1, 0]\ntype = "q4_0"\n', "depth"),
        ('[recipe]\ndefault = "q4_0"\nprotect = "x"\n', "protect"),
        ("rules = 3\n[recipe]\ndefault = 'q4_0'\n", "must be a list of tables"),
    ],
)
def test_bad_recipes_name_the_file_and_the_place(tmp_path, content, message):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises((RecipeError, TypeNameError)) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert "bad.toml" in str(caught.value)
    assert caught.value.hint


def test_no_such_recipe_lists_the_presets():
    with pytest.raises(RecipeError) as caught:
        load_recipe("blanced")
    assert "balanced compact conservative" in caught.value.hint


def assigned(recipe: Recipe, dims: Dimensions):
    for spec in expected_tensors(dims).values():
        if spec.is_matrix and not recipe.protects(spec):
            first = recipe.first_rule(spec, dims)
            yield spec, (recipe.rules[first[0]].type if first else recipe.default).precision_db


@pytest.mark.parametrize("dims", [SMALL, LARGE], ids=["tiny", "large"])
@pytest.mark.parametrize("name", preset_names())
def test_presets_follow_the_priorities(name, dims):
    recipe = load_recipe(name)
    found = list(assigned(recipe, dims))

    def least(condition):
        return min(precision for spec, precision in found if condition(spec))

    def most(condition):
        return max(precision for spec, precision in found if condition(spec))

    # Queries and keys are attention, and cost less than feed-forward weights of their size: the one place where
    # what was measured contradicts the priorities.
    def is_attention(spec):
        return spec.role.endswith(("attn.value", "attn.out"))

    assert least(is_attention) >= least(lambda s: "mlp" in s.role)
    assert least(is_attention) >= TYPES["q5_K"].precision_db
    third = dims.n_audio_layer / 3
    for role in {s.role for s, _ in found if s.stack == "encoder"}:
        early = least(lambda s, role=role: s.stack == "encoder" and s.role == role and s.layer < third)
        assert early >= most(lambda s, role=role: s.stack == "encoder" and s.role == role and s.layer >= third)
    assert most(lambda s: "mlp" in s.role and (s.stack == "decoder" or s.layer >= third)) <= TYPES["q6_K"].precision_db
    assert recipe.embedding is TYPES["q8_0"]


def test_presets_are_ordered_by_size():
    def bits(name):
        recipe = load_recipe(name)
        specs = [s for s in expected_tensors(LARGE).values() if s.is_matrix and not recipe.protects(s)]
        rules = [recipe.first_rule(s, LARGE) for s in specs]
        kinds = [recipe.rules[r[0]].type if r else recipe.default for r in rules]
        return sum(k.bits_per_weight for k in kinds) / len(kinds)

    assert bits("conservative") > bits("balanced") > bits("compact")


def test_depth_means_the_same_share_of_4_and_32_layers():
    first_half = Selector(depth=(0, 0.5))
    for dims in (SMALL, LARGE):
        hit = [s for s in expected_tensors(dims).values() if s.stack == "encoder" and first_half.matches(s, dims)]
        assert {s.layer for s in hit} == set(range(dims.n_audio_layer // 2))
