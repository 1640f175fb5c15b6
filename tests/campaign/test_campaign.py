"""The campaign is able to find something, and its shortest part has nothing to find."""

from pathlib import Path
from random import Random

import pytest

from tests.campaign import aimed
from tests.campaign.__main__ import campaign


def test_no_output_that_is_aimed_at_an_input_hits_it(tmp_path: Path) -> None:
    found = list(aimed.tries(Random(1), tmp_path))
    assert len(found) > 250
    assert [told for told in found if told is not None] == []


def test_what_changes_an_input_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(words: list[str]) -> int:
        (tmp_path / "in.bin").write_bytes(b"lost")
        return 0

    monkeypatch.setattr(aimed, "main", careless)
    told = next(aimed.tries(Random(1), tmp_path))
    assert told is not None
    assert "in.bin" in told


def test_parts_take_turns_and_their_findings_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign(["aimed"], 0.5, seed=1) == 0
    assert " 0 wrong" in capsys.readouterr().out
