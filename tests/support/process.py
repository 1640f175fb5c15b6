"""How much memory a process held at most, as Linux counts it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path


def held(words: list[str]) -> dict[str, float]:
    """Run ``whisq`` with these words; return the most it held, in MB of 2^20, by the kernel's name for it."""
    code = "import sys; from whisq.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    most = {"VmHWM": 0, "RssAnon": 0}
    done = threading.Event()
    status = Path(f"/proc/{process.pid}/status")

    def sample() -> None:
        while not done.wait(0.005):
            with contextlib.suppress(OSError):
                take(status.read_text())

    def take(text: str) -> None:
        for line in text.splitlines():
            name, _, rest = line.partition(":")
            if name in most:
                most[name] = max(most[name], int(rest.split()[0]))

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        code_of_exit = process.wait()
    finally:
        done.set()
        watcher.join()
    if code_of_exit:
        raise RuntimeError(f"whisq {' '.join(words)} exited with {code_of_exit}")
    return {name: kilobytes / 1024 for name, kilobytes in most.items()}
