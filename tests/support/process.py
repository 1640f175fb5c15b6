"""What a run of ``whisq`` took, in a process of its own: seconds, and memory as Linux counts it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One process: seconds, the most anonymous memory, and the most resident memory, mapped pages included.

    Memory is 0 where there is no /proc.
    """

    seconds: float
    held_bytes: int
    resident_bytes: int


def as_installed() -> dict[str, str]:
    """Return the environment in which modules are compiled once, as pip leaves them, and not at every start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run_whisq(words: list[str]) -> Run:
    """Run ``whisq`` with these words to its end, its memory sampled every 2 ms; RuntimeError where it fails."""
    code = "import sys; from whisq.cli import main; sys.exit(main())"
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, env=as_installed())
    most = {"RssAnon": 0, "VmHWM": 0}
    done = threading.Event()
    status = Path(f"/proc/{process.pid}/status")

    def sample() -> None:
        while not done.wait(0.002):
            with contextlib.suppress(OSError):
                for name, kib in re.findall(r"(RssAnon|VmHWM):\s+(\d+)", status.read_text()):
                    most[name] = max(most[name], int(kib))

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        code_of_exit = process.wait()
        seconds = time.perf_counter() - started
    finally:
        done.set()
        watcher.join()
    if code_of_exit:
        raise RuntimeError(f"whisq {' '.join(words)} exited with {code_of_exit}")
    return Run(seconds, most["RssAnon"] << 10, most["VmHWM"] << 10)
