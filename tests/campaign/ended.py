"""Kills and signals at random moments, for every command that writes: the old file or the new one, and nothing else."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.campaign.running import (
    left_running,
    parts_in,
    random_words,
    removes_orphans,
    start,
    write_real_sources,
    wrong_output,
)

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL)
_STARTED_S = 0.1
"""By then Python has come to the first line of whisq; before it a signal ends Python in its own way."""


def tries(random: Random, folder: Path) -> Iterator[str | None]:
    """End a command after a while, most often a short one: what follows a start is most of what it does."""
    write_real_sources(folder)
    for number in range(1000):
        words, output = random_words(random, folder)
        before = output.read_bytes() if output.exists() else None
        how, moment_s = random.choice(_SIGNALS), _STARTED_S + random.choice((0.3, 1, 6)) * random.random()
        token = f"{folder.name}-{number}"
        process = start(words, token)
        time.sleep(moment_s)
        process.send_signal(how)
        _, said = process.communicate(timeout=120)
        wrong = _wrong(process.returncode, said, how) or wrong_output(output, before)
        if left := left_running(token):
            wrong = wrong or f"left running: {left}"
        if how == signal.SIGKILL:
            wrong = wrong or (None if removes_orphans(output) else "what was killed is not removed")
            for part in parts_in(folder):
                part.unlink()
        elif parts_in(folder):
            wrong = wrong or f"left {parts_in(folder)}"
        yield wrong and f"{' '.join(words)}, {how.name} after {moment_s:.3f} s: {wrong}"


def _wrong(code: int, said: str, how: signal.Signals) -> str | None:
    if "Traceback" in said or "bug in whisq" in said:
        return said
    if code in (0, 1):
        return None  # it came to its own end before
    if how == signal.SIGKILL:
        return None if code == -how else f"exit {code}"
    if code != 128 + how:
        return f"exit {code}"
    return None if said.strip() else f"exit {code}: {said}"
