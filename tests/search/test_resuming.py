"""An interrupted search resumes inside its measuring: nothing that was measured is measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

import whisq
from tests.support.optimized import FEW
from whisq.search import Space
from whisq.search.measure import SearchSettings, measure
from whisq.search.probing import PatchedWhisper


def test_what_was_measured_before_an_interruption_is_not_measured_again(
    tiny_en_bin: Path, tiny_en_calibration: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divergence, squares = PatchedWhisper.divergence, PatchedWhisper.squares
    runs: list[str] = []
    limit = 3

    def counted(self: PatchedWhisper, weights: object) -> float:
        if len(runs) == limit:
            raise KeyboardInterrupt
        runs.append("divergence")
        return divergence(self, weights)

    def gradients(self: PatchedWhisper, *arguments: object, **named: object) -> object:
        runs.append("gradients")
        return squares(self, *arguments, **named)

    monkeypatch.setattr(PatchedWhisper, "divergence", counted)
    monkeypatch.setattr(PatchedWhisper, "squares", gradients)
    settings = SearchSettings("ggml", 1, how="all", cache=tmp_path)
    with whisq.open_model(tiny_en_bin) as model:
        space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", FEW, ())

        def measured() -> dict[str, object]:
            found, _ = measure(model, tiny_en_calibration, space.tensors, space.types, settings=settings)
            return {"harms": found.harms, "mixes": found.mixes}

        with pytest.raises(KeyboardInterrupt):
            measured()
        assert runs == ["gradients", "divergence", "divergence"]
        runs.clear()
        limit = 1000
        resumed = measured()
        assert "gradients" not in runs
        n_resumed = len(runs)
        runs.clear()
        assert measured() == resumed
        assert runs == []
        settings = SearchSettings("ggml", 1, how="all")
        assert measured() == resumed
        assert len(runs) == 1 + 2 + n_resumed
        settings = SearchSettings("importance", 1, how="all", cache=tmp_path)
        runs.clear()
        assert measured() != resumed
        assert "gradients" in runs
