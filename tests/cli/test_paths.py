"""No option writes what the command reads, or one file twice: said before any work, and nothing is touched."""

import argparse
import os
from pathlib import Path

import pytest

from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_huggingface, write_model
from tests.support.models import WIDE, tiny_weights
from whisq.cli import COMMANDS, main
from whisq.cli.paths import Read, Written


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "in.bin", WIDE)
    write_calibration(tmp_path / "a.calib")
    write_huggingface(tmp_path / "hf", tiny_weights())
    (tmp_path / "mine.toml").write_text("[recipe]\ndefault = 'q4_0'\n")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "one.wav").write_bytes(b"RIFF")
    (tmp_path / "clips.csv").write_text("path,text\nclips/one.wav,hello\n")
    os.link(tmp_path / "in.bin", tmp_path / "hard.bin")
    (tmp_path / "soft.bin").symlink_to("in.bin")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "quantize in.bin in.bin q4_0",
        "quantize in.bin hard.bin q4_0",
        "quantize in.bin soft.bin q4_0",
        "quantize in.bin out.bin q4_0 --recipe-out in.bin",
        "quantize in.bin a.calib q4_0 --calibration a.calib",
        "quantize in.bin mine.toml --recipe mine.toml",
        "quantize in.bin out.bin --recipe mine.toml --recipe-out mine.toml",
        "quantize hf hf/config.json q4_0",
        "quantize hf out.bin q4_0 --recipe-out hf/tokenizer.json",
        "convert hf hf/model.safetensors --format bin",
        "convert in.bin ./clips/../in.bin",
        "evaluate in.bin --data clips.csv --json in.bin",
        "evaluate in.bin hard.bin --data clips.csv --report soft.bin",
        "evaluate in.bin --data clips.csv --json clips.csv",
        "evaluate in.bin --data clips.csv --report clips/one.wav",
        "evaluate in.bin --data clips --json clips/one.wav",
        "calibrate in.bin --data clips -o in.bin",
        "calibrate in.bin --merge a.calib -o a.calib",
        "calibrate in.bin --merge a.calib -o b.calib --imatrix-out a.calib",
        "search in.bin --calibration a.calib --bits 9 -o a.calib",
        "search in.bin --calibration a.calib --bits 9 -o mix.toml --sensitivity in.bin",
        "optimize in.bin in.bin --data clips --bits 9",
        "report clips.csv clips.csv",
    ],
)
def test_what_is_read_is_not_written(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = contents(folder)
    assert main(words.split()) == 1
    said = capsys.readouterr().err
    assert "is the input itself" in said or "is read by this command" in said
    assert "hint: give the output another name" in said
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        "evaluate in.bin --data clips.csv --json out.x --report out.x",
        "evaluate in.bin --data clips.csv --json out.x --report OUT.x",
        "quantize in.bin out.bin q4_0 --recipe-out out.bin",
        "quantize in.bin out.bin q4_0 --sidecar --recipe-out out.bin.json",
        "search in.bin --calibration a.calib --bits 9 -o x.json --sensitivity ./x.json",
        "optimize in.bin out.optimize/recipe.toml --folder out.optimize --data clips --bits 9",
    ],
)
def test_two_outputs_have_two_names(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = contents(folder)
    assert main(words.split()) == 1
    assert "one file, for two outputs" in capsys.readouterr().err
    assert contents(folder) == before


def test_an_earlier_output_may_be_written_again(folder: Path) -> None:
    words = ["quantize", "--quiet", "in.bin", "out.bin", "q4_0", "--recipe", "mine.toml", "--sidecar"]
    assert main(words) == 0
    assert main(words) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_that_names_a_file_says_whether_it_is_read_or_written(name: str) -> None:
    """A new option is covered on the day it is added: one that takes a FILE without saying which turns this red."""
    from importlib import import_module

    parser = argparse.ArgumentParser()
    import_module(f"whisq.cli.{name}").add_arguments(parser)
    files = ("FILE", "MODEL", "INPUT", "OUTPUT", "SOURCE", "REFERENCE", "CANDIDATE", "A", "B", "CLIPS", "REPORT")
    if name in ("inspect", "compare", "demo"):
        return  # these write nothing, but for demo in a folder of its own
    for action in parser._actions:
        if action.metavar in files or action.metavar in ("NAME|FILE", "RESULTS.json"):
            assert isinstance(action.type, type), action.dest
            assert issubclass(action.type, Read | Written), action.dest
            assert not issubclass(action.type, Written) or action.type.kinds, f"{action.dest} says not what it writes"
