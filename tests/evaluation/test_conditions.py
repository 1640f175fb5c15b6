"""Conditions by which a script stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.evaluations import made_evaluation
from whisq.errors import DataError
from whisq.evaluation.conditions import Condition, conditions_met, parse_condition


@pytest.fixture(scope="module")
def ran():
    """The two candidates of the made evaluation that ran."""
    found = made_evaluation()
    return replace(found, models=found.models[:3])


def met(evaluation, *texts):
    return [one.label for one in conditions_met(evaluation, tuple(map(parse_condition, texts)))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("divergence > 0.02", Condition("divergence", "", ">", 0.02)),
        ("words.low>0", Condition("words", "low", ">", 0.0)),
        (" size >= 45MB ", Condition("size", "", ">=", 45.0)),
        ("changed.high > 2%", Condition("changed", "high", ">", 2.0)),
        ("divergence<=1e-3 nats", Condition("divergence", "", "<=", 0.001)),
    ],
)
def test_what_is_read(text, expected) -> None:
    assert parse_condition(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("divergence", "is not a condition: expected NAME > NUMBER"),
        ("divergence = 0.02", "is not a condition"),
        ("kl > 0.02", "'kl' is nothing that is measured; expected one of words, changed, divergence, size"),
        ("words.max > 0", "words.max: expected low or high"),
        ("size.high > 3", "a size has no interval"),
        ("size > 45KB", "size is in MB, not KB"),
        ("words > 0.5%", "words is in points, not %"),
        ("divergence > many", "is not a condition"),
    ],
)
def test_a_wrong_expression_says_which_word_is_wrong(text, told) -> None:
    with pytest.raises(DataError, match=r"(?s).*") as raised:
        parse_condition(text)
    assert told in str(raised.value)
    assert raised.value.hint == "--fail-if 'divergence > 0.02'"


def test_candidates_for_which_it_holds(ran) -> None:
    assert met(ran, "words.low > 5") == ["harmed"]
    assert met(ran, "words > 100", "size > 1000MB") == []
    assert met(ran, "size > 0") == ["same", "harmed"]
    found = ran.summaries[2].divergence
    assert met(ran, f"divergence > {found.estimate * 0.99}", f"divergence.low > {found.estimate}") == ["harmed"]


def test_what_was_not_measured_cannot_be_judged(ran) -> None:
    without = replace(ran, models=tuple(replace(model, inside=()) for model in ran.models))
    with pytest.raises(DataError, match="cannot be judged for same: it was not measured"):
        met(without, "divergence > 0.1")
    with pytest.raises(DataError, match=r"cannot be judged for broken: transcribe\.cpp: it does not take q2_K"):
        met(made_evaluation(), "words > 100")
