"""Where the divergence of a comparison's files is measured, and its measuring: a process for each candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.clips.clip import Clip
from whisq.evaluation.model_files import ModelFile, reasons_against
from whisq.evaluation.results import FORWARD_PASS, InsideUtterance, inside_utterance
from whisq.runtimes.process import WorkerError, WorkerProcess
from whisq.runtimes.registry import parse_runtime, runnable_runtimes
from whisq.work.known import Cache, clip_key

_LAYOUT = 4
"""Of what is cached of a clip; counted up when its fields change."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a divergence is measured: in the runtime of that name, or in whisq's own forward pass on a device."""

    runtime: str | None = None
    device: str = "cpu"

    @property
    def title(self) -> str:
        """What the results call it: "whisper.cpp (pywhispercpp 1.5.1)"."""
        if self.runtime is None:
            return FORWARD_PASS
        found = parse_runtime(self.runtime)
        return f"{found.name} ({found.package} {found.installed_version()})"


@dataclass(frozen=True, slots=True)
class Ways:
    """``common`` is where all files of a comparison are measured; ``beside`` where some are measured as well."""

    common: Way
    beside: Way | None = None


@dataclass(frozen=True, slots=True)
class Inside:
    """What was measured of a candidate in one way; ``failure`` says why nothing was."""

    way: str
    utterances: tuple[InsideUtterance, ...] = ()
    failure: str = ""


def choose_ways(files: Sequence[ModelFile], forced: str | None, device: str) -> Ways:
    """Return where files are measured, the reference first: in a runtime that gives logits where it loads them all.

    Otherwise all are measured in the forward pass, and those that such a runtime loads there too. ``forced`` is the
    only runtime that may be chosen; another ``device`` than the CPU asks for the forward pass.
    """
    forward = Way(device=device)
    only = parse_runtime(forced).name if forced else None
    for runtime in runnable_runtimes():
        if not runtime.gives_logits or device != "cpu" or only not in (None, runtime.name):
            continue
        loads = [not reasons_against(file, runtime) for file in files]
        if all(loads):
            return Ways(Way(runtime.name))
        if loads[0] and any(loads[1:]):
            return Ways(forward, Way(runtime.name))
    return Ways(forward)


def can_be_measured(file: ModelFile, way: Way) -> bool:
    """Return whether a file can be measured in this way."""
    return way.runtime is None or not reasons_against(file, parse_runtime(way.runtime))


def measure_inside(
    reference: ModelFile,
    file: ModelFile,
    clips: Sequence[Clip],
    way: Way,
    threads: int,
    cache_folder: Path | None,
    advance: Callable[[Clip], None],
) -> Inside:
    """Return a candidate's divergences from the reference, from the cache where they are there.

    A process that fails, or dies of the model, is told as the result's ``failure``.
    """
    cache = divergences_cache(reference, file, way, cache_folder)
    worker: WorkerProcess | None = None
    found = []
    try:
        for clip in clips:
            key = clip_key(clip.sha256, clip.language)
            reply = cache.get(key)
            if reply is None:
                try:
                    worker = worker or start_comparing(reference.path, file.path, way, threads)
                    reply = worker.ask("run", **clip.place(), language=clip.language)
                except WorkerError as error:
                    return Inside(way.title, failure=f"{way.title} failed at {clip.id}: {error}")
                cache.put(key, reply)
            found.append(_utterance(clip, reply))
            advance(clip)
    finally:
        if worker is not None:
            worker.close()
    return Inside(way.title, tuple(found))


def divergences_cache(reference: ModelFile, file: ModelFile, way: Way, folder: Path | None) -> Cache:
    """Return what is kept of a candidate's divergences in one way."""
    version = parse_runtime(way.runtime).installed_version() if way.runtime else None
    return Cache(
        folder,
        "divergences",
        model=file.sha256,
        reference=reference.sha256,
        layout=_LAYOUT,
        runtime=way.runtime,
        version=version,
        device=way.device,
    )


def start_comparing(reference: Path, candidate: Path, way: Way, threads: int) -> WorkerProcess:
    """Return a process that has loaded both; raises ``WorkerError``."""
    worker = WorkerProcess("whisq.evaluation.divergence")
    try:
        worker.ask(
            "load",
            reference=str(reference),
            candidate=str(candidate),
            threads=threads,
            device=way.device,
            runtime=way.runtime,
        )
    except WorkerError:
        worker.close()
        raise
    return worker


def _utterance(clip: Clip, reply: dict[str, Any]) -> InsideUtterance:
    return inside_utterance({"clip": clip.id, **reply})
