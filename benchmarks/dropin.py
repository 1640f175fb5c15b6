"""The file that people load: how far whole uniform files are from f16 in whisper.cpp itself.

    python benchmarks/dropin.py MODEL CLIPS --types q4_0 q5_1 --methods ggml feedback [--calibration FILE]

MODEL is in f16, CLIPS what `whisq evaluate` takes. Every file is what `whisq quantize --target whisper.cpp` writes, the
token embedding included; a calibration is needed for importance and feedback. The divergence is that of the next
token's distribution from f16's, in nats per token, in libwhisper (pywhispercpp), teacher-forced on the text that f16
writes there. Clips of one language that follow each other are joined into windows of up to 30 s, the unit of the
bootstrap. Columns: the ratio to ggml's bytes of the same type and to its q4_0, each with the paired 95 % interval over
windows; the divergence at the timestamps that f16 writes, and how far they move, apart. `--network` adds whisq's own
forward pass on the same tokens, which rounds no activations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import peers

import whisq
from whisq.calibration import Calibration, read_calibration
from whisq.calibration.factors import check_factors
from whisq.clips.clip import Clip
from whisq.clips.datasets import load_clips
from whisq.errors import PlanError
from whisq.evaluation.divergence import in_runtime
from whisq.evaluation.forced import TIMESTAMP_S, InNetwork, InRuntime
from whisq.network.divergence import divergences
from whisq.network.mel import WINDOW_SAMPLES
from whisq.network.numpy_operations import NumpyOperations
from whisq.types import F16, parse_type
from whisq.units import megabytes

RESAMPLES = 4000
SILENCE = np.zeros(4800, np.float32)
"""Between clips that are joined: 0.3 s."""


@dataclass
class Window:
    """Audio, and what f16 makes of it: tokens and logits, without timestamps and with them."""

    samples: np.ndarray
    text: list[int] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)
    text_start: int = 0
    timed_start: int = 0
    rows: Path = Path()

    @property
    def network_rows(self) -> Path:
        """Where the forward pass's logits of f16 are."""
        return self.rows.with_suffix(".npy")


@dataclass
class Found:
    """Of one file: sums over each window's tokens, and of its timestamps."""

    name: str
    size_bytes: int
    sums: np.ndarray
    times: np.ndarray
    moved_s: np.ndarray
    network: np.ndarray | None = None


