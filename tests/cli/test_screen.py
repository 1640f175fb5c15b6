"""No text of others reaches a terminal that it could move, recolour or reorder: in any argument, name or file."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import unicodedata
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import whisq
from tests.support.calibrations import write as write_calibration
from tests.support.command_line import command, run
from tests.support.containers import write_huggingface, write_model
from tests.support.models import WIDE, tiny_weights
from whisq.cli import COMMANDS
from whisq.cli.console import Console
from whisq.errors import WhisqError
from whisq.screen import shown, shown_lines

HOSTILE = "x\x1b]0;owned\x07\x1b[2J\rerror: none\n\u202egnp\u2066\x9b31m\x7f\u2028y"


def raw(text: str) -> list[str]:
    """Return the characters of a text that a terminal would obey."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("q5_0 → 12 MB, 10⁶, naïve, 語", None),
        ("نمی\u200cخواهم", None),  # a joiner that is spelling
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x9b\x7f", r"\x9b\x7f"),
        ("\u202eabc\u2069", r"\u202eabc\u2069"),
        ("\u2028\ufeff\u00ad", r"\u2028\ufeff\xad"),
        ("na\udcefme\udcff", r"na\xefme\xff"),
        ("\ud83d", r"\ud83d"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_not_seen_is_shown(text: str, expected: str | None) -> None:
    assert shown(text) == (text if expected is None else expected)


def test_only_our_own_line_breaks_are_kept() -> None:
    assert shown_lines("two are wrong:\n  first\n  second\nerror: forged") == (
        "two are wrong:\n  first\n  second\\nerror: forged"
    )


def test_every_way_to_print_shows_what_it_is_given(capsys) -> None:
    console = Console()
    for say in (console.data, console.note, console.note_always, console.warn):
        say(HOSTILE)
    console.warn("x", HOSTILE)
    console.error(WhisqError(HOSTILE, hint=HOSTILE))
    console.json({HOSTILE: [HOSTILE, "\udcff"]})
    said = capsys.readouterr()
    assert not raw(said.out + said.err)
    assert said.err.count("error: ") == 1 + said.err.count(r"\rerror: none\n")
    lines = said.out.splitlines()
    assert json.loads("\n".join(lines[lines.index("{") :])) == {HOSTILE: [HOSTILE, "\udcff"]}


TO_OTHERS = {
    "cli/console.py": "where all lines go",
    "kernels/self_test.py": "names of types, methods and instruction sets, which are its own",
    "recipe/pattern_process.py": "to the process that asked it",
    "runtimes/transcribe_cpp.py": "to the process that asked it, which shows the end of it in an error",
}


def test_only_the_console_prints() -> None:
    """What would go round it would be raw: a new `print` elsewhere turns this red."""
    found = {}
    for file in sorted(Path(whisq.__file__).parent.rglob("*.py")):
        names = [node.func.id for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)
                 and isinstance(node.func, ast.Name)]  # fmt: skip
        if "print" in names:
            found[file.relative_to(Path(whisq.__file__).parent).as_posix()] = names.count("print")
    assert set(found) == set(TO_OTHERS)


