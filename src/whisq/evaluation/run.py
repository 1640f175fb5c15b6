"""Measure a reference and candidates on the same clips, each in its own process, and put it together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whisq.clips.clip import Clip, ClipSet, Problem
from whisq.errors import RuntimeUnavailableError
from whisq.evaluation.environment import environment
from whisq.evaluation.inside import Inside, Way, Ways, can_be_measured, measure_inside
from whisq.evaluation.long_form import LONG_S, LongForm, long_clip
from whisq.evaluation.model_files import ModelFile, RuntimeChoice
from whisq.evaluation.preparing import prepared
from whisq.evaluation.results import (
    ClipRecord,
    DataRecord,
    Evaluation,
    ModelResult,
    Utterance,
    count_types,
)
from whisq.evaluation.scoring import count_edits
from whisq.evaluation.sharing import share
from whisq.evaluation.speed import Timing
from whisq.evaluation.tensors import known_tensor_errors
from whisq.evaluation.transcribing import Measured, Running, transcribe_all
from whisq.evaluation.which_file import LOSS_NATS
from whisq.extras import SCORING, require_packages
from whisq.kernels.threads import available_cpus
from whisq.model import Model
from whisq.progress import Progress, no_progress
from whisq.runtimes.process import WorkerError
from whisq.runtimes.registry import installed_runtimes, parse_runtime
from whisq.work import Executor, Outline
from whisq.writing import default_cache_folder, scratch_folder

TIMED = 12
"""Clips of which times are taken here, where all clips are heard elsewhere: twice what a comparison needs."""


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How to measure. ``inside`` is the number of clips for the measures inside the model, 0 for none.

    ``long_form`` lets every model hear one recording of ``long_form_s`` seconds at least, too.

    ``loss_nats`` is the divergence per token that is good enough where somebody wants it small.

    ``fallback`` lets the runtime retry at higher temperatures what it finds unlikely, as it does by itself.
    It is off because what it samples then differs by chance, which drowns small differences between
    weights.

    ``device`` is where whisq's forward pass looks inside, and where models transcribe in runtimes that can as they are
    installed; the others do so on the CPU.

    ``executor`` is who transcribes and looks inside, None for processes here. Times are taken here all the same, of
    ``TIMED`` clips, when nothing else is done.
    """

    limit: int | None = None
    seed: int = 0
    language: str | None = None
    runtime: str | None = None
    threads: int | None = None
    jobs: int = 1
    fallback: bool = False
    inside: int = 20
    long_form: bool = False
    long_form_s: float = LONG_S
    loss_nats: float = LOSS_NATS
    device: str = "cpu"
    skip_bad: bool = False
    cache: Path | None = field(default_factory=default_cache_folder)
    executor: Executor | None = None

    @property
    def threads_each(self) -> int:
        """Threads of one worker: what was asked for, else the CPUs shared among the jobs, at most 4."""
        return self.threads or max(1, min(4, available_cpus() // self.jobs))

    def record(self) -> dict[str, Any]:
        """Return what belongs into the results: all that a number may depend on."""
        return {
            "limit": self.limit,
            "seed": self.seed,
            "language": self.language,
            "runtime": self.runtime,
            "threads": self.threads_each,
            "jobs": self.jobs,
            "inside": self.inside,
            **({"long_form": True, "long_form_s": self.long_form_s} if self.long_form else {}),
            "loss_nats": self.loss_nats,
            "decoding": "greedy, with temperature fallback" if self.fallback else "greedy",
        }


def evaluate(
    reference: str | Path | Model,
    candidates: Sequence[str | Path],
    data: str | Path | ClipSet,
    *,
    settings: EvaluationSettings | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Return what quantizing cost: every model's transcripts of the data, compared with the reference's.

    The reference may be a model that is open already; it stays so. All that can be checked is checked first: the
    models' files, the data, which runtime runs what. A candidate that no installed runtime can run, or that fails when
    loaded, has a ``failure`` instead of utterances.

    Raises ``FormatError`` for a damaged model, ``PlanError`` for a candidate of other dimensions or vocabulary and for
    a runtime that whisq does not know, ``DataError`` that lists all that is wrong with the data,
    ``RuntimeUnavailableError`` when the reference cannot be run, ``MissingExtraError`` for missing packages.
    """
    require_packages(*SCORING, purpose="measuring word error rates")
    chosen = settings or EvaluationSettings()
    if chosen.executor is not None and not chosen.executor.is_here and chosen.cache is None:
        # What comes from elsewhere is found in a cache: one for this run.
        with scratch_folder() as folder:
            return evaluate(reference, candidates, data, settings=replace(chosen, cache=folder), progress=progress)
    files, choices, ways, clips = prepared(reference, candidates, data, chosen, progress)
    measurements = _measure(files, choices, ways, clips, chosen, progress)
    clips = _heard_by_all(clips, measurements)
    written = [str(reply["text"]) for reply in measurements[0].measured.replies]
    models = [_model_result(one, clips, written if index else None) for index, one in enumerate(measurements)]
    if chosen.long_form:
        heard = _hear_at_length(files, choices, clips, chosen, progress)
        models = [replace(model, long_form=found) for model, found in zip(models, heard, strict=True)]
    for file in files:
        for state in file.states:
            state.check()  # what was transcribed has the hash that was taken
    work = chosen.executor.account.summary() if chosen.executor is not None else None
    where = {**environment(), **({"work": work} if work is not None else {})}
    return Evaluation(_data_record(clips), tuple(models), {**chosen.record(), **_devices(choices, chosen)}, where)


def _devices(choices: Sequence[RuntimeChoice], settings: EvaluationSettings) -> dict[str, Any]:
    """Return what the results say of devices: nothing where all was done on the CPU."""
    if settings.device == "cpu":
        return {}
    runtimes = sorted({choice.runtime for choice in choices if choice.runtime is not None})
    transcribed = {name: parse_runtime(name).device_for(settings.device) for name in runtimes}
    return {"device": settings.device, "transcribed_on": transcribed}


def foresee_evaluation(
    reference: str | Path | Model,
    candidates: Sequence[str | Path],
    data: str | Path | ClipSet,
    outline: Outline,
    *,
    settings: EvaluationSettings | None = None,
    progress: Progress = no_progress,
) -> None:
    """Note what ``evaluate`` would have others do of what is not kept yet; raises what that raises before its work."""
    require_packages(*SCORING, purpose="measuring word error rates")
    chosen = settings or EvaluationSettings()
    files, choices, ways, clips = prepared(reference, candidates, data, chosen, progress)
    running = Running(chosen.threads_each, chosen.fallback, chosen.jobs, chosen.cache, device=chosen.device)
    _share(files, choices, ways, clips, running, outline, chosen, no_progress)


def _share(
    files: list[ModelFile],
    choices: list[RuntimeChoice],
    ways: Ways,
    clips: ClipSet,
    running: Running,
    executor: Executor,
    settings: EvaluationSettings,
    progress: Progress,
) -> None:
    ways_each = [_ways_of(file, ways) for file in files]
    share(files, choices, ways_each, clips.clips, _inside_clips(clips, settings), running, executor, progress)


def _data_record(clips: ClipSet) -> DataRecord:
    return DataRecord(
        source=Path(clips.source).name or clips.source,
        kind=clips.kind,
        sha256=clips.sha256,
        clips=tuple(ClipRecord(c.id, c.text, c.language, c.duration_s, c.sha256) for c in clips.clips),
        problems=clips.problems,
    )


def _measure(
    files: list[ModelFile],
    choices: list[RuntimeChoice],
    ways: Ways,
    clips: ClipSet,
    settings: EvaluationSettings,
    progress: Progress,
) -> list[_Measurement]:
    inside_clips = _inside_clips(clips, settings)
    runs = sum(choice.runtime is not None for choice in choices)
    looks = [(file, way) for file in files[1:] for way in _ways_of(file, ways)]
    total = clips.duration_s * runs + sum(clip.duration_s for clip in inside_clips) * len(looks)
    done, lock = 0.0, threading.Lock()
    stop = threading.Event()

    def advance(clip: Clip) -> None:
        nonlocal done
        with lock:
            done += clip.duration_s
            progress("transcribing", min(done, total), total)
        if stop.is_set():
            raise WorkerError("stopped")

    def look(index: int) -> _Measurement:
        file = files[index]
        tensors = known_tensor_errors(files[0], file, settings.cache) if index else ()
        inside = [
            measure_inside(files[0], file, inside_clips, way, settings.threads_each, settings.cache, advance)
            for way in (_ways_of(file, ways) if index and inside_clips else ())
        ]
        return _Measurement(file, choices[index], measured[index], inside, tensors)

    running = Running(settings.threads_each, settings.fallback, settings.jobs, settings.cache, device=settings.device)
    if settings.executor is not None and not settings.executor.is_here:
        _share(files, choices, ways, clips, running, settings.executor, settings, progress)
        running = replace(running, timed=frozenset(clip.id for clip in _evenly(clips, TIMED)))
    progress("transcribing", 0.0, total)
    measured = transcribe_all(files, choices, clips.clips, running, advance)
    with ThreadPoolExecutor(settings.jobs) as pool:
        futures = [pool.submit(look, index) for index in range(len(files))]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _ways_of(file: ModelFile, ways: Ways) -> list[Way]:
    """Return the ways in which a candidate is measured, the common one first."""
    return [way for way in (ways.common, ways.beside) if way is not None and can_be_measured(file, way)]


@dataclass(slots=True)
class _Measurement:
    """All that was measured of one model."""

    file: ModelFile
    choice: RuntimeChoice
    measured: Measured
    inside: list[Inside]
    tensors: tuple[Any, ...]


def _heard_by_all(clips: ClipSet, measurements: list[_Measurement]) -> ClipSet:
    """Return the clips without those on which some model failed, whose replies go, too: a failure has no score.

    Raises ``RuntimeUnavailableError`` where the reference did not run: there is nothing to compare with then.
    """
    reference = measurements[0]
    if reference.measured.failure:
        raise RuntimeUnavailableError(
            f"{reference.file.path}: the reference did not run: {reference.measured.failure}",
            hint="take a reference that this runtime runs, or another with --runtime",
        )
    failed: dict[int, str] = {}
    for one in measurements:
        for index, reply in enumerate(one.measured.replies):
            if "failed" in reply:
                failed.setdefault(index, f"{one.choice.runtime} failed with {one.file.label}: {reply['failed']}")
    if len(failed) == len(clips.clips):
        raise RuntimeUnavailableError(
            f"{clips.source}: every clip failed in some model: {next(iter(failed.values()))}",
            hint="measure the models that fail on their own",
        )
    for one in measurements:
        replies = one.measured.replies
        one.measured.replies = [reply for index, reply in enumerate(replies) if index not in failed]
    problems = [Problem(clips.clips[index].id, failed[index]) for index in sorted(failed)]
    kept = [clip for index, clip in enumerate(clips.clips) if index not in failed]
    return replace(clips, clips=tuple(kept), problems=(*clips.problems, *problems))


def _hear_at_length(
    files: list[ModelFile],
    choices: list[RuntimeChoice],
    clips: ClipSet,
    settings: EvaluationSettings,
    progress: Progress,
) -> list[LongForm | None]:
    """Return what every model makes of one long recording, None of one that does not run or fails there."""
    done = 0.0

    def advance(clip: Clip) -> None:
        nonlocal done
        done += clip.duration_s
        progress("hearing a long recording", done, max(done, clip.duration_s * len(files)))

    running = Running(
        settings.threads_each, settings.fallback, 1, settings.cache, "long recordings", device=settings.device
    )
    with scratch_folder() as folder:
        recording = long_clip(clips.clips, folder, settings.long_form_s)
        measured = transcribe_all(files, choices, [recording], running, advance)
    return [LongForm.of(one.replies[0]) if one.replies and not one.failure else None for one in measured]


def _inside_clips(clips: ClipSet, settings: EvaluationSettings) -> list[Clip]:
    return _evenly(clips, settings.inside)


def _evenly(clips: ClipSet, most: int) -> list[Clip]:
    """Return evenly spaced clips, so that all speakers of sorted data have their share."""
    count = min(most, len(clips.clips))
    return [clips.clips[index * len(clips.clips) // count] for index in range(count)]


def _model_result(measurement: _Measurement, clips: ClipSet, written: list[str] | None) -> ModelResult:
    """Return all of one model; ``written`` is what the reference wrote for each clip, None for itself."""
    file, choice, measured, inside = measurement.file, measurement.choice, measurement.measured, measurement.inside
    common, beside = (*inside, Inside(""), Inside(""))[:2]
    utterances = tuple(
        Utterance(
            text=reply["text"],
            seconds=reply.get("seconds"),
            edits=count_edits(clip.text, reply["text"], clip.language),
            remark=reply.get("remark", ""),
            timing=_timing(reply),
            changes=count_edits(written[place], reply["text"], clip.language) if written else None,
        )
        for place, (clip, reply) in enumerate(zip(clips.clips, measured.replies, strict=False))
    )
    return ModelResult(
        label=file.label,
        path=file.path.name,
        container=file.container,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        n_weights=file.n_weights,
        types=count_types([kind.name for spec, kind in file.tensors if spec.is_matrix]),
        runtime=choice.runtime,
        runtime_version=installed_runtimes().get(choice.runtime) if choice.runtime else None,
        failure=measured.failure,
        load_s=measured.session.get("load_s"),
        peak_bytes=measured.session.get("peak_bytes"),
        baseline_bytes=measured.session.get("baseline_bytes"),
        utterances=utterances,
        inside=common.utterances,
        tensors=measurement.tensors,
        inside_in=common.way,
        beside=beside.utterances,
        beside_in=beside.way,
        inside_failure="; ".join(one.failure for one in inside if one.failure),
        provenance=file.provenance,
        loads_in=file.loads_in,
        n_languages=len(file.languages),
    )


def _timing(reply: dict[str, Any]) -> Timing | None:
    """Return what a transcription took; None of a reply that an earlier whisq has kept, or that came from elsewhere."""
    if "cpu_s" not in reply:
        return None
    names = ("cpu_s", "encode_s", "decode_s", "others_cpus", "together")
    return Timing(wall_s=reply["seconds"], **{name: reply[name] for name in names})
