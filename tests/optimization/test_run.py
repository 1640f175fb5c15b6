"""All in one go on real weights: what comes of it, that it resumes, and that errors come before the work."""

import json
from dataclasses import replace

import pytest

from tests.support.optimized import settings
from whisq.demo import SENTENCE
from whisq.errors import DataError, OutputError, PlanError
from whisq.evaluation.results_json import read_results
from whisq.optimization.run import OptimizationSettings, optimize
from whisq.recipe import load_recipe, save_recipe
from whisq.search.uniform import AS_GOOD

SIZE = 77_000_000
"""Within what tiny.en can be when but two matrices take part."""


def test_the_file_has_the_size_and_is_judged_on_held_out_clips(optimized, optimized_size: int) -> None:
    assert 0.97 * optimized_size < optimized.output.stat().st_size <= optimized_size
    assert optimized.calibration.audio["clips"] == 2
    assert len(optimized.evaluation.data.clips) == 1
    assert not optimized.reused


def test_the_source_is_hashed_once(optimized, hashed_sizes: list[int], tiny_en_bin) -> None:
    assert hashed_sizes.count(tiny_en_bin.stat().st_size) == 1


def test_it_stands_beside_the_source_and_the_next_uniform_files(optimized) -> None:
    labels = [model.path for model in optimized.evaluation.models]
    assert labels[1:] == ["mix.bin", "uniform-q4_0.bin", "uniform-q8_0.bin"]
    smaller, larger = (optimized.evaluation.models[index].size_bytes for index in (2, 3))
    assert smaller <= optimized.output.stat().st_size < larger
    assert all(summary.divergence is not None for summary in optimized.evaluation.summaries[1:])


def test_what_was_made_on_the_way_is_kept(optimized) -> None:
    assert optimized.folder == optimized.output.with_name("mix.optimize")
    names = {path.name for path in optimized.folder.iterdir()}
    made = {"model.calib", "sensitivity.json", "mix.toml", "recipe.toml", "results.json", "report.html"}
    assert made <= names
    assert read_results(optimized.folder / "results.json").models == optimized.evaluation.models
    kinds = {rule.type.name for rule in load_recipe(str(optimized.folder / "mix.toml")).rules}
    assert kinds <= {"q4_0", "q8_0", "f16"}
    assert (optimized.folder / "recipe.toml").read_text() == save_recipe(optimized.recipe)
    assert '<section id="search"' in (optimized.folder / "report.html").read_text()


def test_the_same_again_makes_nothing_and_another_size_measures_nothing(
    optimized, tiny_en_bin, speakers, optimized_size
) -> None:
    seen = []
    again = optimize(
        tiny_en_bin,
        optimized.output,
        speakers,
        size_bytes=optimized_size,
        settings=settings(),
        progress=lambda label, done, total: seen.append(label),
    )
    assert {"model.calib", "sensitivity.json", "recipe.toml", "mix.bin", "uniform-q4_0.bin"} <= set(again.reused)
    assert not {"calibrating", "measuring matrices", "writing mix.bin"} & set(seen)
    assert again.evaluation.models == optimized.evaluation.models
    other = optimize(
        tiny_en_bin,
        optimized.output.with_name("larger.bin"),
        speakers,
        bits=16.3,
        settings=settings(folder=optimized.folder),
    )
    assert {"model.calib", "sensitivity.json"} <= set(other.reused)
    assert "recipe.toml" not in other.reused


