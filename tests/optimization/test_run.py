"""All in one go on real weights: what comes of it, that it resumes, and that errors come before the work."""

import json
from pathlib import Path

import pytest

import whisq
from whisq.cli import main
from whisq.demo import SENTENCE
from whisq.errors import DataError, MissingExtraError, OutputError, PlanError
from whisq.evaluation.results_json import read_results
from whisq.optimization.run import Settings, optimize
from whisq.recipe import load_recipe

pytest.importorskip("torch", reason="needs the extra 'calibrate'")


FEW = (r"decoder\..*", r"encoder\.blocks\.[123]\..*", r"encoder\.blocks\.0\.attn\..*")
"""Protect all but two matrices: the search has little to measure."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("one", "two", "three"):
        (folder / f"{name}.wav").write_bytes(speech_wav.read_bytes())
    rows = [f'{name}.wav,"{SENTENCE}",{name}' for name in ("one", "two", "three")]
    (folder / "clips.csv").write_text("\n".join(["path,text,speaker", *rows]) + "\n")
    return folder / "clips.csv"


def settings(**changed) -> Settings:
    return Settings(types=("q4_0", "q8_0"), protect=FEW, probes=1, **changed)


@pytest.fixture(scope="module")
def size(tiny_en_bin: Path) -> int:
    """A size between that of both types."""
    with whisq.open_model(tiny_en_bin) as model:
        sizes = [
            whisq.make_plan(model, whisq.Recipe(whisq.parse_type(name), protect=FEW)).size_bytes
            for name in ("q4_0", "q8_0")
        ]
    return sum(sizes) // 2


@pytest.fixture(scope="module")
def made(tiny_en_bin: Path, data: Path, size: int, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("made") / "mix.bin"
    return optimize(tiny_en_bin, output, data, size_bytes=size, settings=settings())


def test_the_file_has_the_size_and_is_judged_on_clips_held_back(made, size: int) -> None:
    assert 0.97 * size < made.output.stat().st_size <= size
    assert made.calibration.heard["clips"] == 2
    assert len(made.evaluation.data.clips) == 1
    assert not made.reused


def test_it_stands_beside_the_source_and_the_next_uniform_files(made) -> None:
    labels = [model.path for model in made.evaluation.models]
    assert labels[1:] == ["mix.bin", "uniform-q4_0.bin", "uniform-q8_0.bin"]
    smaller, larger = (made.evaluation.models[index].size_bytes for index in (2, 3))
    assert smaller <= made.output.stat().st_size < larger
    assert all(summary.divergence is not None for summary in made.evaluation.summaries[1:])


def test_what_was_made_on_the_way_is_kept(made) -> None:
    assert made.folder == made.output.with_name("mix.optimize")
    names = {path.name for path in made.folder.iterdir()}
    assert {"model.calib", "sensitivity.json", "recipe.toml", "results.json", "report.html"} <= names
    assert read_results(made.folder / "results.json").models == made.evaluation.models
    kinds = {rule.type.name for rule in load_recipe(str(made.folder / "recipe.toml")).rules}
    assert kinds <= {"q4_0", "q8_0", "f16"}
    assert '<section id="search"' in (made.folder / "report.html").read_text()


def test_the_same_again_makes_nothing_and_another_size_measures_nothing(made, tiny_en_bin, data, size) -> None:
    seen = []
    again = optimize(
        tiny_en_bin, made.output, data, size_bytes=size, settings=settings(),
        progress=lambda label, done, total: seen.append(label),
    )  # fmt: skip
    assert {"model.calib", "sensitivity.json", "recipe.toml", "mix.bin", "uniform-q4_0.bin"} <= set(again.reused)
    assert not {"calibrating", "measuring matrices", "writing mix.bin"} & set(seen)
    assert again.evaluation.models == made.evaluation.models
    other = optimize(
        tiny_en_bin, made.output.with_name("larger.bin"), data, bits=20.0, settings=settings(folder=made.folder)
    )
    assert {"model.calib", "sensitivity.json"} <= set(other.reused)
    assert "recipe.toml" not in other.reused


def test_a_file_that_was_changed_is_made_again(made, tiny_en_bin, data, size) -> None:
    damaged = made.folder / "uniform-q8_0.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = optimize(tiny_en_bin, made.output, data, size_bytes=size, settings=settings())
    assert "uniform-q8_0.bin" not in again.reused
    assert again.evaluation.models[3].sha256 == made.evaluation.models[3].sha256


def test_the_command_says_sizes_divergences_and_a_verdict(made, tiny_en_bin, data, size, capsys) -> None:
    words = ["optimize", tiny_en_bin, made.output, "--data", data, "--size", f"{size}B", "--types", "q4_0,q8_0"]
    words += [word for pattern in FEW for word in ("--protect", pattern)]
    assert main([str(word) for word in [*words, "--probes", 1]]) == 0
    captured = capsys.readouterr()
    assert "from an earlier run: model.calib" in captured.err
    assert f"{made.output.stat().st_size / (1 << 20):.2f}" in captured.out
    assert "than uniform q4_0: diverges" in captured.out
    assert "WER %" in captured.out


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"size_bytes": 1 << 30, "settings": Settings(protect=(".*",))}, PlanError, "no matrix takes part"),
        ({"size_bytes": 1 << 20}, PlanError, "the smallest mix is a file of"),
        ({"bits": 2.0}, PlanError, "the smallest mix has"),
        ({}, PlanError, "one goal"),
        ({"size_bytes": 1 << 30, "bits": 5.0}, PlanError, "one goal"),
        ({"size_bytes": 1 << 30, "output": "nowhere/out.bin"}, OutputError, "no directory"),
        ({"size_bytes": 1 << 30, "data": "nothing"}, DataError, "no such file"),
        ({"size_bytes": 1 << 30, "settings": Settings(target="whisper.cpp")}, PlanError, "no runtime that loads mixes"),
    ],
)
def test_errors_come_before_the_work(tiny_en_bin, data, tmp_path, monkeypatch, changed, error, said) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []
    call = {"output": "out.bin", "data": data, "settings": settings(), **changed}
    with pytest.raises(error, match=said):
        optimize(tiny_en_bin, **call, progress=lambda label, done, total: seen.append(label))
    assert not seen
    assert not (tmp_path / "out.bin").exists()


def test_one_clip_is_too_few(tiny_en_bin, speech_wav, tmp_path) -> None:
    (tmp_path / "one.wav").write_bytes(speech_wav.read_bytes())
    (tmp_path / "one.txt").write_text(SENTENCE)
    with pytest.raises(DataError, match="none can be held out"):
        optimize(tiny_en_bin, tmp_path / "out.bin", tmp_path, size_bytes=1 << 30, settings=settings())


def test_a_missing_package_is_told_first(tiny_en_bin, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="torch"):
        optimize(tiny_en_bin, tmp_path / "out.bin", data, size_bytes=1 << 30)


def test_the_folder_says_what_made_each_file(made) -> None:
    known = json.loads((made.folder / "made.json").read_text())
    assert {"model.calib", "sensitivity.json", "recipe.toml", "mix.bin"} <= set(known)


def test_help_names_the_goals(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["optimize", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--size", "--bits", "--divergence", "--data", "--folder"))
