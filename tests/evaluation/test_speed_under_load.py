"""Two busy loops during half of a real evaluation: no verdict on speed turns into another."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import whisq
from whisq.clips.datasets import load_clips
from whisq.evaluation import Evaluation, EvaluationSettings
from whisq.evaluation.speed import NOT_MEASURABLE, compare_speeds
from whisq.quantization.write import quantize

pytestmark = pytest.mark.slow
N_CLIPS = 10


class Loops:
    """Two processes that take all of two CPUs, from the half of the transcripts on."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self.started_at = 0.0

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage == "transcribing" and done >= total / 2 and not self._running:
            loop = [sys.executable, "-c", "while True: pass"]
            self._running = [subprocess.Popen(loop) for _ in range(2)]
            self.started_at = time.time()

    def stop(self) -> None:
        """End the processes."""
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def loops() -> Iterator[Loops]:
    made = Loops()
    yield made
    made.stop()


def test_no_verdict_on_speed_turns_into_another(
    transcribe_cpp: object, tiny_en_bin: Path, clips: Path, tmp_path: Path, loops: Loops
) -> None:
    names = ("q4_0", "q8_0")
    with whisq.open_model(tiny_en_bin) as model:
        files = [
            quantize(whisq.make_plan(model, whisq.Recipe(whisq.parse_type(n))), tmp_path / f"{n}.bin").path
            for n in names
        ]
    found = load_clips(clips)
    some = [replace(clip, id=f"{clip.id} {n}") for n in range(N_CLIPS) for clip in found.clips][:N_CLIPS]
    spoken = replace(found, clips=tuple(some))
    settings = EvaluationSettings(threads=1, cache=None, inside=0, runtime="transcribe.cpp")
    alone = whisq.evaluate(tiny_en_bin, files, spoken, settings=settings)
    loaded = whisq.evaluate(tiny_en_bin, files, spoken, settings=settings, progress=loops)
    assert loops.started_at, "there was load"
    for place, name in enumerate(names, 1):
        verdicts = {verdict(alone, place), verdict(loaded, place)} - {NOT_MEASURABLE}
        assert len(verdicts) <= 1, f"{name}: {verdicts}"


def verdict(evaluation: Evaluation, place: int) -> str:
    """Return what is said of a candidate's speed; it was measured clip by clip, in turns with the reference."""
    times = [[utterance.timing for utterance in model.utterances] for model in evaluation.models]
    speed = compare_speeds(times[place], times[0])
    assert speed.clips == N_CLIPS, speed.reason
    wall = speed.wall.interval
    print(f"{evaluation.models[place].label}: {speed.verdict}, {wall.estimate:.2f} ({wall.low:.2f}-{wall.high:.2f})")
    return speed.verdict