def test_a_file_that_was_changed_is_made_again(optimized, tiny_en_bin, speakers, optimized_size) -> None:
    damaged = optimized.folder / "uniform-q8_0.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = optimize(tiny_en_bin, optimized.output, speakers, size_bytes=optimized_size, settings=settings())
    assert "uniform-q8_0.bin" not in again.reused
    assert again.evaluation.models[3].sha256 == optimized.evaluation.models[3].sha256


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"size_bytes": SIZE, "settings": OptimizationSettings(protect=(".*",))}, PlanError, "no matrix takes part"),
        ({"size_bytes": 1 << 20}, PlanError, "are too few: the smallest possible file has"),
        ({"size_bytes": 1 << 30}, PlanError, "leave nothing to choose: the smallest possible file has"),
        ({"bits": 2.0}, PlanError, "are too few: the smallest possible file has"),
        ({"divergence": 12.0}, PlanError, "only guesses"),
        ({}, PlanError, "one goal"),
        ({"size_bytes": SIZE, "bits": 5.0}, PlanError, "one goal"),
        ({"size_bytes": SIZE, "output": "nowhere/out.bin"}, OutputError, "does not exist"),
        ({"size_bytes": SIZE, "data": "nothing"}, DataError, "no such file"),
        (
            {"size_bytes": 1 << 25, "output": "out.gguf", "settings": OptimizationSettings(target="whisper.cpp")},
            PlanError,
            "it reads .bin files",
        ),
        (
            {"size_bytes": 1 << 25, "settings": OptimizationSettings(target="whisper.cpp", embedding="q8_0")},
            PlanError,
            "it wants one type for all matrices",
        ),
    ],
)
def test_errors_come_before_the_work(tiny_en_bin, speakers, tmp_path, monkeypatch, changed, error, said) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []
    call = {"output": "out.bin", "data": speakers, "settings": settings(), **changed}
    with pytest.raises(error, match=said):
        optimize(tiny_en_bin, **call, progress=lambda label, done, total: seen.append(label))
    assert not seen
    assert not (tmp_path / "out.bin").exists()


def test_one_clip_is_too_few(tiny_en_bin, speech_wav, tmp_path) -> None:
    (tmp_path / "one.wav").write_bytes(speech_wav.read_bytes())
    (tmp_path / "one.txt").write_text(SENTENCE)
    with pytest.raises(DataError, match="none can be held out"):
        optimize(tiny_en_bin, tmp_path / "out.bin", tmp_path, size_bytes=SIZE, settings=settings())


def test_the_folder_says_what_made_each_file(optimized) -> None:
    known = json.loads((optimized.folder / "made.json").read_text())
    assert {"model.calib", "sensitivity.json", "recipe.toml", "mix.bin"} <= set(known)


@pytest.mark.slow
def test_for_stock_whisper_cpp_it_is_the_closest_file_of_one_type_and_needs_neither_jiwer_nor_a_runtime(
    tiny_en_bin, speakers, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("whisq.optimization.run.missing_packages", lambda *names: ["jiwer"])
    chosen = OptimizationSettings(types=("q4_0", "q5_0"), target="whisper.cpp")
    found = optimize(tiny_en_bin, tmp_path / "best.bin", speakers, size_bytes=30_000_000, settings=chosen)
    assert found.output.stat().st_size == found.plan.size_bytes <= 30_000_000
    (chosen_type,) = {a.type.name for a in found.plan.assignments if a.tensor.spec.is_matrix}
    assert found.ladder.chosen.name == f"{chosen_type} {found.plan.method}"
    assert found.recipe.embedding is found.recipe.default
    means = {judged.name: judged.divergences.mean for judged in found.ladder.judged}
    assert {"q4_0 ggml", "q5_0 ggml", "q5_0 feedback"} <= means.keys()
    # All say the same sentence, so that with feedback even four bits may be as good here.
    assert means[found.ladder.chosen.name] <= AS_GOOD * min(means.values()) < means["q4_0 ggml"]
    assert found.evaluation is None
    assert "jiwer" in found.left_out
    assert not (found.folder / "report.html").exists()
    again = optimize(
        tiny_en_bin,
        tmp_path / "small.bin",
        speakers,
        size_bytes=26_000_000,
        settings=replace(chosen, folder=found.folder),
    )
    assert "model.calib" in again.reused
    assert again.recipe.default.name == "q4_0"
    assert means["q4_0 ggml"] == next(j for j in again.ladder.judged if j.name == "q4_0 ggml").divergences.mean


def test_the_stages_that_take_long_were_foreseen_in_their_order(optimized, stages_of_optimized) -> None:
    foreseen, seen = list(stages_of_optimized.expected), list(stages_of_optimized.seen)
    assert [stage for stage in seen if stage in foreseen] == [stage for stage in foreseen if stage in seen]
    assert {"calibrating", "measuring matrices", "measuring files", "transcribing"} <= set(seen) & set(foreseen)
    beside = {stage for stage in seen if stage.startswith("writing uniform-")}
    assert set(seen) - set(foreseen) <= {"checking clips", "writing texts", "reading models"} | beside
