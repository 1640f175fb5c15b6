"""What all commands share: names in any dialect, exit codes, help, a start that imports little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import whisq
from tests.support.command_line import command, run
from tests.support.containers import WRITERS, write_torch
from tests.support.models import tiny_weights
from whisq.cli import COMMANDS, main


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"decoder\.blocks\.0\.cross_attn\.query\.weight", None),
        (r"dec\.blocks\.0\.cross_attn\.q\.weight", "transcribe.cpp"),
        (r"model\.decoder\.layers\.0\.encoder_attn\.q_proj\.weight", "huggingface"),
    ],
)
def test_a_rule_in_any_dialect_on_any_container(capsys, model: Path, tmp_path: Path, pattern: str, said) -> None:
    words = ["--verbose", "--tensor-type", f"{pattern}=q4_0", model, tmp_path / "out.bin", "q8_0"]
    code, out, err = run(capsys, "quantize", *words)
    assert code == 0
    assert "matches no tensor" not in err
    (line,) = [line for line in out.splitlines() if "decoder.blocks.0.cross_attn.query.weight - " in line]
    assert "matched pattern -> q4_0" in line
    assert (f"(as {pattern.replace(chr(92), '')})" in line) == (said is not None)
    code, out, err = run(capsys, "compare", model, tmp_path / "out.bin", "--match", pattern)
    assert code == 0
    assert "f16 -> q4_0" in out
    assert (f"was taken as {said} names" in err) == (said is not None)


@pytest.mark.parametrize("command", [["inspect"], ["compare", "model.bin"], ["convert"]])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.gguf", "absent.gguf: no such file or directory"),
        ("empty", "it is empty"),
        ("folder", "the folder holds notes.txt"),
        ("text.gguf", "it is text that begins 'hello'"),
        ("weights.pt", "found epoch"),
    ],
)
def test_what_is_no_model(capsys, tmp_path: Path, monkeypatch, command: list[str], name: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    WRITERS["bin"](tmp_path, tiny_weights())
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    (tmp_path / "text.gguf").write_text("hello")
    write_torch(tmp_path / "weights.pt", {"epoch": 3})
    words = [*command, name] if command != ["convert"] else ["convert", name, "out.gguf"]
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert said in err
    assert "hint: " in err
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    "words",
    [
        "quantize in.bin out.bin --quiet q4_0",
        "quantize in.bin --quiet out.bin q4_0",
        "quantize --quiet in.bin --threads 1 out.bin --verbose q4_0",
        "quantize --quiet in.bin out.bin -- q4_0",
    ],
)
def test_options_may_stand_before_the_last_word(capsys, source, tmp_path, monkeypatch, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words.split())
    assert (code, (tmp_path / "out.bin").exists()) == (0, True), err


def test_candidates_and_a_report_may_stand_after_options(capsys, source, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.csv").write_text("path,text\n")
    for words in ("evaluate in.bin --data clips.csv in.bin", "evaluate in.bin in.bin --data clips.csv"):
        assert "a model is named twice" in run(capsys, *words.split())[2]
    (tmp_path / "mine.txt").write_text("mine\n")
    assert "mine.txt: is a text file" in run(capsys, *"report r.json --search s.json mine.txt".split())[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quantize", "in.bin", "-", "q4_0"], "-: whisq writes files"),
        (["convert", "in.bin", "-"], "-: whisq writes files"),
        (["quantize", "", "out.bin", "q4_0"], "a file's name is empty"),
        (["quantize", "in.bin", "", "q4_0"], "a file's name is empty"),
        (["inspect", ""], "a file's name is empty"),
    ],
)
def test_what_is_no_files_name(capsys, source, tmp_path, monkeypatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 1
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.bin"]


def test_a_folder_that_is_gone(source, tmp_path) -> None:
    (tmp_path / "gone").mkdir()
    line = 'cd gone && rmdir ../gone && exec "$@"'
    words = ["sh", "-c", line, "sh", *command("inspect", source)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the current folder cannot be used" in done.stderr


def test_our_own_mistakes_are_exit_2(capsys, source, tmp_path, monkeypatch):
    def broken(*arguments, **more):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("whisq.quantization.plan.make_plan", broken)
    code, _, err = run(capsys, "quantize", source, tmp_path / "out.bin", "q4_0")
    assert code == 2
    assert "this is a bug in whisq" in err


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command prints that ends with exit code 0 before it does anything."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command_with_its_line(capsys):
    listed = " ".join(printed(capsys, "--help").split())
    for name, line in COMMANDS.items():
        assert f" {name} {line}" in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_begins_with_its_usage_and_line(capsys, command: str):
    shown = " ".join(printed(capsys, command, "--help").split())
    assert shown.startswith(f"usage: whisq {command} [-h]")
    assert COMMANDS[command] in shown


def test_version(capsys):
    assert printed(capsys, "--version") == f"whisq {whisq.__version__}\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "whisq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"whisq {whisq.__version__}\n"


def test_help_and_version_import_nothing_heavy():
    code = "import sys\nfrom whisq.cli import COMMANDS, main\n"
    code += "for words in (['--version'], ['--help'], *([command, '--help'] for command in COMMANDS)):\n"
    code += "    try: main(words)\n    except SystemExit: pass\n"
    code += "    loaded = [m for m in ('numpy', 'rich', 'gguf', 'torch', 'scipy') if m in sys.modules]\n"
    code += "    assert not loaded, (words, loaded)\n"
    code += "print(len(COMMANDS), 'commands')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 10


def test_colour_only_on_a_terminal(source, tmp_path):
    done = subprocess.run(command("quantize", source, tmp_path, "q4_0"), capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: ")
