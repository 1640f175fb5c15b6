"""``python -m tests.campaign``: attack whisq for a while, the same way for the same seed, and list what broke.

Each part is a module of this folder, named in ``PARTS``, with ``tries(random, folder)``: an iterator that attacks once
per step, in a folder of its own, and gives None where whisq did right, else a sentence that says what it did wrong and
with which words. One that ends is begun again with other numbers. Parts take turns, so that each has its share of time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

# Small matrices; threads that wait for each other in a busy machine make seconds of what takes milliseconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PARTS = {
    "aimed": "outputs aimed at what the same command reads",
    "ended": "kills and signals at random moments",
    "full": "full disks, and files that may not grow",
    "fuzzed": "mutated files, rules, patterns and texts, each given to what reads it",
}
"""Every part, and what it attacks with."""


@dataclass
class Attack:
    """A part at work: how long it took, how often it tried, and what it found."""

    name: str
    seed: int
    folder: Path
    seconds: float = 0.0
    n_tries: int = 0
    found: list[str] = field(default_factory=list)
    _rounds: int = 0
    _tries: Generator[str | None] | None = None

    def step(self) -> None:
        """Attack once; a round that is over makes way for the next."""
        started = time.monotonic()
        if self._tries is None:
            folder = self.folder / f"{self.name}-{self._rounds}"
            folder.mkdir()
            part = importlib.import_module(f"tests.campaign.{self.name}")
            self._tries = part.tries(Random(f"{self.seed} {self.name} {self._rounds}"), folder)
            self._rounds += 1
        try:
            told = next(self._tries)
        except StopIteration:
            self._tries = None
        else:
            self.n_tries += 1
            if told is not None:
                self.found.append(told)
                print(f"{self.name}: {told}", flush=True)
        self.seconds += time.monotonic() - started

    def close(self) -> None:
        """Have a part put away what it has set up."""
        if self._tries is not None:
            self._tries.close()


def campaign(names: list[str], seconds: float, seed: int) -> int:
    """Attack with these parts for so long; returns the number of findings."""
    with tempfile.TemporaryDirectory(prefix="whisq-campaign-") as scratch:
        attacks = [Attack(name, seed, Path(scratch)) for name in names]
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                min(attacks, key=lambda attack: attack.seconds).step()
        finally:
            for attack in attacks:
                attack.close()
    for attack in attacks:
        print(f"{attack.name}: {attack.n_tries} tries in {attack.seconds:.0f} s, {len(attack.found)} wrong")
    return sum(len(attack.found) for attack in attacks)


def main() -> int:
    """Read the command line and attack; returns 1 where anything was found."""
    listed = "\n".join(f"  {name:<12} {what}" for name, what in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description="Attack whisq for a while, the same way for the same seed.",
        epilog=f"parts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", choices=[[], *PARTS], help="attack with these (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=300, help="stop after so many seconds (default: 300)")
    parser.add_argument("--hours", type=float, help="stop after so many hours")
    parser.add_argument("--seed", type=int, default=1, help="other numbers give other attacks (default: 1)")
    args = parser.parse_args()
    seconds = args.seconds if args.hours is None else args.hours * 3600
    return 1 if campaign(args.parts or list(PARTS), seconds, args.seed) else 0


if __name__ == "__main__":
    raise SystemExit(main())
