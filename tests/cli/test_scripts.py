"""What scripts read: one document on stdout whatever happens, of the published schema, and a documented exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import ValidationError

from tests.support import calibrations
from tests.support.command_line import run
from tests.support.containers import write_model
from tests.support.evaluations import made_evaluation
from tests.support.models import WIDE
from tests.support.schema import checked, schema
from whisq.cli import COMMANDS, main
from whisq.evaluation import to_json


@pytest.fixture
def folder(tmp_path: Path, monkeypatch, source: Path) -> Path:
    """Where commands run: a model, one of wider rows with a calibration, and results."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "wide.bin", WIDE)
    (tmp_path / "results.json").write_text(to_json(made_evaluation()), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "quantize in.bin out.bin q5_0",
        "quantize in.bin out.bin q5_0 --dry-run --quiet",
        "convert in.bin out.gguf --quiet",
        "inspect in.bin --tensors",
        "compare in.bin in.bin",
        "report results.json --quiet",
        "report results.json tables.md",
    ],
)
def test_a_command_prints_one_document_as_published(folder: Path, capsys, words: str) -> None:
    code, out, _ = run(capsys, *words.split(), "--json")
    assert code == 0
    document = checked(out, words.split()[0])
    if "size_bytes" in document and "output" in document:
        assert document["size_bytes"] == (folder / document["output"]).stat().st_size


def test_calibrate_prints_one_too(folder: Path, capsys) -> None:
    calibrations.write(Path("one.calib"), WIDE)
    code, out, err = run(capsys, "calibrate", "wide.bin", "--merge", "one.calib", "-o", "two.calib", "--json")
    assert code == 0, err
    assert checked(out, "calibrate")["size_bytes"] == Path("two.calib").stat().st_size


def test_results_of_an_evaluation_are_as_published() -> None:
    document = checked(to_json(made_evaluation()), "evaluation")
    standings = {one["file"]: one["standing"] for one in document["which_file"]["files"]}
    assert standings["reference"] == "reference"
    assert standings["harmed"] == "worse in words"
    assert [one["file"] for one in document["which_file"]["not_worse"]] == [None]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("inspect missing.bin --json", "missing.bin: no such file"),
        ("inspect --json", "required: MODEL"),
        ("inspect in.bin --json --shape", "no option --shape"),
        ("inspct in.bin --json", "whisq has no command 'inspct'"),
        ("quantize in.bin out.bin q9_9 --json --quiet", "q9_9"),
        ("evaluate in.bin --data nowhere --json -", "nowhere: no such file or folder"),
        ("evaluate in.bin --data nowhere --json=- --fail-if words", "is not a condition"),
        ("report in.bin --json", "in.bin"),
    ],
)
def test_an_error_is_a_document_too(folder: Path, capsys, words: str, told: str) -> None:
    code, out, err = run(capsys, *words.split())
    document = checked(out, "error")
    assert code == document["exit_code"] == 1
    assert told in document["message"]
    assert document["message"].splitlines()[0] in err
    assert f"hint: {document['hint']}" in err


def test_a_bug_is_one_of_exit_code_2(folder: Path, capsys, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("whisq.cli.inspect.run", broken)
    code, out, _ = run(capsys, "inspect", "in.bin", "--json")
    document = checked(out, "error")
    assert (code, document["exit_code"], document["kind"]) == (2, 2, "internal")


def test_without_json_an_error_leaves_stdout_empty(folder: Path, capsys) -> None:
    assert run(capsys, "inspect", "missing.bin")[:2] == (1, "")
    assert run(capsys, "evaluate", "in.bin", "--data", "nowhere", "--json", "results.json")[:2] == (1, "")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_the_flag_and_a_schema(capsys, name: str) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert re.search(r"--json FILE write" if name == "evaluate" else r"--json print the result", shown)
    assert ("evaluation" if name == "evaluate" else name) in schema()["$defs"]


def test_no_option_takes_its_value_or_not() -> None:
    """Whether the word behind it is its value could not be told."""
    import argparse
    import importlib

    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"whisq.cli.{name}").add_arguments(parser)
        assert [action.dest for action in parser._actions if action.option_strings and action.nargs == "?"] == []


def test_a_document_that_is_otherwise_is_caught() -> None:
    error = {"schema": "whisq-error", "schema_version": 1, "exit_code": 1, "kind": "x", "message": "x", "hint": None}
    checked(json.dumps(error), "error")
    for wrong in ({**error, "more": 1}, {**error, "exit_code": "1"}, {**error, "schema_version": 2}):
        with pytest.raises(ValidationError):
            checked(json.dumps(wrong), "error")


def test_the_page_names_every_exit_code() -> None:
    from whisq.cli.console import CONDITION_MET, INTERNAL

    page = (Path(__file__).parents[2] / "docs" / "scripts.md").read_text("utf-8")
    codes = re.findall(r"^\| (\d) \|", page, re.MULTILINE)
    assert list(map(int, codes)) == [0, 1, INTERNAL, CONDITION_MET]
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    checked(example, "error")
