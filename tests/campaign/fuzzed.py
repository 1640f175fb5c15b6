"""Every reader under mutations, in a process of its own: whisq's own error or a result, within time and memory.

Guided by coverage where atheris is installed, see ``tests.campaign.fuzz``. An input is a try.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.campaign.readers import READERS

RUNS = 400
"""Inputs for one reader before it is the next one's turn: some seconds, most of them for the start."""
_MOST_SECONDS = 600


def tries(random: Random, folder: Path) -> Iterator[str | None]:
    """Fuzz every reader for a while, in an order of chance."""
    for name in random.sample(sorted(READERS), len(READERS)):
        yield from fuzz(name, folder / name, random.randrange(1 << 30))


def fuzz(name: str, folder: Path, seed: int, runs: int = RUNS) -> Iterator[str | None]:
    """Fuzz one reader; yields a sentence for each kind of failure and None for every other input."""
    words = ["-m", "tests.campaign.fuzz", name, str(folder), "--runs", str(runs), "--seed", str(seed)]
    again = " ".join(["python", *words])
    try:
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield f"{name}: no end after {_MOST_SECONDS} s; again: {again}"
        return
    record = folder / "found.json"
    found = json.loads(record.read_text()) if record.exists() else {"inputs": 0, "failures": {}}
    for kind, failure in found["failures"].items():
        yield f"{name}: {kind}: {failure['said']}; again: {again}"
    if done.returncode != 0:
        yield f"{name}: the process ended with {done.returncode}: {done.stderr[-400:].strip()!r}; again: {again}"
    for _ in range(found["inputs"] - len(found["failures"])):
        yield None
