"""The whole way on real weights: workers, cache, resuming, failures, the same numbers from Python and JSON."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile

import whisq
from whisq.errors import DataError, RuntimeUnavailableError
from whisq.evaluation import Evaluation, EvaluationSettings, to_json, transcribing
from whisq.evaluation.model_files import ModelFile, choose_runtimes, describe, labels_of, reasons_against
from whisq.evaluation.normalizing import normalize
from whisq.evaluation.results import FORWARD_PASS
from whisq.evaluation.results_json import from_json
from whisq.evaluation.tensors import tensor_errors
from whisq.runtimes.process import WorkerError, WorkerProcess
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.work.known import Cache


def test_models_are_run_and_one_that_cannot_be_is_said_to_be_so(
    measured: tuple[Evaluation, EvaluationSettings],
) -> None:
    evaluation, _ = measured
    reference, q4_0, iq4_nl = evaluation.models
    assert {reference.runtime, q4_0.runtime} == {"transcribe.cpp"}
    assert reference.failure == q4_0.failure == ""
    assert len(reference.utterances) == len(q4_0.utterances) == 3
    assert reference.load_s > 0
    assert reference.peak_bytes > reference.baseline_bytes + q4_0.size_bytes / 4
    assert all(utterance.seconds > 0 for utterance in q4_0.utterances)
    assert not iq4_nl.utterances
    assert "transcribe.cpp: it does not take iq4_nl" in iq4_nl.failure
    assert "whisper.cpp: it wants one type for all matrices" in iq4_nl.failure
    assert evaluation.summaries[2] is None


def test_rates_equal_jiwer_called_directly(measured: tuple[Evaluation, EvaluationSettings]) -> None:
    evaluation, _ = measured
    said = [normalize(clip.text, "en") for clip in evaluation.data.clips]
    for model, summary in zip(evaluation.models[:2], evaluation.summaries[:2], strict=True):
        written = [normalize(utterance.text, "en") for utterance in model.utterances]
        assert summary.word_error_rate.estimate == pytest.approx(jiwer.wer(said, written))
        assert summary.character_error_rate.estimate == pytest.approx(jiwer.cer(said, written))
        parts = summary.substitutions + summary.deletions + summary.insertions + summary.runaway
        assert parts == pytest.approx(summary.word_error_rate.estimate)
    first = evaluation.reference.utterances[0]
    assert first.edits.word_edits < first.edits.words / 2, first.text


def test_sizes_types_and_tensor_errors(measured: tuple[Evaluation, EvaluationSettings], q4_bin: Path) -> None:
    evaluation, _ = measured
    candidate = evaluation.models[1]
    assert candidate.size_bytes == q4_bin.stat().st_size
    assert candidate.types == {"q4_0": 64, "f16": 1}
    errors = {tensor.name: tensor for tensor in candidate.tensors}
    assert errors["decoder.token_embedding.weight"].snr_db == math.inf
    assert 15 < errors["encoder.blocks.0.mlp.0.weight"].snr_db < 30


def test_json_round_trip_and_its_summary(measured: tuple[Evaluation, EvaluationSettings]) -> None:
    evaluation, _ = measured
    text = to_json(evaluation)
    assert from_json(text) == evaluation
    document = json.loads(text)
    assert document["schema_version"] == 3
    assert document["summary"][1]["difference"]["verdict"] == evaluation.summaries[1].difference.verdict
    assert document["summary"][2] is None
    assert str(Path.home()) not in text


def test_dataframe_has_a_row_for_each_model_and_utterance(measured: tuple[Evaluation, EvaluationSettings]) -> None:
    pytest.importorskip("pandas", reason="to_dataframe needs pandas")
    frame = measured[0].to_dataframe()
    assert len(frame) == 6
    assert frame["word_edits"].sum() == sum(u.edits.word_edits for m in measured[0].models for u in m.utterances)


def test_a_second_run_takes_everything_from_the_cache(
    measured: tuple[Evaluation, EvaluationSettings],
    tiny_en_bin: Path,
    q4_bin: Path,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluation, settings = measured

    def refuse(module: str) -> WorkerProcess:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(transcribing, "WorkerProcess", refuse)
    again = whisq.evaluate(tiny_en_bin, [q4_bin], clips, settings=settings)
    assert again.models[0].utterances == evaluation.models[0].utterances
    assert again.models[1] == evaluation.models[1]
    with pytest.raises(AssertionError, match="a worker was started"):
        whisq.evaluate(tiny_en_bin, [], clips, settings=replace(settings, fallback=True))


def test_an_interrupted_run_resumes_where_it_stopped(
    measured: tuple[Evaluation, EvaluationSettings],
    tiny_en_bin: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = EvaluationSettings(threads=1, cache=tmp_path)
    transcribed: list[str] = []
    ask = WorkerProcess.ask

    def watched(self: WorkerProcess, operation: str, **request: Any) -> dict[str, Any]:
        if operation == "run":
            if len(transcribed) == 1:
                raise KeyboardInterrupt
            transcribed.append(request["path"])
        return ask(self, operation, **request)

    monkeypatch.setattr(WorkerProcess, "ask", watched)
    with pytest.raises(KeyboardInterrupt):
        whisq.evaluate(tiny_en_bin, [], clips, settings=settings)
    kept = next((tmp_path / "transcripts").glob("*.jsonl"))
    with kept.open("ab") as stream:
        stream.write(b'{"key": "half a li')  # as if cut off while writing
    first = transcribed.copy()
    transcribed[:] = ["", ""]
    resumed = whisq.evaluate(tiny_en_bin, [], clips, settings=settings)
    assert len(transcribed) == 2 + 2
    assert first[0] not in transcribed
    texts = [utterance.text for utterance in resumed.reference.utterances]
    assert texts == [utterance.text for utterance in measured[0].reference.utterances]


def test_progress_ends_at_its_total(
    tiny_en_bin: Path, clips: Path, measured: tuple[Evaluation, EvaluationSettings]
) -> None:
    seen: dict[str, list[tuple[float, float]]] = {}
    whisq.evaluate(
        tiny_en_bin,
        [],
        clips,
        settings=measured[1],
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert list(seen) == ["reading models", "checking clips", "transcribing"]
    for steps in seen.values():
        assert steps[-1][0] == pytest.approx(steps[-1][1])
        assert steps == sorted(steps)


def test_whisper_cpp_runs_a_uniform_file(
    tiny_en_bin: Path, clips: Path, measured: tuple[Evaluation, EvaluationSettings]
) -> None:
    evaluation = whisq.evaluate(tiny_en_bin, [], clips, settings=replace(measured[1], runtime="whisper.cpp"))
    assert evaluation.reference.runtime == "whisper.cpp"
    first = evaluation.reference.utterances[0]
    assert first.edits.word_edits < first.edits.words / 2, first.text


def test_foreign_languages_are_refused_for_english_only_models(tiny_en_bin: Path, clips: Path) -> None:
    with pytest.raises(DataError, match=r"3 problems(.|\n)*language de, but tiny.en-f16 is English-only"):
        whisq.evaluate(tiny_en_bin, [], clips, settings=EvaluationSettings(language="de", cache=None))


def test_a_text_of_which_nothing_is_left_is_a_problem(tiny_en_bin: Path, clips: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.sin(np.arange(16000)) * 0.1, 16000)
    (tmp_path / "x.txt").write_text("[noise]")
    with pytest.raises(DataError, match="nothing is left of its text"):
        whisq.evaluate(tiny_en_bin, [], tmp_path, settings=EvaluationSettings(cache=None))


def test_reference_that_nothing_runs_is_an_error(iq4_bin: Path, tiny_en_folder: Path, clips: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="does not take iq4_nl"):
        whisq.evaluate(iq4_bin, [], clips, settings=EvaluationSettings(cache=None))
    with pytest.raises(RuntimeUnavailableError, match="no ggml runtime reads a"):
        whisq.evaluate(tiny_en_folder, [], clips, settings=EvaluationSettings(cache=None))


def test_the_same_model_twice_is_refused(tiny_en_bin: Path, clips: Path) -> None:
    with pytest.raises(DataError, match="named twice"):
        whisq.evaluate(tiny_en_bin, [tiny_en_bin], clips, settings=EvaluationSettings(cache=None))


def test_one_runtime_for_all_files_where_there_is_one(tiny_en_bin: Path) -> None:
    f16 = describe(tiny_en_bin, "f16")

    def uniform(name: str) -> ModelFile:
        kind = whisq.parse_type(name)
        return replace(f16, tensors=tuple((s, kind if s.is_matrix else t) for s, t in f16.tensors))

    q8, iq4 = uniform("q8_0"), uniform("iq4_nl")
    assert [c.runtime for c in choose_runtimes([f16, q8])] == ["transcribe.cpp"] * 2
    assert [c.runtime for c in choose_runtimes([f16, q8, iq4])] == ["whisper.cpp"] * 3
    assert [c.runtime for c in choose_runtimes([f16, iq4], "transcribe.cpp")] == ["transcribe.cpp", None]
    # What none runs has no say in what is common to the others.
    mix = replace(f16, tensors=tuple(q8.tensors[:-20] + iq4.tensors[-20:]))
    assert [c.runtime for c in choose_runtimes([f16, iq4, mix])] == ["whisper.cpp", "whisper.cpp", None]


def test_a_runtime_that_is_not_installed_is_said_to_be_so(tiny_en_bin: Path) -> None:
    absent = replace(TRANSCRIBE_CPP, package="transcribe-cpp-that-nobody-made")
    assert reasons_against(describe(tiny_en_bin, "x"), absent) == ("transcribe-cpp-that-nobody-made is not installed",)


def test_a_folders_name_is_its_label_dots_included(tmp_path: Path) -> None:
    (tmp_path / "whisper-tiny.en").mkdir()
    assert labels_of([tmp_path / "whisper-tiny.en", tmp_path / "tiny.en-q4_0.bin"]) == [
        "whisper-tiny.en",
        "tiny.en-q4_0",
    ]


def test_labels_tell_files_apart() -> None:
    assert labels_of([Path("a/f16.bin"), Path("a/q4.bin")]) == ["f16", "q4"]
    assert labels_of([Path("a/m.bin"), Path("b/m.bin")]) == ["a/m", "b/m"]


def test_a_file_that_the_runtime_refuses_has_its_reason(tiny_en_bin: Path, clips: Path, tmp_path: Path) -> None:
    with WorkerProcess("whisq.runtimes.worker") as worker:
        damaged = tmp_path / "damaged.bin"
        damaged.write_bytes(tiny_en_bin.read_bytes()[:1_000_000])
        with pytest.raises(WorkerError, match=r"gguf load error|damaged"):
            worker.ask("load", runtime="transcribe.cpp", path=str(damaged), threads=1, fallback=False)


def test_a_worker_that_dies_is_told_with_its_signal() -> None:
    with WorkerProcess("whisq.runtimes.worker") as worker:
        os.kill(worker.pid, 9)
        with pytest.raises(WorkerError, match="died of SIGKILL"):
            worker.ask("load", runtime="transcribe.cpp", path="x", threads=1, fallback=False)


def test_cache_survives_torn_lines_and_keeps_settings_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "transcripts", model="a", threads=1)
    cache.put("one", {"text": "1"})
    file = next((tmp_path / "transcripts").iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    torn = Cache(tmp_path, "transcripts", model="a", threads=1)
    assert torn.get("one") is None
    torn.put("two", {"text": "2"})
    again = Cache(tmp_path, "transcripts", model="a", threads=1)
    assert again.get("two") == {"text": "2"}
    assert Cache(tmp_path, "transcripts", model="b", threads=1).get("two") is None
    assert Cache(None, "transcripts", model="a").get("two") is None


def test_tensor_errors_are_those_of_the_arrays(tiny_en_bin: Path, q4_bin: Path) -> None:
    errors = {error.name: error for error in tensor_errors(tiny_en_bin, q4_bin)}
    name = "decoder.blocks.1.cross_attn.value.weight"
    with whisq.open_model(tiny_en_bin) as theirs, whisq.open_model(q4_bin) as ours:
        true, stored = theirs.array(name).astype(np.float64), ours.array(name).astype(np.float64)
    expected = 10 * np.log10((true**2).sum() / ((true - stored) ** 2).sum())
    assert errors[name].snr_db == pytest.approx(expected, abs=1e-4)  # its sums are in float32
    assert all(error.noise == 0 for error in errors.values() if error.type in ("f16", "f32"))


@pytest.mark.slow
def test_divergence_of_a_model_from_itself_is_nothing(
    tiny_en_bin: Path, q4_bin: Path, clips: Path, tmp_path: Path
) -> None:
    from whisq.evaluation.divergence import DivergenceWorker

    def inside(candidate: Path) -> dict[str, Any]:
        worker = DivergenceWorker()
        worker.load(str(tiny_en_bin), str(candidate), threads=1, device="cpu", runtime=None)
        return worker.run(str(clips / "a.wav"), None, None, "en")

    same, other = inside(tiny_en_bin), inside(q4_bin)
    assert max(same["divergences"]) == 0
    assert same["same_top"] == len(same["divergences"]) > 5
    assert same["encoder_error"] == 0
    assert 1e-4 < np.mean(other["divergences"]) < 1
    assert 0.001 < (other["encoder_error"] / other["encoder_power"]) ** 0.5 < 0.5


def test_measures_inside_reach_the_summary(tiny_en_bin: Path, q4_bin: Path, clips: Path,
                                           measured: tuple[Evaluation, EvaluationSettings]) -> None:  # fmt: skip
    evaluation = whisq.evaluate(tiny_en_bin, [q4_bin], clips, settings=replace(measured[1], inside=1))
    summary = evaluation.summaries[1]
    assert evaluation.models[1].inside_in == FORWARD_PASS  # whisper.cpp loads no q4_0 with an f16 embedding
    tokens = evaluation.models[1].inside[0].divergences
    assert summary.divergence.estimate == pytest.approx(np.mean(tokens))
    assert summary.divergence_p99 == pytest.approx(np.percentile(tokens, 99))
    assert 0 < summary.same_top <= 1
    assert from_json(to_json(evaluation)) == evaluation
