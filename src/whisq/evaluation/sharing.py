"""An evaluation's work in units, a model and some clips each, done elsewhere before it is looked for in the cache.

What comes back is kept under the keys under which one process keeps it: afterwards the evaluation runs as ever, and
finds most of it there. What fails elsewhere is not kept, and is tried again here, where it is told.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisq.clips.clip import Clip
from whisq.evaluation.inside import Way, divergences_cache, start_comparing
from whisq.evaluation.model_files import ModelFile, RuntimeChoice
from whisq.evaluation.transcribing import (
    WORKING_BYTES,
    WORKING_SHARE,
    Running,
    ask_about,
    start_transcribing,
    transcripts_cache,
)
from whisq.network.devices import kind_of
from whisq.progress import Progress
from whisq.runtimes.process import WorkerError, WorkerProcess
from whisq.runtimes.registry import parse_runtime
from whisq.work import Bench, Executor, Job, Needs, Parcel, Source, Unit
from whisq.work.known import Cache, clip_key

UNIT_S = 30.0
"""Work in one unit, in seconds of a core: so much is lost with one."""
_TIMES = ("seconds", "cpu_s", "encode_s", "decode_s", "others_cpus", "peak_bytes")
"""What a reply says of the machine: taken while others worked beside it, it says nothing of the model."""
_WINDOW_S = 4e-8
"""Seconds of a core for each weight and window of 30 s: tiny.en's took 1.4 s, whatever was said in it."""
_AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class _Place:
    """A clip as it is sent: its file below the root of all audio, what is taken of it, and its language."""

    name: str
    row: int | None
    segment: tuple[Any, ...] | None
    language: str | None


class ClipsBench(Bench):
    """Runs one model, or compares one with the reference, in a process of its own; another unit may name another."""

    def __init__(self, start: Callable[[int], WorkerProcess], audio: Path) -> None:
        self._start, self._audio = start, audio
        self._process: tuple[int, WorkerProcess] | None = None

    def do(self, argument: Any) -> list[dict[str, Any]]:
        """Return a reply for each clip up to one at which the process ended; ``failed`` says why there is none."""
        number, places = argument
        replies: list[dict[str, Any]] = []
        for place in places:
            path = self._audio / place.name if place.name else self._audio
            try:
                worker = self._of(number)
                replies.append(ask_about(worker, str(path), place.row, place.segment, place.language))
            except WorkerError as error:
                self.close()
                return [*replies, {"failed": str(error)}]
        return replies

    def _of(self, number: int) -> WorkerProcess:
        if self._process is None or self._process[0] != number:
            self.close()
            self._process = number, self._start(number)
        return self._process[1]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process[1].close()
        self._process = None


@dataclass(frozen=True)
class ClipsParcel(Parcel):
    """``runtime`` and ``way`` say what is done: one of them is None. Models are ``sources`` by their number."""

    runtime: str | None
    way: Way | None
    fallback: bool
    device: str

    def open(self, paths: Mapping[str, Path], threads: int) -> ClipsBench:
        """Return a bench on files that were sent, or found."""

        def start(number: int) -> WorkerProcess:
            path = paths[str(number)]
            if self.way is not None:
                return start_comparing(paths["0"], path, self.way, threads)
            return start_transcribing(self.runtime or "", path, threads, fallback=self.fallback, device=self.device)[0]

        return ClipsBench(start, paths[_AUDIO])


@dataclass(frozen=True, eq=False)
class ClipsJob(Job):
    """All models of one runtime, or of one way to look inside."""

    files: Sequence[ModelFile]
    clips: Sequence[Clip]
    threads: int
    runtime: str | None = None
    way: Way | None = None
    fallback: bool = False
    device: str = "cpu"

    @property
    def title(self) -> str:
        """What the units do."""
        return f"transcribing in {self.runtime}" if self.way is None else "looking inside"

    def open(self) -> ClipsBench:
        """Return a bench on the files here."""
        parcel = self.parcel()
        return parcel.open({name: source.root for name, source in parcel.sources.items()}, self.threads)

    def parcel(self) -> ClipsParcel:
        """Return models and audio, and what running the largest takes."""
        sources = {str(n): Source.of(file.path, sha256=file.sha256) for n, file in enumerate(self.files)}
        sources[_AUDIO] = audio_of(self.clips)[0]
        largest = max(file.size_bytes for file in self.files)
        memory = int(WORKING_SHARE * largest + WORKING_BYTES)
        if self.way is not None:
            memory *= 2
            if self.way.runtime is None:
                memory = 2 * (4 * max(file.n_weights for file in self.files) + WORKING_BYTES)
        runtime = parse_runtime(name) if (name := self.runtime or (self.way.runtime if self.way else None)) else None
        package = f"{runtime.package}=={runtime.installed_version()}" if runtime is not None else None
        gpus = int((self.device if self.way is None else self.way.device) != "cpu")
        needs = Needs(memory, self.threads, gpus, (package,) if package else ())
        way = None if self.way is None else replace(self.way, device=kind_of(self.way.device))
        return ClipsParcel(sources, needs, self.runtime, way, self.fallback, kind_of(self.device))


