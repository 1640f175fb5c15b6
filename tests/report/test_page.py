"""The page as text: whole, self-contained, safe against what transcripts may hold."""

import json
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from whisq.errors import DataError, OutputError
from whisq.evaluation import from_json, to_json
from whisq.evaluation.results import Evaluation
from whisq.report.ladder_figure import ladder_figure
from whisq.report.page import render_report, write_report
from whisq.report.search_curve import curve_figure
from whisq.report.tensor_map import map_figures
from whisq.search import Mix
from whisq.whisper import MATRIX_ROLES


@pytest.fixture(scope="module")
def page(made: Evaluation) -> str:
    return render_report(made)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    parsed = _Page()
    parsed.feed(page)
    for tag, attributes in parsed.tags:
        for name in ("src", "srcset", "action", "poster"):
            assert name not in attributes, (tag, attributes)
        if "href" in attributes:
            assert attributes["href"].startswith(("#", "data:")), attributes
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_verdicts_and_tables_are_in_the_text_without_script(page: str, made: Evaluation) -> None:
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for model in made.models:
        assert model.label in text
    assert "not distinguishable" in text
    assert "it does not take q2_K" in text
    assert "gone.wav: audio missing" in text
    assert made.data.sha256 in text


def test_embedded_data_is_json_and_cannot_end_its_script(page: str) -> None:
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert "<" not in content
    data = json.loads(content)
    assert data["transcripts"][0]["clip"] == "clip-3"


def test_an_infinite_error_of_a_tensor_is_shown(made: Evaluation) -> None:
    """A tensor that differs from a reference of zeros, and one that is not finite, beside an equal one."""
    harmed = made.models[2]
    first, second, third, *others = harmed.tensors
    tensors = (replace(first, signal=0.0, noise=1.0), replace(second, n_not_finite=2), replace(third, noise=0.0))
    page = render_report(replace(made, models=(made.models[0], replace(harmed, tensors=(*tensors, *others)))))
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert [row[5:] for row in json.loads(content)["tensors"][1][:3]] == [[None, None], [None, None], [None, 0]]
    blocks = [tensor for tensor in harmed.tensors if tensor.layer is not None and tensor.role in MATRIX_ROLES]
    blocks[:3] = replace(blocks[0], signal=0.0), replace(blocks[1], n_not_finite=2), replace(blocks[2], noise=0.0)
    error = map_figures(tuple(blocks))["error"]["data"][0]
    cells = [cell for row in zip(error["text"], error["z"], strict=True) for cell in zip(*row, strict=True)]
    assert [text for text, _ in cells].count("−∞") == 2
    assert [text for text, _ in cells].count("=") == 1
    coloured = [value for _, value in cells if value is not None]
    assert all(value == min(coloured) for text, value in cells if text == "−∞")
    assert all(value == max(coloured) for text, value in cells if text == "=")


def test_results_of_whisq_0_1_are_read(made: Evaluation) -> None:
    document = json.loads(to_json(made))
    document["schema_version"] = 1
    for model in document["models"]:
        for tensor in model["tensors"]:
            assert tensor.pop("n_not_finite") == 0
    assert from_json(json.dumps(document)) == made


def with_made(made: Evaluation) -> Evaluation:
    return replace(made, settings={**made.settings, "made": "same"})


def test_the_page_opens_on_the_file_that_was_made(made: Evaluation) -> None:
    page = render_report(with_made(made))
    assert "<h1>same</h1>" in page
    assert re.search(r"<strong>same</strong> was made: [\d.]+ MB; perhaps within the loss", page)
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(content)["chosen"] == 1
    order = re.findall(r'<section id="(\w+)"', page)
    assert order[:4] == ["ship", "map", "verdicts", "size"]
    assert order.index("transcripts") < order.index("tensors")


def test_a_report_of_25_clips_and_eight_models_is_small(made: Evaluation) -> None:
    clips = replace(made.data, clips=made.data.clips[:25])
    models = tuple(
        replace(model, utterances=model.utterances[:25], inside=model.inside[:25])
        for model in (made.models[0], *made.models[1:3] * 4)
    )
    assert len(render_report(replace(made, data=clips, models=models)).encode()) < 750_000


def test_the_first_chart_has_every_file_by_what_loads_it(made: Evaluation, curve: tuple[Mix, ...]) -> None:
    everywhere, mixes = ("whisper.cpp", "transcribe.cpp"), ("transcribe.cpp",)
    models = (made.models[0], replace(made.models[1], loads_in=mixes), replace(made.models[2], loads_in=everywhere))
    figure = ladder_figure(with_made(replace(made, models=models)), curve)
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert set(traces) == {"the file made", "mixes", "what the search expected"}
    assert traces["the file made"]["made"] == [True]
    assert traces["the file made"]["marker"]["symbol"] == ["circle-open"]
    assert traces["mixes"]["marker"]["symbol"] == ["circle"]
    found = made.summaries[2].divergence
    top = traces["mixes"]["y"][0] + traces["mixes"]["error_y"]["array"][0]
    assert top == pytest.approx(found.high)
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert ladder_figure(replace(made, models=made.models[:1])) is None


def test_labels_are_escaped(made: Evaluation) -> None:
    nasty = replace(made.models[1], label="<img src=x onerror=alert(1)>", failure="")
    page = render_report(replace(made, models=(made.models[0], nasty)))
    assert "<img" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_names_of_others_are_shown_in_the_page_and_halves_of_characters_end_nothing(
    made: Evaluation, tmp_path: Path
) -> None:
    harmed = made.models[2]
    utterances = (replace(harmed.utterances[0], text="half \ud83d"), *harmed.utterances[1:])
    nasty = replace(harmed, label="a\x1b\u202eb\udcff", path="c\x07\udcfe.bin", utterances=utterances)
    hostile = replace(made, models=(made.models[0], nasty))
    assert from_json(to_json(hostile).encode("utf-8", "backslashreplace").decode()) == hostile
    write_report(hostile, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"What quantizing" in page
    assert r"a\x1b\u202eb\xff" in page
    assert r"c\x07\xfe.bin" in page
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not [c for c in outside if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert any(record["models"][1]["text"] == "half \ud83d" for record in json.loads(content)["transcripts"])


def test_a_reference_alone_makes_a_page(made: Evaluation) -> None:
    page = render_report(replace(made, models=made.models[:1]))
    assert 'id="candidate"' not in page
    assert 'id="map"' not in page


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an evaluation's results"),
        ('{"schema": "whisq-evaluation", "schema_version": 99}', "schema version 99, expected 1 or 2"),
        ('{"schema": "whisq-evaluation", "schema_version": 1}', "damaged results"),
    ],
)
def test_report_of_something_else(tmp_path: Path, content: str, told: str) -> None:
    from whisq.evaluation import read_results

    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=told):
        read_results(tmp_path / "x.json")


def test_report_that_cannot_be_written(made: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        write_report(made, tmp_path / "no" / "report.html")


def test_a_searchs_curve_has_a_chart_and_a_table_and_none_stands_without_one(
    page: str, made: Evaluation, curve
) -> None:
    shown = render_report(made, curve)
    assert 'id="curve-chart"' in shown
    for mix in curve:
        assert escape(mix.name) in shown
    assert "not measured" in shown
    assert 'id="curve-chart"' not in page
    figure = curve_figure(curve)
    assert {trace["name"] for trace in figure["data"]} == {"searched mixes", "one type throughout", "presets"}
    assert [trace["y"] for trace in figure["data"]] == [[0.012, 0.0001], [0.021, 0.0003], [0.015]]
