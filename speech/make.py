"""Make the built-in speech: the recordings and the manifest in src/whisq/clips/builtin/.

    sudo apt-get install espeak-ng flite festival festvox-kdlpc16k sox
    python speech/make.py

Sentences of ours (sentences.tsv) are spoken by free synthesizers, each sentence with a voice, pitch, tempo, room,
noise, band and level of its own, drawn with a fixed seed, and joined into recordings of at most 30 s, what Whisper
takes at once. English has recordings of its own; the other languages share theirs. README.md says under what licence
all that is, and what was measured to choose it.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "src" / "whisq" / "clips" / "builtin"
VERSION = "1"
"""Change it with every change of what is made: calibrations are kept under it."""

RATE = 16_000
LONGEST_S = 29.9
BITS_PER_SECOND = 12_000
LICENCE = "CC0-1.0"

Samples = NDArray[np.float64]

# Each voice serves one half only: what is judged by has voices that calibrated nothing.
ENGLISH = {
    "calibrate": ("flite:slt", "flite:rms", "espeak:en-us+f2", "flite:awb", "espeak:en-gb+m3", "flite:slt", "flite:rms",
                  "flite:awb", "espeak:en-gb-x-rp+f4", "flite:rms", "flite:slt", "flite:awb"),
    "judge": ("flite:kal16", "festival:ked_diphone", "espeak:en-us+m7", "espeak:en-gb-scotland+f5"),
}  # fmt: skip
VARIANTS = {"calibrate": ("f2", "m3", "f4", "m1", "m5", "f1"), "judge": ("m7", "f5", "m2", "f3", "m4", "m8")}
ESPEAK_NAMES = {"fr": "fr-fr", "zh": "cmn"}


@dataclass(frozen=True)
class Sentence:
    """One line of sentences.tsv, and the voice that speaks it."""

    part: str
    language: str
    text: str
    voice: str
    translation: str


def sentences() -> list[Sentence]:
    """Return all lines; those that are not spoken have no voice."""
    found, counts = [], dict.fromkeys([*ENGLISH, *(f"other {part}" for part in VARIANTS)], 0)
    with (HERE / "sentences.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            part, language, voice = row["part"], row["language"], ""
            if part in ENGLISH:
                group = part if language == "en" else f"other {part}"
                voices = ENGLISH[part] if language == "en" else VARIANTS[part]
                voice = voices[counts[group] % len(voices)]
                counts[group] += 1
                if language != "en":
                    voice = f"espeak:{ESPEAK_NAMES.get(language, language)}+{voice}"
            found.append(Sentence(part, language, row["text"], voice, row["translation"] or ""))
    return found


def spoken(sentence: Sentence, random: np.random.Generator, folder: Path) -> Samples:
    """Return a sentence as its synthesizer says it, at a pitch and a tempo of its own, without silence around it."""
    raw, varied = folder / "raw.wav", folder / "varied.wav"
    synthesizer, voice = sentence.voice.split(":")
    if synthesizer == "flite":
        command = ["flite", "-voice", voice, "-t", sentence.text, "-o", str(raw)]
    elif synthesizer == "festival":
        command = ["text2wave", "-eval", f"(voice_{voice})", "-o", str(raw)]
    else:
        speed, pitch = random.integers(135, 185), random.integers(30, 70)
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(raw), sentence.text]
    subprocess.run(command, input=sentence.text, text=True, check=True, capture_output=True)
    cents, tempo = random.uniform(-250, 250), random.uniform(0.95, 1.25)
    effects = ["pitch", f"{cents:.0f}", "tempo", "-s", f"{tempo:.3f}"]
    sox = ["sox", "-R", "-D", str(raw), "-c", "1", "-r", str(RATE), "-b", "16", str(varied), "gain", "-3", *effects]
    subprocess.run(sox, check=True, capture_output=True)
    samples, _ = soundfile.read(varied)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + RATE // 20]


def in_a_room(samples: Samples, random: np.random.Generator) -> Samples:
    """Return speech with noise-like reflections that decay: by 60 dB in 0.1 to 0.7 s."""
    decay_s, wet = random.uniform(0.1, 0.7), random.uniform(0.0, 0.5)
    times = np.arange(int(decay_s * RATE)) / RATE
    reflections = random.standard_normal(times.size) * 10 ** (-3 * times / decay_s)
    reflections *= (times > random.uniform(0.002, 0.02)) / np.sqrt(np.square(reflections).sum())
    size = samples.size + times.size
    late = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(reflections, size), size)
    return np.pad(samples, (0, times.size)) + wet * late


def in_a_band(samples: Samples, low_hz: float, high_hz: float) -> Samples:
    """Return what a microphone or a line lets through, with slopes of about 24 dB an octave."""
    frequencies = np.fft.rfftfreq(samples.size, 1 / RATE)[1:]
    gain = 1 / (1 + (low_hz / frequencies) ** 4) / (1 + (frequencies / high_hz) ** 4)
    return np.fft.irfft(np.fft.rfft(samples) * np.concatenate([[0], gain]), samples.size)


def noise(size: int, random: np.random.Generator) -> Samples:
    """Return noise of power 1 whose spectrum falls by 0 to 6 dB an octave."""
    spectrum = np.fft.rfft(random.standard_normal(size))
    spectrum[1:] *= np.arange(1, spectrum.size) ** -random.uniform(0.0, 1.0)
    spectrum[0] = 0
    found = np.fft.irfft(spectrum, size)
    return found / np.sqrt(np.square(found).mean())


def varied(samples: Samples, random: np.random.Generator) -> Samples:
    """Return speech in a room, with noise 8 to 40 dB below it, in a band, at a level, a pause behind it."""
    samples = np.pad(in_a_room(samples, random), (int(0.1 * RATE), int(random.uniform(0.1, 0.5) * RATE)))
    power = np.sqrt(np.square(samples).mean())
    samples = samples + noise(samples.size, random) * power * 10 ** (-random.uniform(8, 40) / 20)
    samples = in_a_band(samples, random.uniform(30, 250), random.choice([3600.0, 5500.0, 7600.0, 7900.0]))
    return samples / np.abs(samples).max() * 10 ** (-random.uniform(1, 24) / 20)


@dataclass
class Recording:
    """Sentences one after the other, and when each begins and ends, in seconds."""

    part: str
    language: str
    pieces: list[tuple[Sentence, Samples]]

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return sum(samples.size for _, samples in self.pieces) / RATE

    def entry(self, name: str) -> dict[str, object]:
        """Return the manifest's entry."""
        start, listed = 0.0, []
        for sentence, samples in self.pieces:
            stop = start + samples.size / RATE
            times = {"start_s": round(start / 0.02) * 0.02, "end_s": round(stop / 0.02) * 0.02}
            times = {key: round(value, 2) for key, value in times.items()}
            said = {"language": sentence.language, "voice": sentence.voice, "text": sentence.text}
            listed.append({**times, **said, **({"translation": sentence.translation} if sentence.translation else {})})
            start = stop
        return {"file": name, "part": self.part, "seconds": round(self.seconds, 2), "sentences": listed}


