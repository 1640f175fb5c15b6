"""Words and figures for people."""

import html
import json
import math
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from whisq.evaluation.results import Evaluation, ModelResult
from whisq.evaluation.speed import Timing
from whisq.report.figures import difference_figure, inside_figure, size_figure, speed_figure, spread
from whisq.report.search_curve import curve_figure
from whisq.report.tables import (
    Table,
    accuracy_table,
    difference_table,
    inside_table,
    markdown_lines,
    speed_table,
)
from whisq.report.tensor_map import map_figures
from whisq.report.texts import markdown_text, terminal_lines
from whisq.report.transcripts import marked_words, transcript_records, worst_order
from whisq.report.wording import audio_needed, in_chart, in_markdown, number, speed_remark, verdict_sentence
from whisq.screen import shown
from whisq.search import Mix
from whisq.units import duration


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "1.2"), (-3.0, "−3.0"), (-0.04, "0.0"), (None, "–"), (math.nan, "–"), (math.inf, "∞")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_signed_numbers() -> None:
    assert [number(value, 2, sign=True) for value in (0.5, -0.5, 0.001)] == ["+0.50", "−0.50", "0.00"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(43, "43 s"), (495, "8 min"), (3600, "1 h"), (6000, "1 h 40 min"), (111_600, "31 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_model_has_its_verdict_in_words(made: Evaluation) -> None:
    sentences = [verdict_sentence(made, index) for index in range(4)]
    assert sentences[0].startswith("reference: ")
    assert sentences[1].startswith("not distinguishable with this much audio: ")
    assert "showing a difference of 0.5 points takes about" in sentences[1]
    assert sentences[2].startswith("worse: +")
    assert sentences[3] == "not run: transcribe.cpp: it does not take q2_K"


def test_audio_needed_in_its_three_cases(made: Evaluation) -> None:
    found = made.summaries[1].difference
    assert "cannot be said" in audio_needed(replace(found, utterances_needed=None), 100)
    assert "from one utterance it cannot be said" in audio_needed(replace(found, utterances=1), 100)
    assert "this much audio is enough" in audio_needed(replace(found, utterances_needed=10), 100)
    assert "about 5 min of such audio, 3.0 times" in audio_needed(replace(found, utterances_needed=120), 100)


def test_tables_have_a_row_for_each_model(made: Evaluation) -> None:
    accuracy = accuracy_table(made)
    assert [row[0] for row in accuracy.rows] == ["reference", "same", "harmed", "broken"]
    assert accuracy.rows[3][3] == "not run"
    for table in (accuracy, difference_table(made), speed_table(made), inside_table(made)):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert difference_table(made).rows[1][-1] == "worse"


def test_markdown_has_every_figure_of_the_tables_and_the_verdicts(made: Evaluation) -> None:
    text = markdown_text(made)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    for table in (accuracy_table(made), difference_table(made), speed_table(made), inside_table(made)):
        assert list(table.columns) in rows
        assert all(list(row) in rows for row in table.rows)
    assert "- **harmed**: worse: +" in text
    assert markdown_lines(Table(("a", "b"), (("x|y", "1"),))) == ["| a | b |", "| --- | --: |", "| x\\|y | 1 |"]


HOSTILE = "<b>big</b> &lt; a*b_ _c_ `d` [e](f) | ~~g~~ q5_0\x1b[2J\u202e\nnext"


def test_markdown_shows_texts_of_others_as_they_are(made: Evaluation) -> None:
    """Read back by an independent reader of Markdown: no tag, link or emphasis has come of them, and no cell more."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    models = (made.models[0], *(replace(model, label=HOSTILE, failure=HOSTILE) for model in made.models[1:]))
    blocks = [block.children or [] for block in parser.parse(markdown_text(replace(made, models=models)))]
    kinds = {token.type for block in blocks for token in block}
    assert kinds == {"text", "strong_open", "strong_close", "softbreak"} | ({"text_special"} & kinds)
    texts = ["".join(token.content for token in block) for block in blocks]
    assert texts.count(shown(HOSTILE)) == 4 * 3 + 2  # of divergences for those that ran
    assert sum(text.endswith(f": {shown(HOSTILE)}") for text in texts) == 1
    assert in_markdown("base-q5_0 < 0.001, _x_") == r"base-q5_0 < 0.001, \_x\_"


def assert_aligned(lines: list[str]) -> None:
    head = next(place for place, line in enumerate(lines) if line.startswith("file "))
    assert len(lines[head]) == len(lines[head + 2]) == len(lines[head + 4])


def test_charts_and_the_terminal_show_texts_of_others_as_they_are(made: Evaluation) -> None:
    label = f"{HOSTILE} %{{y}} var(--ink)"
    models = (made.models[0], *(replace(model, label=label) for model in made.models[1:]))
    hostile = replace(made, models=models)
    figures = [size_figure(hostile), difference_figure(hostile), speed_figure(hostile), inside_figure(hostile)]
    for text in json.dumps(figures, ensure_ascii=False), json.dumps(curve_figure((Mix(label, "preset", 1, 1.0, 1.0),))):
        assert "big" in text
        for read in ("<b>big", "&lt; a", "%{y} var", "var(--ink) ", "\u202e"):
            assert read not in text
    assert in_chart(label).startswith("&lt;b&gt;big&lt;/b&gt; &amp;lt; a")
    assert html.unescape(in_chart(label)) == shown(label)
    assert_aligned(terminal_lines(hostile))


def test_an_interval_that_the_sign_flip_test_does_not_confirm_is_explained(made: Evaluation) -> None:
    model, summary = made.models[2], made.summaries[2]
    assert summary is not None
    assert summary.difference is not None
    unsure = replace(summary.difference, verdict="not distinguishable", p_value=0.06)
    again = replace(made, models=(made.models[0], model))
    again.__dict__["summaries"] = (made.summaries[0], replace(summary, difference=unsure))
    assert "the interval leaves out zero, but the sign-flip test does not (p = 0.06)" in verdict_sentence(again, 1)
    assert "sign-flip" not in verdict_sentence(made, 2)


def test_terminal_text_is_aligned_and_tells_what_to_beware_of(made: Evaluation) -> None:
    lines = terminal_lines(made)
    assert_aligned(lines)
    told = "\n".join(lines)
    assert "harmed: worse: +" in told
    assert "1 entry of the data could not be used" in told
    assert "stopped early or failed on clips with" in told


def test_loops_are_counted_apart(made: Evaluation) -> None:
    assert made.models[2].total("runaway") >= 20
    assert made.models[1].total("runaway") == 0


def test_worst_utterance_is_the_most_harmed(made: Evaluation) -> None:
    order = worst_order(made)
    assert order[0] == 3
    assert sorted(order) == list(range(40))
    assert transcript_records(made)[0]["clip"] == "clip-3"


def test_marks_spell_out_both_texts() -> None:
    marks = marked_words("a b c d", "a x c d e")
    assert marks == [("equal", "a", "a"), ("substitute", "b", "x"), ("equal", "c d", "c d"), ("insert", "", "e")]
    assert " ".join(said for _, said, _ in marks if said) == "a b c d"


def test_size_figure_shows_intervals_of_the_rates(made: Evaluation) -> None:
    trace = size_figure(made)["data"][2]
    found = made.summaries[2].word_error_rate
    assert trace["name"] == "harmed"
    assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(100 * found.high)
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(100 * found.low)


def test_map_has_every_block_and_role(made: Evaluation) -> None:
    by_type = map_figures(made.models[2].tensors)["type"]["data"][0]
    assert by_type["y"] == [f"{stack} {n}" for stack in ("encoder", "decoder") for n in range(3)]
    assert len(by_type["x"]) == 10
    assert by_type["text"][0][4:8] == [""] * 4
    assert by_type["text"][5] == ["q5_0"] * 10
    assert map_figures(()) is None


def test_markers_of_equal_size_are_set_apart() -> None:
    placed = spread([50.0, 84.6, 84.6, 90.0], 1.0)
    assert placed == [50.0, 84.1, 85.1, 90.0]


def test_speeds_are_drawn_where_they_can_be_told(made: Evaluation) -> None:
    """The same clips in turns: a model at half the time is drawn, one measured at another time is not."""

    def took(model: ModelResult, factor: float, together: str) -> ModelResult:
        utterances = [
            replace(u, timing=Timing(factor * (1 + n % 3), factor * (2 + n % 3), None, None, 0.5, together))
            for n, u in enumerate(model.utterances)
        ]
        return replace(model, utterances=tuple(utterances))

    reference, same, harmed, broken = made.models
    models = (took(reference, 1, "one"), took(same, 0.5, "one"), took(harmed, 3, "another"), broken)
    evaluation = replace(made, models=models)
    rows = {row[0]: row for row in speed_table(evaluation).rows}
    assert rows["same"][4] == "0.50 (0.50 to 0.50) faster"
    assert rows["harmed"][4:6] == ("not measurable here", "–")
    assert rows["reference"][3] != "–"
    assert rows["same"][3] == "–"
    memory, times = speed_figure(evaluation)["data"]
    assert len(memory["y"]) == 3
    assert times["y"] == ["same"]
    assert "other work took 0.5 CPUs; not measurable here: the two were not" in speed_remark(evaluation)
    (shown,) = [line for line in terminal_lines(evaluation) if line.startswith("same ") and "faster" in line]
    assert shown.split()[1:6] == ["0.50", "(0.50", "to", "0.50)", "faster"], "the runtime is in the remark"
    assert len(shown) < 120
    assert len(speed_figure(made)["data"]) == 1
