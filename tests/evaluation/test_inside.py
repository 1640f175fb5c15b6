"""Where a comparison's divergence is measured: in one way for all its files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.containers import write_model
from tests.support.evaluations import made_evaluation
from tests.support.models import WIDE
from whisq import Recipe, make_plan, open_model, parse_rule, quantize
from whisq.clips.datasets import load_clips
from whisq.evaluation.inside import Way, Ways, choose_ways, divergences_cache, measure_inside
from whisq.evaluation.model_files import ModelFile, describe
from whisq.evaluation.results import FORWARD_PASS, InsideUtterance
from whisq.evaluation.results_json import from_json, to_json
from whisq.report.tables import inside_table
from whisq.report.texts import markdown_text, terminal_lines
from whisq.runtimes import registry
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.runtimes.whisper_cpp import WHISPER_CPP
from whisq.types import TYPES

IN_WHISPER_CPP = Way("whisper.cpp")


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """whisper.cpp and transcribe.cpp, whether installed or not: numpy stands for their packages."""
    here = [replace(runtime, package="numpy") for runtime in (TRANSCRIBE_CPP, WHISPER_CPP)]
    monkeypatch.setattr(registry, "RUNTIMES", tuple(here))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, ModelFile]:
    """The original, a uniform file, a mix."""
    original = write_model(tmp_path / "f16.bin", WIDE)
    uniform = Recipe(TYPES["q5_1"], embedding=TYPES["q5_1"])
    mix = Recipe(TYPES["q5_1"], (parse_rule(r".*mlp.*\.weight=q8_0"),))
    found = {"f16": describe(original, "f16")}
    for name, recipe in (("uniform", uniform), ("mix", mix)):
        with open_model(original) as model:
            quantize(make_plan(model, recipe), tmp_path / f"{name}.bin")
        found[name] = describe(tmp_path / f"{name}.bin", name)
    return found


@pytest.mark.usefixtures("runtimes")
def test_one_way_for_all_files(files: dict[str, ModelFile]) -> None:
    f16, uniform, mix = files.values()
    assert choose_ways([f16, uniform], None, "cpu") == Ways(IN_WHISPER_CPP)
    assert choose_ways([f16, uniform, mix], None, "cpu") == Ways(Way(), IN_WHISPER_CPP)
    assert choose_ways([f16, mix], None, "cpu") == Ways(Way())
    assert choose_ways([mix, uniform], None, "cpu") == Ways(Way())
    # What was asked for is what is done.
    assert choose_ways([f16, uniform], "transcribe.cpp", "cpu") == Ways(Way())
    assert choose_ways([f16, uniform], "pywhispercpp", "cpu") == Ways(IN_WHISPER_CPP)
    assert choose_ways([f16, uniform], None, "cuda") == Ways(Way(device="cuda"))


def test_where_no_runtime_gives_logits_the_forward_pass_does(
    files: dict[str, ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "RUNTIMES", (replace(WHISPER_CPP, package="whisq-tests-no-such-package"),))
    assert choose_ways([files["f16"], files["uniform"]], None, "cpu") == Ways(Way())


def test_the_results_name_the_way() -> None:
    made = made_evaluation()
    first = made.models[1]
    one = InsideUtterance("clip-0", (0.1, 0.3), 2, 0.0, 0.0, (0.5,), (0.02, 0.06))
    model = replace(first, inside_in=FORWARD_PASS, beside=(one,), beside_in="whisper.cpp (pywhispercpp 9)")
    model = replace(model, inside_failure="whisper.cpp failed at clip-1: died of SIGSEGV")
    evaluation = replace(made, models=(made.models[0], model, *made.models[2:]))
    assert from_json(to_json(evaluation)) == evaluation
    summary = evaluation.summaries[1]
    assert summary.beside_divergence.estimate == pytest.approx(0.2)
    assert summary.timestamp_divergence.estimate == pytest.approx(0.5)
    assert summary.timestamp_shift_s == pytest.approx(0.04)
    table = inside_table(evaluation)
    assert table.columns[-3:] == ("KL in the runtime", "KL of timestamps", "times moved, ms")
    assert table.rows[0][-3:] == ("0.20000", "0.50000", "40")
    assert table.rows[1][-3:] == ("–", "–", "–")
    assert inside_table(made).columns[-1] == "tokens"
    for told in (markdown_text(evaluation), "\n".join(terminal_lines(evaluation))):
        assert "whisq's forward pass, weights dequantized and nothing else rounded; beside it, that of whis" in told
        assert "divergence of same could not be measured: whisper.cpp failed at clip-1: died of SIGSEGV." in told
    in_runtime = replace(made.models[1], inside_in="whisper.cpp (pywhispercpp 9)")
    evaluation = replace(made, models=(made.models[0], in_runtime))
    assert "measured in whisper.cpp (pywhispercpp 9) itself, activations rounded as there." in markdown_text(evaluation)


def test_in_whisper_cpp_a_uniform_file_diverges_and_a_copy_does_not(
    whisper_cpp: object, tiny_en_bin: Path, clips: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_en_bin, tmp_path / "copy.bin")
    with open_model(tiny_en_bin) as model:
        quantize(make_plan(model, Recipe(TYPES["q4_0"]), target="whisper.cpp"), tmp_path / "q4_0.bin", threads=1)
    reference = describe(tiny_en_bin, "f16")
    clip = load_clips(clips, limit=1).clips
    done = []
    found = {}
    for name in ("copy", "q4_0"):
        file = describe(tmp_path / f"{name}.bin", name)
        assert choose_ways([reference, file], None, "cpu") == Ways(IN_WHISPER_CPP)
        found[name] = measure_inside(reference, file, clip, IN_WHISPER_CPP, 1, tmp_path / "cache", done.append)
        assert found[name].failure == ""
        assert found[name].way.startswith("whisper.cpp (pywhispercpp ")
    assert set(found["copy"].utterances[0].divergences) == {0.0}
    assert set(found["copy"].utterances[0].shifts_s) == {0.0}
    q4_0 = found["q4_0"].utterances[0]
    assert 1e-3 < sum(q4_0.divergences) / len(q4_0.divergences) < 1
    assert max(q4_0.timestamp_divergences) > 0
    # What was measured is kept; what cannot be measured is told, and nothing is raised.
    (tmp_path / "q4_0.bin").unlink()
    again = measure_inside(reference, file, clip, IN_WHISPER_CPP, 1, tmp_path / "cache", done.append)
    assert again == found["q4_0"]
    lost = measure_inside(reference, file, clip, IN_WHISPER_CPP, 1, None, done.append)
    assert not lost.utterances
    assert f"failed at {clip[0].id}: " in lost.failure
    assert len(done) == 3


def test_divergences_of_another_device_are_not_taken_for_these(files: dict[str, ModelFile], tmp_path: Path) -> None:
    original, other = list(files.values())[:2]

    def kept(device: str) -> object:
        return divergences_cache(original, other, Way(device=device), tmp_path / "cache").get("clip")

    divergences_cache(original, other, Way(), tmp_path / "cache").put("clip", {"sum": 1.0})
    assert kept("cpu") == {"sum": 1.0}
    assert kept("cuda") is None
