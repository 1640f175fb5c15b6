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

from whisq import system
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
    return system.peak_memory_bytes()


def busy_s() -> float | None:
    """Return the seconds that the CPUs which this process may use have worked so far, None where nobody tells."""
    statistics = Path("/proc/stat")
    if sys.platform != "linux" or not statistics.exists():
        return None
    names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in statistics.read_text().splitlines():
        name, *counts = line.split()
        if name in names:
            user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, counts[:8])
            ticks += user + nice + system + interrupts + soft + stolen
    return float(ticks / os.sysconf("SC_CLK_TCK"))


class Worker:
    """Answers requests one by one."""

    def __init__(self) -> None:
        self._transcriber: Transcriber | None = None

    def load(self, runtime: str, path: str, threads: int, fallback: bool, device: str = "cpu") -> dict[str, Any]:
        """Load a model; returns the load time and the memory held before."""
        import numpy as np

        np.zeros(1)  # numpy's own memory belongs to the baseline
        baseline = peak_memory_bytes()
        started = time.perf_counter()
        self._transcriber = parse_runtime(runtime).transcriber(Path(path), threads, fallback, device)
        return {"load_s": time.perf_counter() - started, "baseline_bytes": baseline}

    def run(self, path: str, row: int | None, segment: list[Any] | None, language: str | None) -> dict[str, Any]:
        """Transcribe a clip; returns what was heard, what it took, and the peak memory so far.

        ``cpu_s`` is this process's CPU time, all threads together; ``others_cpus`` is how many CPUs' worth of work
        others did meanwhile on the CPUs that it may use, None where the system does not tell.
        """
        if self._transcriber is None:
            raise RuntimeError("no model was loaded")
        samples = samples_at(path, row, segment)
        busy = busy_s()
        started, cpu_started = time.perf_counter(), time.process_time()
        heard = self._transcriber.transcribe(samples, language)
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        others = None if busy is None else max(0.0, (busy_s() or 0.0) - busy - cpu) / elapsed
        return {
            "text": " ".join(heard.text.split()),
            "seconds": elapsed,
            "audio_s": samples.size / SAMPLE_RATE,
            "remark": heard.remark,
            "spans": heard.spans,
            "cpu_s": cpu,
            "encode_s": heard.encode_s,
            "decode_s": heard.decode_s,
            "others_cpus": others,
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
