"""``whisq calibrate``: what it prints, and what it refuses before any work."""

from __future__ import annotations

from pathlib import Path

from tests.support.calibrations import MULTILINGUAL, languages_heard
from tests.support.containers import model_bytes
from whisq.cli import main


def test_calibrate_prints_that_warning(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.bin").write_bytes(model_bytes(MULTILINGUAL))
    for name, language in (("english", "en"), ("german", "de")):
        languages_heard(Path(f"{name}.calib"), MULTILINGUAL, **{language: 300.0})
    assert main(["calibrate", "wide.bin", "--merge", "english.calib", "-o", "out.calib"]) == 0
    captured = capsys.readouterr()
    assert "warning: out.calib: all audio is in one language (en)" in captured.err
    assert "hint: add clips of the languages" in captured.err
    assert main(["calibrate", "wide.bin", "--merge", "english.calib", "--merge", "german.calib", "-o", "o.calib"]) == 0
    assert "warning" not in capsys.readouterr().err
