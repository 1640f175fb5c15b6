"""Whichever command writes: a whole file or the old one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_model
from tests.support.evaluations import made_curve, made_evaluation
from tests.support.full_disk import refusing
from tests.support.models import WIDE
from whisq import open_model
from whisq.cli import main
from whisq.evaluation import to_json
from whisq.search import Sensitivity, Space

OLD = "what stood there before\n"


# --- The commands. Each is given a folder, and says with which words it writes the file of a name in there.


def quantizing(*more: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        source = write_model(folder / "source.bin", WIDE)
        return ["quantize", str(source), str(folder / "out.bin"), "q4_0", *(word.format(folder) for word in more)]

    return words


def converting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["convert", str(write_model(folder / "source.bin", WIDE)), str(folder / "out.gguf")]


def merging(*more: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        source = write_model(folder / "source.bin", WIDE)
        for seed, name in enumerate("ab"):
            write_calibration(folder / f"{name}.calib", seed=seed)
        merged = ["--merge", str(folder / "a.calib"), "--merge", str(folder / "b.calib")]
        return ["calibrate", str(source), *merged, "-o", str(folder / "out.calib"), *(w.format(folder) for w in more)]

    return words


def evaluating(*more: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr("whisq.evaluation.run.evaluate", lambda *_, **__: made_evaluation())
        return [
            "evaluate",
            "reference.bin",
            "candidate.bin",
            "--data",
            "clips",
            *(word.format(folder) for word in more),
        ]

    return words


def reporting(name: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        (folder / "in.json").write_text(to_json(made_evaluation()), "utf-8")
        return ["report", str(folder / "in.json"), str(folder / name)]

    return words


def searching(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    source = write_model(folder / "source.bin", WIDE)
    write_calibration(folder / "a.calib")
    with open_model(source) as model:
        space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
        harms = {name: {kind.name: 1 / kind.bits_per_weight for kind in kinds} for name, kinds in space.types.items()}
    measured = {name: tuple(found) for name, found in harms.items()}
    known = Sensitivity(harms, 1.0, 1.0, (), {"how": "one"}, measured, curve=made_curve())
    monkeypatch.setattr("whisq.search.measure_space", lambda *_, **__: (known, None))
    words = ["search", str(source), "--calibration", str(folder / "a.calib"), "--types", "q4_0,q8_0", "--bits", "12"]
    return [*words, "-o", str(folder / "out.toml"), "--sensitivity", str(folder / "out.json")]


WRITERS = [
    ("out.bin", quantizing()),
    ("out.bin.json", quantizing("--sidecar")),
    ("recipe.toml", quantizing("--recipe-out", "{}/recipe.toml")),
    ("out.gguf", converting),
    ("out.calib", merging()),
    ("results.json", evaluating("--json", "{}/results.json")),
    ("report.html", evaluating("--report", "{}/report.html")),
    ("tables.md", reporting("tables.md")),
    ("page.html", reporting("page.html")),
    ("out.toml", searching),
    ("out.json", searching),
]


# Of an imatrix the gguf package writes the bytes, not by pwrite.
CASES = [(name, words, call) for name, words in WRITERS for call in ("fsync", "pwrite")]
CASES.append(("out.imatrix", merging("--imatrix-out", "{}/out.imatrix"), "fsync"))


@pytest.mark.parametrize(("name", "words", "call"), CASES, ids=[f"{name}-{call}" for name, _, call in CASES])
def test_a_command_that_cannot_write_leaves_the_old_file(
    tmp_path: Path, capsys, monkeypatch, name: str, words: Callable[[Path, pytest.MonkeyPatch], list[str]], call: str
) -> None:
    path = tmp_path / name
    path.write_text(OLD)
    asked = [*words(tmp_path, monkeypatch), "--overwrite"]
    with monkeypatch.context() as refused:
        refusing(refused, call, path)
        assert main(asked) == 1
    said = capsys.readouterr().err
    assert f"{name}: cannot be written: No space left" in said
    assert "hint: " in said
    assert path.read_text() == OLD
    assert not list(tmp_path.glob(".*.part"))
    # The refusal was all that stood against it.
    assert main(asked) == 0
    assert path.read_bytes() != OLD.encode()


@pytest.mark.parametrize("words", [quantizing("--sidecar"), quantizing("--recipe-out", "{}/out.bin.json")])
def test_a_model_is_not_replaced_where_what_goes_with_it_cannot_be_written(tmp_path, capsys, monkeypatch, words):
    asked = words(tmp_path, monkeypatch)
    assert main(asked) == 0
    before = (tmp_path / "out.bin").stat().st_ino
    beside = tmp_path / "out.bin.json"
    with monkeypatch.context() as refused:
        refusing(refused, "pwrite", beside)
        assert main(asked) == 1
    beside.unlink()
    beside.mkdir()
    assert main(asked) == 1
    assert "is a directory" in capsys.readouterr().err
    assert (tmp_path / "out.bin").stat().st_ino == before
