"""``whisq report``: the page and the tables again, from results."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import command
from tests.support.evaluations import made_evaluation
from whisq.cli import main
from whisq.evaluation import to_json
from whisq.report.page import render_report
from whisq.report.texts import markdown_text


def test_report_command_makes_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = made_evaluation()
    results = tmp_path / "results.json"
    results.write_text(to_json(made), encoding="utf-8")
    assert main(["report", str(results)]) == 0
    assert (tmp_path / "results.html").read_text(encoding="utf-8") == render_report(made)
    assert main(["report", str(results), str(tmp_path / "tables.md")]) == 0
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == markdown_text(made)
    assert "results.html" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_no_room_for_what_is_printed_is_an_error_and_the_report_is_there(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(to_json(made_evaluation()), encoding="utf-8")
    with Path("/dev/full").open("w") as full:
        words = command("report", tmp_path / "results.json", tmp_path / "tables.md")
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: stdout: cannot be written: No space left on device\n")
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == markdown_text(made_evaluation())