def joined(clips: Sequence[Clip]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield windows with their language: clips that follow each other, as many as fit."""
    held: list[np.ndarray] = []
    language = ""
    for clip in clips:
        samples = clip.samples()[:WINDOW_SAMPLES]
        size = sum(len(part) for part in held) + len(SILENCE) + len(samples)
        if held and (size > WINDOW_SAMPLES or (clip.language or "en") != language):
            yield language, np.concatenate(held)
            held = []
        language = clip.language or "en"
        held += [*([SILENCE] if held else []), samples]
    if held:
        yield language, np.concatenate(held)


def listen(reference: InRuntime, clips: Sequence[Clip], most: int | None, folder: Path) -> list[Window]:
    """Return all windows, or ``most`` evenly spaced ones, with what the reference writes of each."""
    windows, cut = [], list(joined(clips))
    if most and most < len(cut):
        cut = [cut[index * len(cut) // most] for index in range(most)]
    for number, (language, samples) in enumerate(cut):
        reference.hear(samples)
        window = Window(samples, rows=folder / f"{number}.npz")
        prompts = [reference.special.prompt(language, timestamps=timed) for timed in (False, True)]
        window.text_start, window.timed_start = (len(prompt) - 1 for prompt in prompts)
        window.text = reference.write(prompts[0])
        text = reference.rows(window.text[:-1], window.text_start)
        window.timed = reference.write(prompts[1], timestamps=True)
        timed = reference.rows(window.timed[:-1], window.timed_start)
        np.savez(window.rows, text=text, timed=timed[places_of(window, reference)])
        windows.append(window)
    return windows


def places_of(window: Window, reference: InRuntime) -> list[int]:
    """Return which of the rows with timestamps are those before a timestamp."""
    begin = reference.special.required("timestamps_begin")
    return [place for place, token in enumerate(window.timed[window.timed_start + 1 :]) if token >= begin]


def network_rows(path: Path, windows: Sequence[Window]) -> Iterator[np.ndarray]:
    """Yield the logits of each window's tokens in whisq's own forward pass."""
    model = InNetwork(path, NumpyOperations())
    for window in windows:
        model.hear(window.samples)
        yield np.asarray(model.rows(window.text[:-1], window.text_start))


def network_sums(path: Path, windows: Sequence[Window]) -> np.ndarray:
    """Return the divergence from f16 summed over each window's tokens, both in whisq's own forward pass."""
    both = zip(windows, network_rows(path, windows), strict=True)
    return np.array([divergences(np.load(w.network_rows), rows, NumpyOperations()).sum() for w, rows in both])


def measured(path: Path, name: str, windows: Sequence[Window]) -> Found:
    """Return what a file does in whisper.cpp."""
    (model,), operations = in_runtime("whisper.cpp", [path], 1), NumpyOperations()
    sums, times, moved = [], [], []
    for window in windows:
        model.hear(window.samples)
        truth = np.load(window.rows)
        mine = model.rows(window.text[:-1], window.text_start)
        sums.append(float(divergences(truth["text"], mine, operations).sum()))
        places = places_of(window, model)
        rows = model.rows(window.timed[:-1], window.timed_start)
        times += list(divergences(truth["timed"], rows[places], operations))
        written = window.timed[window.timed_start + 1 :]
        for place in places:
            allowed = model.choices.times(written[:place], rows.shape[-1])
            likeliest = int(np.where(allowed, rows[place], -np.inf).argmax())
            moved.append(abs(likeliest - written[place]) * TIMESTAMP_S)
    model.close()
    return Found(name, path.stat().st_size, *(np.array(values) for values in (sums, times, moved)))


def ratio(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return one file's divergence by another's, with its interval."""
    drawn = np.random.default_rng(0).integers(0, len(one), (RESAMPLES, len(one)))
    low, high = np.percentile(one[drawn].sum(1) / other[drawn].sum(1), [2.5, 97.5])
    return float(one.sum() / other.sum()), float(low), float(high)


def line(found: Found, known: dict[str, Found], tokens: int) -> dict[str, object]:
    """Return a file's row."""
    kind, method = found.name.split(":")
    row: dict[str, object] = {
        "type": kind, "method": method, "MB": round(megabytes(found.size_bytes), 1),
        "divergence": float(found.sums.sum() / tokens),
    }  # fmt: skip
    for title, other in ((f"{kind}:ggml", "same"), ("q4_0:ggml", "q4_0")):
        row[f"ratio_{other}"] = ratio(found.sums, known[title].sums) if title in known and found.name != title else None
    row["timestamps"] = float(found.times.mean()) if found.times.size else None
    row["moved_ms"] = float(1000 * found.moved_s.mean()) if found.moved_s.size else None
    row["network"] = None if found.network is None else float(found.network.sum() / tokens)
    return row


def shown(row: dict[str, object]) -> str:
    """Return a row in Markdown."""
    cells = []
    for name, value in row.items():
        if value is None:
            cells.append("–")
        elif isinstance(value, tuple):
            cells.append("{:.2f} ({:.2f}–{:.2f})".format(*value))
        elif isinstance(value, float):
            cells.append(f"{value:.5f}" if name in ("divergence", "timestamps", "network") else f"{value:.1f}")
        else:
            cells.append(str(value))
    return "| " + " | ".join(cells) + " |"


def write_file(model: whisq.Model, folder: Path, name: str, calibration: Calibration | None) -> Path | None:
    """Return the drop-in file of a type and a method; None where the type does not fit the rows."""
    kind, method = name.split(":")
    path = folder / f"{name.replace(':', '-')}.bin"
    if path.exists():
        return path
    recipe = whisq.Recipe(parse_type(kind), on_misfit="error")
    try:
        plan = whisq.make_plan(model, recipe, target="whisper.cpp", calibration=calibration, method=method)
    except PlanError as error:
        if "do not fit" not in str(error):
            raise
        print(f"{name}: rows do not fit")
        return None
    whisq.quantize(plan, path, threads=1)
    return path


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("clips", help="a folder or manifest of clips")
    parser.add_argument("--types", nargs="+", default=["q4_0", "iq4_nl", "q4_K", "q5_0", "q5_1", "q5_K"])
    parser.add_argument("--methods", nargs="+", default=["ggml", "feedback"], help="ggml, fit, importance, feedback")
    parser.add_argument("--only", nargs="+", metavar="TYPE:METHOD", help="these files alone, instead of all pairs")
    parser.add_argument("--calibration", type=Path, help="what `whisq calibrate` wrote")
    parser.add_argument("--language", help="measure clips of this language only")
    parser.add_argument("--windows", type=int, metavar="N", help="measure N of the windows, evenly spaced")
    parser.add_argument("--network", action="store_true", help="measure in whisq's forward pass too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the files there, and use those that are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    return parser.parse_args()


def main() -> int:
    """Write, measure and print every file."""
    args = arguments()
    names = args.only or [f"{kind}:{method}" for kind in args.types for method in args.methods]
    calibration = check_factors(read_calibration(args.calibration)) if args.calibration else None
    clips = [clip for clip in load_clips(args.clips).clips if args.language in (None, clip.language)]
    with tempfile.TemporaryDirectory() as scratch, whisq.open_model(args.model) as model:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if any(t.spec.is_matrix and t.type is not F16 for t in model.tensors):
            raise SystemExit(f"{args.model}: is not f16: the original is what others are compared with")
        (reference,) = in_runtime("whisper.cpp", [args.model], 1)
        windows = listen(reference, clips, args.windows, Path(scratch))
        reference.close()
        if args.network:
            for window, logits in zip(windows, network_rows(args.model, windows), strict=True):
                np.save(window.network_rows, logits)
        tokens = sum(len(window.text) - 1 - window.text_start for window in windows)
        print(f"{len(clips)} clips in {len(windows)} windows, {tokens} tokens", flush=True)
        print(", ".join(f"{key} {value}" for key, value in peers.machine().items()))
        known: dict[str, Found] = {}
        rows: list[dict[str, object]] = []
        for name in names:
            path = write_file(model, folder, name, None if name.endswith(":ggml") else calibration)
            if path is None:
                continue
            known[name] = measured(path, name, windows)
            if args.network:
                known[name].network = network_sums(path, windows)
            rows.append(line(known[name], known, tokens))
            if len(rows) == 1:
                print(f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
            print(shown(rows[-1]), flush=True)
        if args.json:
            args.json.write_text(
                json.dumps({"tokens": tokens, "windows": len(windows), "files": rows}, indent=1) + "\n"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
