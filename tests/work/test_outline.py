"""What --plan says is what is then done: the same number of units; and nothing is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import whisq
from tests.support.command_line import run
from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from tests.support.optimized import FEW
from tests.support.schema import checked
from whisq.calibration import Calibration
from whisq.calibration.run import CalibrationSettings, calibrate, foresee_calibration
from whisq.search import SearchSettings, Space
from whisq.search.measure import foresee_measuring, measure
from whisq.work import Done, Job, Local, Outline, Unit


class Counting(Local):
    """Does units here, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.units = 0

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[Done]:
        for done in super().run(job, units):
            self.units += 1
            yield done


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dims = replace(TINY, n_audio_ctx=1500, n_text_ctx=128, n_text_layer=2)
    return write_huggingface(tmp_path_factory.mktemp("small") / "hf", tiny_weights(dims))


@pytest.mark.parametrize("own_text", [False, True])
def test_of_a_calibration(small: Path, sentence_folder: Path, tmp_path: Path, own_text: bool) -> None:
    counting, outline = Counting(), Outline()
    settings = CalibrationSettings(cache=None, own_text=own_text, text_tokens=100, executor=counting)
    with whisq.open_model(small) as model:
        foresee_calibration(model, sentence_folder, outline, settings=replace(settings, executor=outline))
        calibrate(model, sentence_folder, tmp_path / "a.calib", settings=settings)
    assert [stage.name for stage in outline.stages] == [
        "encoder layers",
        "decoder layers",
        *["writing texts"] * own_text,
    ]
    assert sum(stage.units for stage in outline.stages) == counting.units
    assert all(stage.core_s > 0 and stage.sent_bytes > 0 for stage in outline.stages)


@pytest.mark.parametrize("how", ["one", "all"])
def test_of_a_search_before_and_after_it(
    tiny_en_bin: Path, tiny_en_calibration: Calibration, tmp_path: Path, how: str
) -> None:
    counting, first, then = Counting(), Outline(), Outline()
    settings = SearchSettings(probes=1, how=how, cache=tmp_path, executor=counting)
    with whisq.open_model(tiny_en_bin) as model:
        space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", FEW, (), None)
        given = (model, tiny_en_calibration, space.tensors, space.types)
        foresee_measuring(*given, first, settings=replace(settings, executor=first))
        measure(*given, settings=settings)
        foresee_measuring(*given, then, settings=replace(settings, executor=then))
    # Which mixes are measured follows from what is measured first.
    assert sum(stage.units for stage in first.stages) == pytest.approx(counting.units, abs=3)
    assert first.file_bytes == tiny_en_bin.stat().st_size + tiny_en_calibration.path.stat().st_size
    assert first.memory_bytes > 4 * model.n_weights
    assert sum(stage.units for stage in then.stages) <= 3


def test_of_a_quantization_which_writes_nothing(
    tiny_en_bin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "q.bin"
    words = ["quantize", "--method", "fit", str(tiny_en_bin), str(output), "q4_0", "--plan"]
    code, told, _ = run(capsys, *words, "--json")
    assert code == 0
    found = checked(told, "plan")
    with whisq.open_model(tiny_en_bin) as model:
        plan = whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q4_0")), method="fit")
    assert found["units"] == len(plan.slow)
    assert found["file_bytes"] == tiny_en_bin.stat().st_size
    assert not output.exists()
    # A calibration that is yet to be made has its units told, and no file to send.
    listening = ["quantize", "--method", "feedback", str(tiny_en_bin), str(output), "q4_0", "--plan", "--json"]
    code, told, err = run(capsys, *listening)
    assert code == 0, err
    with_feedback = checked(told, "plan")
    assert with_feedback["file_bytes"] == tiny_en_bin.stat().st_size
    assert [stage["units"] for stage in with_feedback["stages"] if "rounding" in stage["name"]] == [len(plan.slow)]
    assert len(with_feedback["stages"]) > 1
    code, told, _ = run(capsys, *words)
    assert code == 0
    assert f"rounding matrices {len(plan.slow):>8}" in told
    assert "nothing was started" in told
    _, told, _ = run(capsys, "quantize", tiny_en_bin, output, "q4_0", "--plan")
    assert "nothing is left to do elsewhere" in told


def test_what_an_evaluation_would_give_is_refused_beside_its_plan(
    tiny_en_bin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", tiny_en_bin, "--data", tmp_path, "--plan"]
    for more in (["--report", tmp_path / "report.html"], ["--fail-if", "divergence > 0.02"]):
        code, _, told = run(capsys, *words, *more)
        assert code == 1
        assert f"error: {more[0]}: --plan evaluates nothing" in told
    assert list(tmp_path.iterdir()) == []
