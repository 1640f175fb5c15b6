"""A file that is plainly something else than what is written is replaced only where that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaign.commands import Argument, arguments_of, parser_of, words_for, write_sources, writing_commands
from tests.cli.test_writers import WRITERS
from tests.support.calibrations import write as write_calibration
from tests.support.containers import WRITERS as CONTAINERS
from tests.support.containers import write_model
from tests.support.models import WIDE, tiny_weights
from whisq.cli import COMMANDS, kinds, main
from whisq.cli.kinds import kind_of, kind_of_file

FOREIGN = {
    "a model": b"lmgg\0\0\0\0",
    "a GGUF": b"GGUF\3\0\0\0\0\0\0\0\0\0\0\0",
    "safetensors": b'\x40\0\0\0\0\0\0\0{"a": 1}',
    "a checkpoint": b"PK\3\4archive/data.pkl",
    "speech": b"RIFF\0\0\0\0WAVEfmt ",
    "compressed speech": b"fLaC\0\0\0\x22",
    "a manifest": b"path,text\none.wav,hello\n",
    "a manifest of JSON lines": b'{"path": "one.wav", "text": "hello"}\n{"path": "two.wav", "text": "you"}\n',
    "a tokenizer": b'{\n  "version": "1.0",\n  "truncation": null,\n',
    "a transcript": b"hello there\n",
    "a README": b"# Title\n\nText.\n",
    "settings": b"[project]\nname = 'mine'\n",
    "other settings": b"[tool.mine]  # mine\na = 1\n",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0",
}
"""What people have, and what whisq would not write over anything but the same."""

OUTPUTS = [argument for command in writing_commands() for argument in arguments_of(command) if argument.writes]
SAME = {("a model", kinds.MODEL), ("a GGUF", kinds.MODEL)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    write_sources(folder)
    return folder


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: f"{output.command}-{output.action.dest}")
def test_what_is_plainly_something_else_stays(folder: Path, capsys, output: Argument, what: str) -> None:
    path = folder / "theirs"
    path.write_bytes(FOREIGN[what])
    if (what, output.action.type.kinds[0]) in SAME:  # type: ignore[union-attr]
        return
    assert main(words_for(output.command, {output.action.dest: path}, folder)) == 1
    said = capsys.readouterr().err
    assert f"theirs: is {kind_of(FOREIGN[what])}, and " in said
    assert "hint: give the output another name, or add --overwrite" in said
    assert path.read_bytes() == FOREIGN[what]


@pytest.mark.parametrize(("name", "words"), WRITERS, ids=[name for name, _ in WRITERS])
def test_what_a_command_writes_it_replaces(
    tmp_path: Path, monkeypatch, capsys, name: str, words: Callable[[Path, pytest.MonkeyPatch], list[str]]
) -> None:
    """Its own output again, an empty file, and with ``--overwrite`` anything."""
    asked = words(tmp_path, monkeypatch)
    (tmp_path / name).touch()
    assert main(asked) == 0
    made = (tmp_path / name).read_bytes()
    assert main(asked) == 0
    assert (tmp_path / name).read_bytes()[:4] == made[:4]
    (tmp_path / name).write_bytes(FOREIGN["a picture"])
    assert main(asked) == 1
    assert (tmp_path / name).read_bytes() == FOREIGN["a picture"]
    assert main([*asked, "--overwrite"]) == 0
    assert (tmp_path / name).read_bytes()[:4] == made[:4]


def test_what_goes_beside_an_output_is_looked_at_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_model(tmp_path / "in.bin", WIDE)
    (tmp_path / "out.bin.json").write_bytes(FOREIGN["a tokenizer"])
    words = ["quantize", str(source), str(tmp_path / "out.bin"), "q4_0", "--quiet"]
    assert main([*words, "--sidecar"]) == 1
    assert "out.bin.json: is a JSON file, and a sidecar would take its place" in capsys.readouterr().err
    assert not (tmp_path / "out.bin").exists()
    assert main(words) == 0


@pytest.mark.parametrize("name", ["recipe.toml", "results.json", "uniform-q5_0.bin", "report.html"])
def test_the_folder_of_an_optimization_is_looked_at_as_well(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_bytes(FOREIGN["a transcript"])
    words = words_for("optimize", {"folder": tmp_path, "output": tmp_path / "out.bin"}, folder)
    assert main(words) == 1
    assert f"{name}: is a text file, and " in capsys.readouterr().err


def test_a_plan_replaces_nothing(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in.bin", WIDE)
    (tmp_path / "theirs").write_bytes(FOREIGN["a picture"])
    assert main(["quantize", str(source), str(tmp_path / "theirs"), "q4_0", "--dry-run", "--quiet"]) == 0


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_a_kind(tmp_path: Path, container: str) -> None:
    path = CONTAINERS[container](tmp_path, tiny_weights())
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in (".bin", ".safetensors")]
    assert files
    for file in files:
        assert kind_of_file(file) not in ("", "a text file", kinds.CALIBRATION, kinds.IMATRIX)


def test_a_calibration_is_no_model(tmp_path: Path) -> None:
    write_calibration(tmp_path / "a.calib")
    assert kind_of_file(tmp_path / "a.calib") == kinds.CALIBRATION


def test_settings_are_no_json() -> None:
    assert kind_of(b"[tool.mine]  # mine\na = 1\n") == kind_of(b"[[tables]]\na = 1\n") == "a text file"
    assert kind_of(b'["a", "b"]\n') == kind_of(b"[1, 2]\n") == "a JSON file"
    assert kind_of(b"[recipe]  # mine\ndefault = 'q4_0'\n") == kinds.RECIPE


def test_text_is_known_where_a_letter_is_cut() -> None:
    assert kind_of(("x" * 4095 + "ä").encode()[:4096]) == "a text file"
    assert kind_of(b"\xff\xfe" + b"x" * 100) == "a file that whisq does not write"


@pytest.mark.parametrize("command", COMMANDS)
def test_one_option_replaces_and_it_has_one_name(command: str) -> None:
    flags = {flag for action in parser_of(command)._actions for flag in action.option_strings}
    assert "--force" not in flags
    assert ("--overwrite" in flags) == (command not in ("inspect", "compare"))
