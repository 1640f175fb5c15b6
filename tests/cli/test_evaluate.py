"""``whisq evaluate``: its files, its table, and what it refuses before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from whisq.cli import main
from whisq.evaluation import Evaluation, EvaluationSettings
from whisq.evaluation.results_json import from_json


def test_command_line_measures_and_reports(tiny_en_bin: Path, q4_bin: Path, clips: Path, tmp_path: Path,
                                           measured: tuple[Evaluation, EvaluationSettings]) -> None:  # fmt: skip
    command = [
        sys.executable, "-c", "import sys; from whisq.cli import main; sys.exit(main())", "evaluate",
        str(tiny_en_bin), str(q4_bin), "--data", str(clips), "--threads", "1", "--cache", str(measured[1].cache),
        "--json", str(tmp_path / "out.json"), "--report", str(tmp_path / "report.html"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "tiny.en-q4_0" in done.stdout
    assert "not distinguishable with this much audio" in done.stdout
    assert 50_000 < (tmp_path / "report.html").stat().st_size < 1_500_000
    assert from_json((tmp_path / "out.json").read_text()).models[1] == measured[0].models[1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "/nowhere-at-all"], "no such file or folder"),
        (["--data", ".", "--json", "/nowhere-at-all/x.json"], "directory /nowhere-at-all does not exist"),
        (["--data", ".", "--jobs", "0"], "is not a"),
    ],
)
def test_command_line_errors(
    tiny_en_bin: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: int | str | None = main(["evaluate", str(tiny_en_bin), *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 1
    assert told in capsys.readouterr().err