def audio_of(clips: Sequence[Clip]) -> tuple[Source, Path]:
    """Return the files of clips as one source, and the folder that their names are below."""
    files = sorted({clip.path.resolve() for clip in clips})
    root = files[0].parent if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
    return Source.of(root, [file.relative_to(root).as_posix() for file in files]), root


def share(
    files: Sequence[ModelFile],
    choices: Sequence[RuntimeChoice],
    ways: Sequence[Sequence[Way]],
    clips: Sequence[Clip],
    inside: Sequence[Clip],
    running: Running,
    executor: Executor,
    progress: Progress,
) -> None:
    """Have an executor do what is not in the cache: all models hear ``clips``, candidates are compared on ``inside``.

    ``ways`` are each file's ways of looking inside; the first file is the reference.
    """
    runs, looks = sum(choice.runtime is not None for choice in choices), sum(map(len, ways[1:]))
    total = runs * sum(clip.duration_s for clip in clips) + looks * sum(clip.duration_s for clip in inside)
    done = 0.0

    def advance(clip: Clip) -> None:
        nonlocal done
        done += clip.duration_s
        progress("transcribing on the cluster", min(done, total), total)

    for runtime in sorted({choice.runtime for choice in choices if choice.runtime is not None}):
        mine = [file for file, choice in zip(files, choices, strict=True) if choice.runtime == runtime]
        caches = [transcripts_cache(file, runtime, running) for file in mine]
        device = running.device_in(runtime)
        job = ClipsJob(mine, clips, running.threads, runtime, fallback=running.fallback, device=device)
        _share(job, caches, range(len(mine)), executor, advance, without=_TIMES)
    for way in dict.fromkeys(way for each in ways[1:] for way in each):
        numbers = [number for number, each in enumerate(ways) if number and way in each]
        caches = [divergences_cache(files[0], file, way, running.cache) for file in files]
        _share(ClipsJob(files, inside, running.threads, way=way), caches, numbers, executor, advance)


def _share(
    job: ClipsJob,
    caches: Sequence[Cache],
    numbers: Sequence[int],
    executor: Executor,
    advance: Callable[[Clip], None],
    without: Sequence[str] = (),
) -> None:
    if not job.clips:
        return
    _, root = audio_of(job.clips)
    sent: dict[str, tuple[int, list[Clip]]] = {}

    def units() -> Iterator[Unit]:
        for number in numbers:
            missing = [c for c in job.clips if caches[number].get(clip_key(c.sha256, c.language)) is None]
            file = job.files[number]
            for part, some in enumerate(_of_about(missing, UNIT_S, file.n_weights)):
                key = f"{file.label}, clips {part + 1}: {some[0].id} to {some[-1].id}"
                sent[key] = number, some
                places = [_place(clip, root) for clip in some]
                yield Unit(key, (number, places), sum(_cost(clip, file.n_weights) for clip in some))

    for done in executor.run(job, units()):
        number, some = sent.pop(done.unit.key)
        for clip, reply in zip(some, done.value, strict=False):
            if "failed" not in reply:
                kept = {name: value for name, value in reply.items() if name not in without}
                caches[number].put(clip_key(clip.sha256, clip.language), kept)
            advance(clip)


def _place(clip: Clip, root: Path) -> _Place:
    place = clip.place()
    name = clip.path.resolve().relative_to(root).as_posix()
    return _Place(name, place["row"], place["segment"], clip.language)


def _cost(clip: Clip, n_weights: int) -> float:
    return _WINDOW_S * n_weights * max(1, math.ceil(clip.duration_s / 30))


def _of_about(clips: Sequence[Clip], seconds: float, n_weights: int) -> Iterator[list[Clip]]:
    """Yield clips in groups of so many seconds of work, one at least."""
    group: list[Clip] = []
    for clip in clips:
        group.append(clip)
        if sum(_cost(one, n_weights) for one in group) >= seconds:
            yield group
            group = []
    if group:
        yield group
