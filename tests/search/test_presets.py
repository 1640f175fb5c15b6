"""No preset is larger than a file of one type, or another preset, that is as close to the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import whisq
from whisq.clips.builtin import builtin_clips
from whisq.formats.special_tokens import special_tokens
from whisq.network.devices import operations_for
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.search.judging import Divergences, Judge
from whisq.search.presets import dominating, preset_candidates
from whisq.search.uniform import Judged

RIVALS = ("q5_1", "q6_K", "q8_0", "compact", "balanced", "conservative")
"""Types whose files are about as large as presets'; smaller ones are further from the source than any."""
SENTENCES = 4


def measured(path: Path) -> list[Judged]:
    """Measure on sentences of a recording that calibrated nothing."""
    with whisq.open_model(path) as model:
        clip = builtin_clips("judge", special_tokens(model)).clips[0]
        judge = Judge(model, [replace(clip, sentences=clip.sentences[:SENTENCES])], operations_for("cpu"))
        candidates = [c for c in preset_candidates(model, TRANSCRIBE_CPP) if c.name in RIVALS]
        return [Judged(candidate, judge.divergences(candidate.plan)) for candidate in candidates]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_en_bin", "base_bin"])
def test_no_preset_is_dominated(name: str, request: pytest.FixtureRequest) -> None:
    """Slow: two real models, in six files each, hear four sentences."""
    judged = measured(request.getfixturevalue(name))
    assert {"compact", "balanced", "conservative"} <= {one.name for one in judged}
    assert [(mine.name, other.name) for mine, other in dominating(judged)] == []


@dataclass(frozen=True)
class FakePlan:
    size_bytes: int


@dataclass(frozen=True)
class Fake:
    name: str
    plan: FakePlan
    is_uniform: bool


def judged(rows: Sequence[tuple[str, int, float]]) -> list[Judged]:
    return [
        Judged(Fake(name, FakePlan(size), not name.startswith("preset")), Divergences((mean, mean), (1, 1)))
        for name, size, mean in rows
    ]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([("q5", 50, 0.02), ("preset", 60, 0.01), ("q8", 70, 0.001)], []),
        ([("q5", 50, 0.01), ("preset", 60, 0.01000001)], [("preset", "q5")]),
        ([("q6", 60, 0.005), ("preset", 60, 0.01)], [("preset", "q6")]),
        ([("preset one", 50, 0.01), ("preset two", 60, 0.02)], [("preset two", "preset one")]),
        ([("q5", 50, 0.02), ("q6", 60, 0.03)], []),
        ([("q6", 60, 0.01), ("preset", 60, 0.01)], []),
    ],
)
def test_what_is_dominated(rows: list[tuple[str, int, float]], found: list[tuple[str, str]]) -> None:
    assert [(mine.name, other.name) for mine, other in dominating(judged(rows))] == found
