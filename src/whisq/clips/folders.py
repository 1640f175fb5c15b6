"""Clips in folders, in the layouts that corpora come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whisq.clips.audio import SUFFIXES
from whisq.clips.clip import Clip, Problem, Segment
from whisq.clips.manifest import manifest_clips
from whisq.clips.places import audio_beside, find_audio, is_there
from whisq.clips.tables import KINDS_HINT, lines_of
from whisq.errors import DataError

Found = tuple[str, list[Clip], list[Problem]]
"""What kind of data it is, its clips not yet decoded, and what was wrong on the way."""

_MANIFESTS = tuple(
    f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in (".csv", ".tsv", ".jsonl", ".json")
)
_COMMON_VOICE = ("test.tsv", "dev.tsv", "validated.tsv", "train.tsv")
_TRANSCRIPTS = ("transcripts.txt", "prompts.txt")


def folder_clips(folder: Path, need_text: bool) -> Found:
    """Return the clips of a folder in any layout known here; raises ``DataError`` when nothing can be made of it."""
    for layout in (_kaldi, _librispeech, _with_manifest, _common_voice, _listed_transcripts, _splits):
        found = layout(folder, need_text)
        if found is not None:
            return found
    return _with_texts(folder, need_text)


def _kaldi(folder: Path, need_text: bool) -> Found | None:
    if not is_there(folder / "wav.scp"):
        return None
    if need_text and not is_there(folder / "text"):
        raise DataError(f"{folder}: a Kaldi folder with wav.scp and no text", hint="put the file text beside it")
    problems: list[Problem] = []
    recordings = _pairs(folder / "wav.scp")
    texts = _pairs(folder / "text") if is_there(folder / "text") else {}
    speakers = _pairs(folder / "utt2spk") if is_there(folder / "utt2spk") else {}
    parts: dict[str, tuple[str, Segment | None]] = {name: (name, None) for name in recordings}
    if is_there(folder / "segments"):
        parts = _kaldi_segments(folder / "segments", problems)
    clips = []
    for name, (recording, segment) in parts.items():
        place = recordings.get(recording, "")
        if not place or place.endswith("|"):
            reason = "is a command, and none is run: write its output to a file" if place else "is not in wav.scp"
            problems.append(Problem(name, f"its recording {recording} {reason}"))
        elif need_text and name not in texts:
            problems.append(Problem(name, "no transcript: it is not in text"))
        else:
            audio = audio_beside(folder, place)
            clips.append(Clip(name, audio, texts.get(name, ""), speaker=speakers.get(name), segment=segment))
    problems += [Problem(name, "no audio: it is not in wav.scp or segments") for name in texts if name not in parts]
    return "Kaldi folder", clips, problems


def _kaldi_segments(path: Path, problems: list[Problem]) -> dict[str, tuple[str, Segment | None]]:
    parts: dict[str, tuple[str, Segment | None]] = {}
    for name, rest in _pairs(path).items():
        cells = rest.split()
        try:
            start, end = float(cells[1]), float(cells[2])
        except (IndexError, ValueError):
            start, end = 0.0, 0.0
        if end == -1:  # Kaldi's sign for the end of the recording
            parts[name] = (cells[0], Segment(start))
            continue
        if not 0 <= start < end < float("inf"):
            problems.append(Problem(f"segments: {name}", f"{rest!a:.60} is not a recording, a start and an end"))
            continue
        parts[name] = (cells[0], Segment(start, end - start))
    return parts


def _pairs(path: Path) -> dict[str, str]:
    """Return what follows the first word of each line, by that word."""
    found = {}
    for line in lines_of(path):
        name, *rest = line.split(maxsplit=1)[:2] or [""]
        if name:
            found[name] = rest[0].strip() if rest else ""
    return found


def _librispeech(folder: Path, need_text: bool) -> Found | None:
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if not transcripts:
        return None
    clips, problems = [], []
    for transcript in transcripts:
        for number, line in enumerate(lines_of(transcript), 1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            audio = find_audio(transcript.parent, name)
            if audio is None:
                where = f"{transcript.relative_to(folder)} line {number}"
                problems.append(Problem(where, f"no audio named {name} with one of {' '.join(SUFFIXES)}"))
                continue
            clips.append(Clip(name, audio, text.strip(), "en", speaker=name.partition("-")[0]))
    return "LibriSpeech layout", clips, problems


def _with_manifest(folder: Path, need_text: bool) -> Found | None:
    for name in _MANIFESTS:
        if is_there(folder / name):
            return manifest_clips(folder / name, need_text)
    return None


def _common_voice(folder: Path, need_text: bool) -> Found | None:
    if not (folder / "clips").is_dir():
        return None
    for name in _COMMON_VOICE:
        if is_there(folder / name):
            _, clips, problems = manifest_clips(folder / name, need_text)
            return f"Common Voice, {name}", clips, problems
    return None


def _listed_transcripts(folder: Path, need_text: bool) -> Found | None:
    """MLS and VIVOS: one file with a name and its text a line, and audio of those names anywhere below."""
    listed = next((folder / name for name in _TRANSCRIPTS if is_there(folder / name)), None)
    if listed is None:
        return None
    by_name = {file.stem: file for file in audio_files(folder)}
    clips, problems = [], []
    for number, (name, text) in enumerate(_pairs(listed).items(), 1):
        if name in by_name:
            clips.append(Clip(name, by_name[name], text, speaker=by_name[name].parent.name))
        else:
            problems.append(Problem(f"{listed.name} entry {number}", f"no audio named {name} below the folder"))
    return f"audio with {listed.name}", clips, problems


def _splits(folder: Path, need_text: bool) -> Found | None:
    """AudioFolder's splits: folders with a manifest of their own each."""
    splits = [below for below in sorted(folder.iterdir()) if below.is_dir() and _has_manifest(below)]
    if not splits:
        return None
    if len(splits) > 1:
        names = ", ".join(split.name for split in splits)
        raise DataError(
            f"{folder}: holds the splits {names}, expected one", hint=f"name a split's own folder: {splits[0]}"
        )
    return _with_manifest(splits[0], need_text)


