"""Patterns mean what they mean to ``re``, and none can hang."""

import random
import re

import pytest

from tests.support.models import NARROW
from whisq import load_recipe, parse_rule
from whisq.errors import RecipeError
from whisq.recipe.patterns import full_matches, is_cheap
from whisq.whisper import dialect_names, expected_tensors

NAMES = tuple(name for one in expected_tensors(NARROW) for name in dialect_names(one).values())
HOSTILE = [
    "(.+)+!",
    "(a|a)*b|(.*)*!",
    "(.*.*.*)*!",
    "((.+)+)+!",
    "(?:.?){30}.{40}!",
    "(.|.)" * 40 + "!",
    ".*" * 12 + "!",
    ".?" * 30 + "!",
    r"(.+)(.+)*\1+!",
    "(?=(.+)+!)x",
    "(?i)(.+)+!",
    "(?:(?:.{0,20}){0,20}){0,20}!",
]
WRONG = ["(", "[", "(?a)(?u)x", "(?L)x", "a{99999999999999999999}", "a**", "(?P<a>x)(?P<a>y)", "x" * 30_000, "a{3,2}"]
WRONG += ["(" * 3000 + ")" * 3000, "(?:" * 3000 + ")" * 3000, "(?<=.*)x", r"\q", "[z-a]", "a(?i)", r"\1", "(?P<é\0>x)"]
MEANT = [
    r"(?=.*mlp)(?!encoder).*\.weight",
    r"(?i)DECODER\..*",
    r"(?P<side>encoder|decoder)\.(?P=side)?.*",
    r"(?<!x)decoder(?#a comment)\..*",
    r"(?x) decoder \. .*",
    r"(?s:.)*query.*",
    r"encoder\.blocks\.(?:[0-1]|2)\..*",
    r"(?:enc|dec)(?:oder)?\.(.+\.)?(q|query|k|key)(_proj)?\.weight",
    "(" * 80 + ".*" + ")" * 80,
    "(?>.*)weight|.*bias",
    ".*?[^0-9]weight$",
    r"\Adecoder\b.*\Z",
    "",
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=range(len(HOSTILE)))
def test_none_hangs(pattern, monkeypatch):
    monkeypatch.setattr("whisq.recipe.patterns.MOST_SECONDS", 0.1)
    assert not is_cheap(pattern)
    with pytest.raises(RecipeError, match="takes more than"):
        full_matches(pattern, ["a" * 60])
    with pytest.raises(RecipeError, match="takes more than"):
        full_matches(pattern, NAMES[:1])


@pytest.mark.parametrize("pattern", WRONG, ids=range(len(WRONG)))
def test_what_is_no_pattern_is_an_error_that_says_so(pattern):
    with pytest.raises(RecipeError, match="is not a regular expression: ") as caught:
        parse_rule(f"{pattern}=q4_0")
    assert caught.value.hint


@pytest.mark.parametrize("pattern", MEANT, ids=range(len(MEANT)))
def test_what_is_matched_elsewhere_means_the_same(pattern):
    try:
        expected = [re.fullmatch(pattern, name) is not None for name in NAMES]
    except re.error:
        pytest.skip("this Python's re does not know it")
    assert full_matches(pattern, NAMES) == expected


def test_patterns_at_random_mean_the_same_and_cheap_ones_are_cheap():
    random_ = random.Random(7)
    pieces = [
        ".*",
        ".",
        r"\.",
        "encoder",
        "decoder",
        "blocks",
        "(a|b|query)",
        "[0-3]",
        "[^x]+",
        "mlp",
        "attn",
        "w?",
        "|",
    ]
    pieces += [
        "(",
        ")",
        "(?:",
        "(?=",
        "(?!",
        "*",
        "+",
        "{1,3}",
        r"\d",
        r"\w+",
        "weight",
        "$",
        "^",
        "(?i)",
        "]",
        "{",
        r"\b",
    ]
    cheap = tried = 0
    while tried < 300:
        pattern = "".join(random_.choices(pieces, k=random_.randint(1, 9)))
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            with pytest.raises(RecipeError, match="(?s)" + re.escape(str(error))):
                full_matches(pattern, NAMES[:1])
            continue
        tried += 1
        cheap += is_cheap(pattern)
        assert full_matches(pattern, NAMES[::7]) == [compiled.fullmatch(name) is not None for name in NAMES[::7]]
    assert 30 < cheap < tried


@pytest.mark.parametrize(
    "pattern", [".*", r".*mlp.*\.weight", r"decoder\.blocks\.[0-9]+\..*", ".*(query|key).*", "a{2}"]
)
def test_everyday_patterns_start_no_process(pattern):
    assert is_cheap(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+", "a++", "(a)*", "(?=a)", r"(a)\1", ".*.*.*.*", "(?i)a", "a|*", "(a", "{"])
def test_what_is_not_seen_to_be_cheap(pattern):
    assert not is_cheap(pattern) or pattern == "(a"


def test_a_recipe_names_the_rule_that_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("whisq.recipe.patterns.MOST_SECONDS", 0.1)
    path = tmp_path / "slow.toml"
    path.write_text("[recipe]\ndefault='q4_0'\n[[rules]]\npattern='(.+)+x'\ntype='q8_0'\n")
    recipe, spec = load_recipe(path), expected_tensors(NARROW)["decoder.blocks.0.mlp.0.weight"]
    with pytest.raises(RecipeError, match=r"'\(\.\+\)\+x' takes more than 0.1 s"):
        recipe.first_rule(spec, NARROW)
