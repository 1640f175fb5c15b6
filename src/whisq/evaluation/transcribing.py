"""Every clip through every model: in turns, clip by clip, each model in a process of its own.

In turns, because a machine's load changes by the minute: models that run one after the other are not measured under the
same one. Every reply is kept as it comes, so that an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisq.clips.clip import Clip
from whisq.evaluation.model_files import ModelFile, RuntimeChoice
from whisq.runtimes.process import WorkerError, WorkerProcess, WorkerRefusedError
from whisq.runtimes.registry import installed_runtimes, parse_runtime
from whisq.work.known import Cache, clip_key

WORKING_SHARE, WORKING_BYTES = 1.2, 250_000_000
"""Memory of a loaded model, as a multiple of its file and beside it: the runtimes of tiny.en and base take less."""
MEMORY_SHARE = 0.6
"""Of the memory that is free, what models that are loaded side by side may take."""


@dataclass(frozen=True, slots=True)
class Running:
    """How models are run: threads of each, retries at higher temperatures, how many at a time, and the cache.

    ``kept_as`` is the cache's folder: what is heard for another purpose took other memory. ``timed`` are the ids of
    clips whose times are wanted: a reply without them is not enough. On ``device`` models run in the runtimes that can.
    """

    threads: int
    fallback: bool
    jobs: int
    cache: Path | None
    kept_as: str = "transcripts"
    timed: frozenset[str] = frozenset()
    device: str = "cpu"

    def device_in(self, runtime: str) -> str:
        """Return on what models run in a runtime."""
        return parse_runtime(runtime).device_for(self.device)


@dataclass(slots=True)
class Measured:
    """A reply for each clip, what loading took, and why there are none."""

    replies: list[dict[str, Any]] = field(default_factory=list)
    session: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


def transcribe_all(
    files: Sequence[ModelFile],
    choices: Sequence[RuntimeChoice],
    clips: Sequence[Clip],
    running: Running,
    advance: Callable[[Clip], None],
) -> list[Measured]:
    """Return what every model makes of every clip; ``advance`` is called for each of both.

    Models take turns where they all fit into memory, which ``together`` of their replies says; with several jobs, and
    where there is no room, each runs through all clips by itself.
    """
    sessions = [_Session(file, choice, clips, running) for file, choice in zip(files, choices, strict=True)]
    if running.jobs > 1:
        _at_a_time(sessions, running.jobs, advance)
    else:
        for group in _side_by_side(sessions):
            _in_turns(group, clips, advance)
    return [session.measured() for session in sessions]


def _in_turns(group: Sequence[_Session], clips: Sequence[Clip], advance: Callable[[Clip], None]) -> None:
    together = uuid.uuid4().hex if len(group) > 1 else ""
    with contextlib.ExitStack() as stack:
        for session in group:
            stack.callback(session.close)
        for number, clip in enumerate(clips):
            first = number % len(group)
            # Whoever is first finds the CPUs as the last clip left them: each is in turn.
            for session in (*group[first:], *group[:first]):
                session.hear(clip, together)
                advance(clip)


def _at_a_time(sessions: Sequence[_Session], jobs: int, advance: Callable[[Clip], None]) -> None:
    stop = threading.Event()

    def through(session: _Session) -> None:
        with contextlib.closing(session):
            for clip in session.clips:
                if stop.is_set():
                    return
                session.hear(clip, "")
                advance(clip)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(through, session) for session in sessions]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _side_by_side(sessions: Sequence[_Session]) -> Iterator[list[_Session]]:
    """Yield groups that fit into memory together: all, or each by itself."""
    needed = sum(WORKING_SHARE * session.file.size_bytes + WORKING_BYTES for session in sessions)
    free = _free_memory()
    if free is None or needed <= MEMORY_SHARE * free:
        yield list(sessions)
    else:
        for session in sessions:
            yield [session]


def _free_memory() -> int | None:
    """Return the bytes of memory that can be had without swapping, None where nobody tells."""
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if sys.platform != "win32" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


class _Session:
    """One model: replies from the cache where they are there, else from a worker that is started when needed."""

    def __init__(self, file: ModelFile, choice: RuntimeChoice, clips: Sequence[Clip], running: Running) -> None:
        self.file, self.clips = file, clips
        self._choice, self._running = choice, running
        self._found = Measured(failure="" if choice.runtime else choice.reason)
        self._worker: WorkerProcess | None = None
        if choice.runtime is not None:
            self._cache = transcripts_cache(file, choice.runtime, running)
            self._found.session = dict(self._cache.get("session") or {})

    def hear(self, clip: Clip, together: str) -> None:
        """Add the reply for a clip; a process that dies, or does not load the model, ends it all."""
        if self._found.failure:
            return
        key = clip_key(clip.sha256, clip.language)
        reply = self._cache.get(key)
        if reply is None or ("cpu_s" not in reply and clip.id in self._running.timed):
            try:
                self._worker = self._worker or self._started()
                place = clip.place()
                found = ask_about(self._worker, place["path"], place["row"], place["segment"], clip.language)
                reply = {**found, "together": together}
            except WorkerError as error:
                replies = self._found.replies
                at = f" at {clip.id}" if replies else ""
                self._found = Measured(failure=f"{self._choice.runtime} failed{at}: {error}")
                self.close()
                return
            if "failed" not in reply:
                self._cache.put(key, reply)
        self._found.replies.append(reply)

    def _started(self) -> WorkerProcess:
        runtime, running = self._choice.runtime or "", self._running
        device = running.device_in(runtime)
        worker, loaded = start_transcribing(
            runtime, self.file.path, running.threads, fallback=running.fallback, device=device
        )
        self._found.session = loaded
        self._cache.put("session", self._found.session)
        return worker

    def close(self) -> None:
        """End the process, and keep what it took."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        worker.close()
        if self._found.replies:
            self._found.session["peak_bytes"] = max(reply.get("peak_bytes", 0) for reply in self._found.replies)
            self._cache.put("session", self._found.session)

    def measured(self) -> Measured:
        """Return all that was found."""
        replies = self._found.replies
        failed = [reply["failed"] for reply in replies if "failed" in reply]
        if failed and len(failed) == len(replies):
            return Measured(failure=f"{self._choice.runtime} failed on every clip: {failed[0]}")
        return self._found