def _has_manifest(folder: Path) -> bool:
    return any(is_there(folder / name) for name in _MANIFESTS)


def audio_files(folder: Path) -> list[Path]:
    """Return all audio files below a folder, in order of their names."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _with_texts(folder: Path, need_text: bool) -> Found:
    audio = audio_files(folder)
    if not audio:
        raise DataError(f"{folder}: no audio in it ({' '.join(SUFFIXES)})", hint=KINDS_HINT)
    texts = {file for file in folder.rglob("*") if file.suffix.lower() == ".txt"}
    text_of = {file: _text_beside(file, texts.__contains__) for file in audio}
    used = {text for text in text_of.values() if text is not None}
    if need_text and not used:
        found = f"{len(audio)} audio files (first {audio[0].name}) and {len(texts)} .txt files"
        example = f" (first {min(texts).name})" if texts else ""
        raise DataError(
            f"{folder}: {found}{example}, but no two of the same name",
            hint=f"a text is needed to count its errors: {KINDS_HINT}; `whisq calibrate` takes audio without texts",
        )
    problems = [
        Problem(str(file.relative_to(folder)), f"no transcript: {file.with_suffix('.txt').name} is missing")
        for file, text in text_of.items()
        if need_text and text is None
    ]
    problems += [Problem(str(file.relative_to(folder)), "no audio of the same name") for file in sorted(texts - used)]
    clips = []
    for file, text in text_of.items():
        if text is not None or not need_text:
            said = " ".join(lines_of(text)).strip() if text is not None else ""
            clips.append(Clip(str(file.relative_to(folder)), file, said))
    return "folder of audio with .txt", clips, problems


def _text_beside(audio: Path, known: Callable[[Path], bool]) -> Path | None:
    """Return the text of an audio file: of its name with .txt for its suffix, or after it, in either case."""
    candidates = [audio.with_suffix(".txt"), audio.with_suffix(".TXT")]
    candidates += [audio.with_name(f"{audio.name}.txt"), audio.with_name(f"{audio.name}.TXT")]
    return next((text for text in candidates if known(text)), None)
