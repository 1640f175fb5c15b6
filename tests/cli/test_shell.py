"""What a start shows, and what a shell and ``man`` are told of every command."""

import shutil
import subprocess
import sys

import pytest

from whisq.cli import COMMANDS, main


def printed(capsys, *words):
    """Return the exit code and what was printed."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr()


def test_bare_whisq_shows_help_and_what_people_come_for(capsys):
    code, bare = printed(capsys)
    assert code == 0
    assert bare.out == printed(capsys, "--help")[1].out
    assert all(name in bare.out for name in COMMANDS)
    purposes = bare.out.partition("what people come for:\n")[2].split("\n\n")[0]
    shown = [line.split()[1] for line in purposes.splitlines() if "whisq " in line]
    assert shown == ["quantize", "optimize", "evaluate"]


def test_help_loads_little():
    """What it takes is imports; recipes alone took a third of it."""
    code = (
        "import sys; from whisq.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = set(done.stderr.split())
    assert "whisq.cli" in loaded
    assert not {"numpy", "whisq.recipe", "whisq.formats", "whisq.model", "difflib", "importlib.metadata"} & loaded


def complete(script, *words):
    """Return what bash would offer for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _whisq; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_options_values_and_files_are_completed(capsys, shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model-f16.bin").touch()
    script = printed(capsys, "--completion", shell)[1].out
    if shell == "zsh":
        assert script.startswith("#compdef whisq")
        script = "autoload() { false; }\n" + script
    assert complete(script, "whisq", "") == [*COMMANDS, "--help", "--version"]
    assert complete(script, "whisq", "qu") == ["quantize"]
    assert complete(script, "/usr/bin/whisq", "evaluate", "--dat") == ["--data"]
    assert complete(script, "whisq", "quantize", "--method", "fe") == ["feedback"]
    assert complete(script, "whisq", "quantize", "model") == ["model-f16.bin"]
    assert "--embedding" in complete(script, "whisq-quantize", "--e")


def test_fish_is_told_of_every_command(capsys):
    script = printed(capsys, "--completion=fish")[1].out
    for name in COMMANDS:
        assert f"-f -a {name} -d '" in script
    assert "from quantize' -l method -x -a 'ggml fit importance feedback' -d '" in script
    if shutil.which("fish"):
        assert subprocess.run(["fish", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("words", [("--completion",), ("--completion", "tcsh"), ("--completion=",)])
def test_a_shell_that_it_does_not_know_is_an_error(capsys, words):
    code, shown = printed(capsys, *words)
    assert code == 1
    assert "--completion wants one of: bash fish zsh" in shown.err


def test_the_manual_page_has_every_command_and_option(capsys):
    code, shown = printed(capsys, "--man")
    assert code == 0
    assert shown.out.startswith(".TH WHISQ 1")
    for name in COMMANDS:
        assert f".SH WHISQ {name.upper()}\n" in shown.out
    assert ".B \\-\\-tensor\\-type\n" in shown.out
    if shutil.which("man"):
        page = subprocess.run(["man", "-l", "-"], input=shown.out, capture_output=True, text=True, check=True)
        assert "WHISQ QUANTIZE" in page.stdout
        assert page.stderr == ""