def transcripts_cache(file: ModelFile, runtime: str, running: Running) -> Cache:
    """Return what is kept of a model's transcripts in a runtime."""
    return Cache(
        running.cache,
        running.kept_as,
        model=file.sha256,
        runtime=runtime,
        version=installed_runtimes()[runtime],
        threads=running.threads,
        fallback=running.fallback,
        **({} if (device := running.device_in(runtime)) == "cpu" else {"device": device}),
    )


def start_transcribing(
    runtime: str, path: Path, threads: int, *, fallback: bool, device: str = "cpu"
) -> tuple[WorkerProcess, dict[str, Any]]:
    """Return a process that has loaded a model in a runtime, and what loading took; raises ``WorkerError``."""
    worker = WorkerProcess("whisq.runtimes.worker")
    try:
        loaded = worker.ask("load", runtime=runtime, path=str(path), threads=threads, fallback=fallback, device=device)
    except BaseException:
        worker.close()
        raise
    return worker, dict(loaded)


def ask_about(
    worker: WorkerProcess, path: str, row: int | None, segment: Sequence[Any] | None, language: str | None
) -> dict[str, Any]:
    """Return a process's reply for a clip; one that failed says why. Raises ``WorkerError`` where the process ended."""
    try:
        return worker.ask("run", path=path, row=row, segment=segment, language=language)
    except WorkerRefusedError as error:
        return {"failed": str(error)}