def test_a_bar_shows_its_label(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    labels = []
    monkeypatch.setattr("rich.progress.Progress.add_task", lambda self, label, total: labels.append(label) or 0)
    monkeypatch.setattr(
        "rich.progress.Progress.update", lambda self, task, advance, description=None: labels.append(description)
    )
    with Console().progress(3, f"[red]{HOSTILE}") as advance:
        advance(1)
    with Console().bar(3, "start") as advance:
        advance(1, HOSTILE)
    assert labels == [f"[red]{shown(HOSTILE)}", None, "start", shown(HOSTILE)]


def actions(name: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    import_module(f"whisq.cli.{name}").add_arguments(parser)
    return parser._actions


ARGUMENTS = [(name, None) for name in COMMANDS if name != "demo"] + [
    (name, action.option_strings[-1])
    for name in COMMANDS
    for action in actions(name)
    if action.option_strings and action.nargs != 0 and (name, action.dest) != ("demo", "output")
]
"""Each command by its arguments alone and with each of its options: a new option is covered as it is declared."""


@pytest.mark.parametrize(("name", "option"), ARGUMENTS)
def test_no_argument_reaches_the_screen_raw(capsys, tmp_path: Path, monkeypatch, name: str, option) -> None:
    monkeypatch.chdir(tmp_path)
    words: list[str] = [name]
    for action in actions(name):
        if action.option_strings and action.required and action.option_strings[-1] != option:
            words += [action.option_strings[-1], "absent"]
        elif not action.option_strings and action.nargs in (None, "?"):
            words.append(HOSTILE if option is None else f"absent-{action.dest}")
    if name in ("search", "optimize") and option not in ("--size", "--bits", "--divergence"):
        words += ["--bits", "5"]
    if option:
        words += [option, HOSTILE]
    code, out, err = run(capsys, *words)
    assert code == 1, err
    assert not raw(out + err), (out, err)
    assert [line.split(":")[0] for line in err.splitlines() if not line.startswith("  ")] == ["error", "hint"]


def test_words_that_no_command_has(capsys) -> None:
    for words in ([HOSTILE], ["inspect", "x", HOSTILE], ["inspect", f"--{HOSTILE}", "x"]):
        code, out, err = run(capsys, *words)
        assert code == 1
        assert not raw(out + err)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a hostile name with a model whose tensors have such names, too, and a recipe."""
    monkeypatch.chdir(tmp_path)
    name = HOSTILE + "\udcfe"
    try:
        os.mkdir(os.fsencode(name))  # noqa: PTH102 - bytes that are no text
    except (OSError, UnicodeEncodeError):
        name = HOSTILE  # a file system of Unicode names
        Path(name).mkdir()
    folder = Path(name)
    weights = tiny_weights()
    made = write_huggingface(
        folder / "hf",
        replace(
            weights, tokenizer=replace(weights.tokenizer, tokens=(HOSTILE.encode(), *weights.tokenizer.tokens[1:]))
        ),
    )
    arrays = load_file(made / "model.safetensors")
    save_file({**arrays, HOSTILE: np.zeros(3, np.float32)}, made / "model.safetensors")
    write_model(folder / "m.bin", WIDE)
    write_calibration(folder / "m.calib")
    quoted, pattern = (json.dumps(text).replace("\x7f", "\\u007f") for text in (HOSTILE, re.escape(HOSTILE)))
    (folder / "r.toml").write_text(
        f'[recipe]\nname = {quoted}\ndescription = {quoted}\ndefault = "q4_0"\n'
        f'[[rules]]\npattern = {pattern}\ntype = "q8_0"\nreason = {quoted}\n'
    )
    (folder / "clips.csv").write_text(f'path,text\n"{HOSTILE}.wav",hello\n')
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("inspect hf --tensors", 0),
        ("inspect hf --tensors --json", 0),
        ("inspect m.bin", 0),
        ("quantize hf out.bin --recipe r.toml", 0),
        ("quantize hf out.bin --recipe r.toml --json", 0),
        ("quantize hf out.gguf --recipe r.toml --sidecar --recipe-out again.toml", 0),
        ("quantize m.bin out.bin --recipe r.toml --strict", 1),
        ("quantize m.bin out.bin q4_0 --calibration m.calib", 0),
        ("convert hf out.gguf --sidecar", 0),
        ("compare hf m.bin", 1),
        ("compare m.bin m.bin", 0),
        ("compare m.bin m.bin --json", 0),
        ("evaluate m.bin --data clips.csv", 1),
        ("calibrate m.bin --data clips.csv -o new.calib", 1),
        ("search m.bin --calibration clips.csv --bits 5 -o new.toml", 1),
        ("search m.bin --calibration m.calib --reuse r.toml --bits 5 -o new.toml", 1),
        ("report clips.csv", 1),
    ],
)
def test_no_name_in_a_file_reaches_the_screen_raw(capsys, hostile: Path, words: str, expected: int) -> None:
    name, *rest = words.split()
    paths = [word if word.startswith("-") or word == "q4_0" or word == "5" else hostile / word for word in rest]
    code, out, err = run(capsys, name, *paths)
    assert code == expected, err
    assert not raw(out + err)
    if "--json" in rest:
        json.loads(out)
    if "again.toml" in words:
        assert run(capsys, "quantize", hostile / "m.bin", hostile / "b.bin", "--recipe", hostile / "again.toml")[0] == 0


def test_an_encoding_that_lacks_a_character_ends_no_command(tmp_path: Path) -> None:
    """A pipe in a C locale, a legacy code page: help, data and errors are shown with escapes."""
    write_model(tmp_path / "m.bin", WIDE)
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for words, code in ((["evaluate", "--help"], 0), (["inspect", tmp_path / "m.bin"], 0), (["inspect", "größe"], 1)):
        done = subprocess.run(command(*words), capture_output=True, env=ascii_only, check=False)
        assert done.returncode == code, done.stderr
        (done.stdout + done.stderr).decode("ascii")