def recordings(chosen: list[Sentence], seed: int) -> Iterator[Recording]:
    """Yield the recordings of both parts, English first."""
    for part in ENGLISH:
        for english in (True, False):
            current = Recording(part, "en" if english else "other", [])
            for number, sentence in enumerate(chosen):
                if sentence.part != part or (sentence.language == "en") is not english:
                    continue
                random = np.random.default_rng([seed, number])
                with tempfile.TemporaryDirectory() as folder:
                    samples = varied(spoken(sentence, random, Path(folder)), random)
                if current.seconds + samples.size / RATE > LONGEST_S:
                    yield current
                    current = Recording(part, current.language, [])
                current.pieces.append((sentence, samples))
            yield current


def main() -> None:
    """Write recordings and manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the folder to write to")
    parser.add_argument("--bits-per-second", type=int, default=BITS_PER_SECOND, help="of Opus; 0 writes WAV")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    chosen, listed, counts = sentences(), [], {}
    for recording in recordings(chosen, args.seed):
        stem = f"{recording.part}-{recording.language}"
        counts[stem] = counts.get(stem, 0) + 1
        name = f"{stem}-{counts[stem]}." + ("opus" if args.bits_per_second else "wav")
        samples = np.concatenate([samples for _, samples in recording.pieces])
        if args.bits_per_second:
            # libsndfile's scale: 0 is 256 kbit/s, 1 is 6 kbit/s.
            level = 1 - (args.bits_per_second - 6000) / 250_000
            soundfile.write(args.output / name, samples, RATE, format="OGG", subtype="OPUS", compression_level=level)
        else:
            soundfile.write(args.output / name, samples, RATE)
        listed.append(recording.entry(name))
        print(f"{name}: {recording.seconds:.1f} s, {(args.output / name).stat().st_size} bytes")
    texts = [[sentence.language, sentence.text] for sentence in chosen if sentence.part == "text"]
    document = {"version": VERSION, "licence": LICENCE, "recordings": listed, "texts": texts}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    (args.output / "speech.json").write_text(text, encoding="utf-8")
    total = sum(file.stat().st_size for file in args.output.iterdir() if file.suffix != ".py")
    print(f"{total} bytes, {sum(entry['seconds'] for entry in listed):.0f} s")


if __name__ == "__main__":
    main()
