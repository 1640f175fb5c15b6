"""The process in which one model is run: ``python -m whisq.runtimes.worker``.

One process per model, so that load time and peak memory are that model's, and a crash in native code takes
nothing else with it. JSON lines: requests on stdin, one reply each on stdout; whatever the native code prints
goes to stderr, which the parent keeps for the reason of a failure.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from whisq.clips.audio import SAMPLE_RATE
from whisq.clips.clip import samples_at
from whisq.runtimes.registry import parse_runtime
from whisq.runtimes.runtime import Transcriber


def peak_memory_bytes() -> int:
    """Return the most memory this process has held; pages of mapped files that were touched are in it."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage on Linux: its figure survives exec and would be the parent's where that was larger.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Worker:
    """Answers requests one by one."""

    def __init__(self) -> None:
        self._transcriber: Transcriber | None = None

    def load(self, runtime: str, path: str, threads: int, fallback: bool) -> dict[str, Any]:
        """Load a model; returns the load time and the memory held before."""
        import numpy as np

        np.zeros(1)  # numpy's own memory belongs to the baseline
        baseline = peak_memory_bytes()
        started = time.perf_counter()
        self._transcriber = parse_runtime(runtime).transcriber(Path(path), threads, fallback)
        return {"load_s": time.perf_counter() - started, "baseline_bytes": baseline}

    def run(self, path: str, row: int | None, segment: list[Any] | None, language: str | None) -> dict[str, Any]:
        """Transcribe a clip; returns the text, the runtime's seconds and the peak memory so far."""
        if self._transcriber is None:
            raise RuntimeError("no model was loaded")
        samples = samples_at(path, row, segment)
        started = time.perf_counter()
        text, remark = self._transcriber.transcribe(samples, language)
        elapsed = time.perf_counter() - started
        return {
            "text": " ".join(text.split()),
            "seconds": elapsed,
            "audio_s": samples.size / SAMPLE_RATE,
            "remark": remark,
            "peak_bytes": peak_memory_bytes(),
        }


def serve(requests: TextIO, replies: TextIO, worker: Any) -> None:
    """Answer every line of ``requests`` with one line; ends at the end of the input."""
    for line in requests:
        request = json.loads(line)
        operation = request.pop("operation")
        try:
            reply = getattr(worker, operation)(**request)
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def private_stdout() -> TextIO:
    """Return the real stdout for replies alone, and turn file descriptor 1 over to stderr for all else."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    serve(sys.stdin, private_stdout(), Worker())
