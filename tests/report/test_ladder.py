"""Which file to ship, as people read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.evaluation.test_which_file import Q4, Q5, Q8, REFERENCE, file
from whisq.evaluation.results import Evaluation
from whisq.evaluation.which_file import MeasuredFile, which_file
from whisq.report.ladder import answer_lines, ladder_table, loads_text, number_of_nats
from whisq.runtimes.registry import RUNTIMES

NAMES = [runtime.name for runtime in RUNTIMES]


def test_the_answer_comes_first_with_its_figures() -> None:
    first, second = answer_lines(which_file([REFERENCE, Q8, Q5, Q4]))
    assert first.startswith("the smallest not worse than f16 as far as this audio can tell: q8, ")
    assert "(0.0003 nats per token, " in first
    assert "1.0 % of words changed, 0.0 to 2.0)" in first
    assert second.startswith("the smallest that diverges 0.01 nats per token or less: q5, ")


def test_a_runtime_that_does_not_load_it_has_an_answer_of_its_own() -> None:
    everywhere = frozenset(NAMES)
    mix = file("mix", 35, 0.0003, everywhere - {"whisper.cpp"})
    lines = answer_lines(which_file([REFERENCE, mix, replace(Q8, loads_in=everywhere)], NAMES))
    assert "mix" in lines[0]
    assert lines[1].startswith("for stock whisper.cpp, the smallest not worse than f16")
    assert "q8" in lines[1]


def test_without_an_answer_the_closest_is_named() -> None:
    lines = answer_lines(which_file([REFERENCE, Q4]))
    assert lines[0].startswith(
        "no file not worse than f16 as far as this audio can tell was found; q4 is closest (0.08"
    )


def test_what_was_dropped_is_said_with_the_reason() -> None:
    lines = answer_lines(which_file([REFERENCE, Q5, file("balanced", 50, 0.006)]))
    assert lines[-1].endswith("larger than another and not closer beyond the interval: balanced (beside q5)")


def test_words_alone_and_one_clip_answer_nothing() -> None:
    (line,) = answer_lines(which_file([REFERENCE, replace(Q8, sums=(), tokens=())]))
    assert line.startswith("words alone cannot tell these files apart from the reference")
    one = replace(Q8, sums=(0.001,), tokens=(30,))
    assert any("one clip: it takes more for an interval" in line for line in answer_lines(which_file([REFERENCE, one])))
    assert answer_lines(which_file([REFERENCE])) == []


def test_without_words_nothing_is_called_not_worse() -> None:
    lines = answer_lines(which_file([replace(REFERENCE, words=None), replace(Q8, words=None, changed=None)]))
    assert lines[0].startswith("no words were compared")
    assert not any("not worse" in line for line in lines)


def test_the_table_has_the_columns_that_were_measured(made: Evaluation) -> None:
    table = ladder_table(made.which_file)
    assert table.columns == ("file", "MB", "divergence (95 %)", "against the reference")
    assert {row[0]: row[-1] for row in table.rows} == {
        "reference": "reference", "same": "perhaps within the loss", "harmed": "worse in words", "broken": "not run"
    }  # fmt: skip
    whole = ladder_table(which_file([REFERENCE, Q8]))
    assert whole.columns[-1] == "loads in"
    assert whole.rows[0][2:4] == ("0.00030 (0.00029 to 0.00031)", "1.0 (0.0 to 2.0)")


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.01, "0.01"), (0.08211, "0.0821"), (0.000453, "0.00045")])
def test_nats(value: float, text: str) -> None:
    assert number_of_nats(value) == text


def test_runtimes_by_their_short_names() -> None:
    assert loads_text(None) == "–"
    assert loads_text(frozenset()) == "none"
    assert loads_text(frozenset(NAMES)) == "stock whisper.cpp, PR 3605, transcribe.cpp, candle"


def test_a_file_of_unknown_runtimes_has_a_dash() -> None:
    assert ladder_table(which_file([REFERENCE, MeasuredFile("x", 1)])).rows[0][-1] == "–"
