"""One reader under mutations, in a process of its own: ``python -m tests.campaign.fuzz READER FOLDER --seconds 60``.

With atheris installed the mutations are guided by which branches of whisq they reach; without it they are those of
``tests.support.mutations`` alone. What was found is in FOLDER: ``found.json`` counts inputs and names each exception
once, by its place, with the input that raised it beside.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

MOST_SECONDS = 5.0
"""Of processor time for one input: a small file has no business to take more."""
MOST_MB = 2000
_TOLD_EVERY_S = 2.0


class Record:
    """Counts inputs and keeps one of each kind of failure, on disk whenever two seconds have passed.

    And at the last of ``most`` inputs: libFuzzer then ends the process, and Python does not always hear of it.
    """

    def __init__(self, folder: Path, guided: bool, most: int) -> None:
        self.folder, self.guided, self.most = folder, guided, most
        self.n_inputs, self.failures = 0, {}  # type: ignore[var-annotated]
        self._told = 0.0

    def count(self, content: bytes, error: BaseException | None, seconds: float) -> None:
        """Take notice of one input and what came of it."""
        self.n_inputs += 1
        if error is None and seconds > MOST_SECONDS:
            error = TimeoutError(f"took {seconds:.0f} s of processor time")
        if error is not None:
            self._keep(content, error)
        if error is not None or self.n_inputs == self.most or time.monotonic() - self._told > _TOLD_EVERY_S:
            self.write()

    def _keep(self, content: bytes, error: BaseException) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/whisq/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        key = f"{type(error).__name__} in {where}"
        if key not in self.failures:
            name = f"input-{len(self.failures)}"
            (self.folder / name).write_bytes(content)
            self.failures[key] = {"input": name, "said": str(error)[:300]}

    def write(self) -> None:
        """Write what is known so far, whole."""
        self._told = time.monotonic()
        part = self.folder / "found.json.part"
        part.write_text(
            json.dumps({"inputs": self.n_inputs, "guided": self.guided, "failures": self.failures}, indent=1)
        )
        part.replace(self.folder / "found.json")


def mutated(content: bytes, random: Random) -> bytes:
    """Return a content with one to three changes; of JSON, now and then with other values where it stays JSON."""
    from tests.support.mutations import damaged, odd_json, structure_of

    if content[:1] in (b"{", b"[") and random.random() < 0.5:
        try:
            return odd_json(content.decode(), random).encode("utf-8", "replace")
        except (ValueError, RecursionError, MemoryError):
            pass
    if len(content) < 12:
        return content + random.randbytes(random.randrange(12))
    places = structure_of(content) if len(content) > 2000 else range(len(content))
    return damaged(content, places, random)


def _timed(record: Record, act: Callable[[bytes], BaseException | None]) -> Callable[[bytes], None]:
    def once(content: bytes) -> None:
        started = time.process_time()
        error = act(content)
        record.count(content, error, time.process_time() - started)

    return once


def unguided(seeds: tuple[bytes, ...], once: Callable[[bytes], None], runs: int, seconds: float, seed: int) -> None:
    """Mutate sound contents until so many were read or so much time has passed."""
    random, end = Random(seed), time.monotonic() + seconds
    for content in seeds:
        once(content)
    while runs > 0 and time.monotonic() < end:
        once(mutated(random.choice(seeds), random))
        runs -= 1


def guided(
    seeds: tuple[bytes, ...], once: Callable[[bytes], None], runs: int, seconds: float, seed: int, folder: Path
) -> None:
    """Let libFuzzer, through atheris, mutate what reaches new branches; it ends the process."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(content)

    def mutator(content: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        changed = mutated(content, random) if random.random() < 0.6 else atheris.Mutate(content, most)
        return bytes(changed[:most])

    words = [
        "fuzz",
        f"-runs={runs}",
        f"-max_total_time={max(1, int(seconds))}",
        f"-seed={seed}",
        f"-max_len={2 * max(map(len, seeds)) + 4096}",
        f"-rss_limit_mb={MOST_MB}",
        "-timeout=120",
        "-len_control=0",
        f"-artifact_prefix={folder}/",
        str(corpus),
    ]
    atheris.Setup(words, once, custom_mutator=mutator)
    atheris.Fuzz()


def main() -> int:
    """Fuzz one reader."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.fuzz", description="Fuzz one reader.")
    parser.add_argument("reader", metavar="READER")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1 << 30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unguided", action="store_true", help="use no atheris")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    guide = importlib.util.find_spec("atheris") is not None and not args.unguided
    if guide:
        import atheris

        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it names every module that it has instrumented
        with atheris.instrument_imports(include=["whisq"], enable_loader_override=False):
            _import_whisq()
    from tests.campaign.readers import READERS, outcome

    work = args.folder / "work"
    work.mkdir(exist_ok=True)
    reader = READERS[args.reader](work)
    record = Record(args.folder, guide, args.runs)
    once = _timed(record, lambda content: outcome(reader, content))
    given: tuple[Any, ...] = (reader.seeds, once, args.runs, args.seconds, args.seed)
    if guide:
        guided(*given, args.folder)
    else:
        unguided(*given)
        record.write()
    return 0


def _import_whisq() -> None:
    import tests.campaign.readers  # noqa: F401 - what it imports is instrumented


if __name__ == "__main__":
    raise SystemExit(main())
