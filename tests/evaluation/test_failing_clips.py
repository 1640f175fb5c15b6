"""What failed to run has no score: not the clip, and not a run whose reference failed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import whisq
from whisq.errors import DataError, RuntimeUnavailableError
from whisq.evaluation import EvaluationSettings, transcribing
from whisq.runtimes.process import WorkerRefusedError

SETTINGS = EvaluationSettings(cache=None, threads=1)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips whose file is named after what is said."""
    generator = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        soundfile.write(tmp_path / f"{name}.wav", generator.normal(0, 0.1, 16_000), 16_000)
        (tmp_path / f"{name}.txt").write_text(name)
    return tmp_path


def worker_that_fails(failing: dict[str, set[str]]) -> type:
    """A runtime's process that hears what a clip is called, and fails on some clips of some models."""

    class Worker:
        def __init__(self, module: str) -> None:
            self.model = ""

        def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
            if operation == "load":
                self.model = Path(arguments["path"]).stem
                return {"load_s": 0.1, "baseline_bytes": 1}
            name = Path(arguments["path"]).stem
            if name in failing.get(self.model, set()):
                raise WorkerRefusedError(f"cannot hear {name}")
            return {"text": name, "seconds": 0.1, "audio_s": 1.0, "remark": "", "peak_bytes": 2}

        def close(self) -> None:
            pass

    return Worker


def test_a_clip_that_one_model_cannot_hear_scores_for_none(
    transcribe_cpp: object, tiny_en_bin: Path, q4_bin: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribing, "WorkerProcess", worker_that_fails({q4_bin.stem: {"two"}}))
    found = whisq.evaluate(tiny_en_bin, [q4_bin], clips, settings=SETTINGS)
    assert [clip.text for clip in found.data.clips] == ["one", "three"]
    assert [[utterance.text for utterance in model.utterances] for model in found.models] == [["one", "three"]] * 2
    assert all(summary is not None and summary.word_error_rate.estimate == 0 for summary in found.summaries)
    (problem,) = found.data.problems
    assert problem.where == "two.wav"
    assert problem.reason.endswith(f"failed with {q4_bin.stem}: cannot hear two")


def test_a_run_whose_reference_failed_is_an_error(
    transcribe_cpp: object, tiny_en_bin: Path, q4_bin: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribing, "WorkerProcess", worker_that_fails({tiny_en_bin.stem: {"one", "two", "three"}}))
    with pytest.raises(RuntimeUnavailableError, match=r"did not run: .* failed on every clip: cannot hear"):
        whisq.evaluate(tiny_en_bin, [q4_bin], clips, settings=SETTINGS)


def test_a_language_that_a_model_lacks_is_an_error_before_anything_runs(
    transcribe_cpp: object, tiny_en_bin: Path, base_bin: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(transcribing, "WorkerProcess")
    (clips / "m.csv").write_text("path,text,language\none.wav,eins,de-AT\ntwo.wav,two,en-US\n")
    with pytest.raises(DataError, match=r"language de, but .* is English-only"):
        whisq.evaluate(tiny_en_bin, [], clips / "m.csv", settings=SETTINGS)
    (clips / "m.csv").write_text("path,text,language\none.wav,一,yue\n")
    with pytest.raises(DataError, match=r"language yue, but .* has no token for it"):
        whisq.evaluate(base_bin, [], clips / "m.csv", settings=SETTINGS)
    with pytest.raises(DataError, match="Whisper has no such language"):
        whisq.evaluate(base_bin, [], clips, settings=EvaluationSettings(cache=None, language="klingon"))
