"""Find clips: LibriSpeech's layout, manifests, folders of audio with texts, Hugging Face datasets on disk.

Finding reads names and texts only; ``clip.check_clips`` then decodes every clip. Everything wrong is collected
and told at once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from whisq.clips.arrow import arrow_table
from whisq.clips.audio import SUFFIXES
from whisq.clips.clip import Clip, ClipSet, Problem, check_clips, data_error
from whisq.clips.columns import (
    ARROW_AUDIO_COLUMNS,
    AUDIO_COLUMNS,
    LANGUAGE_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    pick_column,
)
from whisq.documents import Document, json_value
from whisq.errors import DataError
from whisq.extras import require_packages
from whisq.records import RecordError, typed

_MANIFESTS = tuple(f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in (".csv", ".tsv", ".jsonl"))
_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")
_LANGUAGE = re.compile(r"([a-z]{2,3})([-_].*)?")

_KINDS_HINT = (
    "give a folder in LibriSpeech's layout, a .csv, .tsv or .jsonl manifest with columns path and text, a "
    "folder of audio with a .txt of the same name beside each, or a Hugging Face dataset saved on disk"
)


def load_clips(
    path: str | Path | ClipSet,
    *,
    limit: int | None = None,
    seed: int = 0,
    language: str | None = None,
    skip_bad: bool = False,
    need_text: bool = True,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> ClipSet:
    """Return the clips of ``path``, each decoded once and found usable; those of a ``ClipSet`` as they are.

    ``limit`` draws that many at random, the same ones for the same ``seed``, and keeps their order.
    ``language`` is for clips whose data names none. Raises ``DataError`` that lists everything wrong at
    once, unless ``skip_bad``: then what is wrong with single clips goes into ``problems`` of the result.
    Silent clips have nothing to transcribe: they always go there. Without ``need_text`` clips may have no transcript.
    """
    if isinstance(path, ClipSet):
        return path
    where = Path(path)
    kind, clips, problems = find_clips(where, need_text)
    clips = [_with_language(clip, language, problems) for clip in clips]
    _refuse_duplicates(clips, problems)
    if limit is not None and limit < len(clips):
        chosen = set(random.Random(seed).sample(range(len(clips)), limit))
        clips = [clip for index, clip in enumerate(clips) if index in chosen]
    done = 0

    def count(_: Clip) -> None:
        nonlocal done
        done += 1
        on_clip(done, len(clips))

    good, unusable = check_clips(clips, need_text=need_text, on_clip=count)
    problems += unusable
    fatal = [problem for problem in problems if not problem.reason.startswith("silent")]
    if (fatal and not skip_bad) or not good:
        raise data_error(where, problems or [Problem(str(where), "no clips")])
    return ClipSet(str(where), kind, tuple(good), tuple(problems))


def find_clips(path: Path, need_text: bool = True) -> tuple[str, list[Clip], list[Problem]]:
    """Return what kind of data this is, its clips not yet decoded, and what was wrong on the way.

    Raises ``DataError`` when nothing at all can be made of it.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint="check the path given with --data")
    if path.is_file():
        return _manifest(path, need_text)
    if any((path / name).exists() for name in _DATASET_FILES):
        return _saved_dataset(path, need_text)
    transcripts = sorted(path.rglob("*.trans.txt"))
    if transcripts:
        return _librispeech(path, transcripts)
    for name in _MANIFESTS:
        if (path / name).exists():
            return _manifest(path / name, need_text)
    return _folder(path, need_text)


def _with_language(clip: Clip, default: str | None, problems: list[Problem]) -> Clip:
    if not clip.language:
        return replace(clip, language=default)
    match = _LANGUAGE.fullmatch(clip.language.strip().lower())
    if match is None:
        problems.append(Problem(clip.id, f"language {clip.language!r} is not a code such as en, de or es_419"))
        return clip
    return replace(clip, language=match.group(1))


def _refuse_duplicates(clips: list[Clip], problems: list[Problem]) -> None:
    seen: set[tuple[Path, int | None]] = set()
    for clip in clips:
        if (clip.path, clip.row) in seen:
            problems.append(Problem(clip.id, "its audio is listed more than once"))
        seen.add((clip.path, clip.row))


def _audio_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _librispeech(folder: Path, transcripts: list[Path]) -> tuple[str, list[Clip], list[Problem]]:
    clips, problems = [], []
    for transcript in transcripts:
        for number, line in enumerate(_lines(transcript), 1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            candidates = [transcript.parent / f"{name}{suffix}" for suffix in SUFFIXES]
            audio = next((file for file in candidates if file.exists()), None)
            if audio is None:
                where = f"{transcript.relative_to(folder)} line {number}"
                problems.append(Problem(where, f"no audio named {name} with one of {' '.join(SUFFIXES)}"))
                continue
            clips.append(Clip(name, audio, text.strip(), "en", speaker=name.partition("-")[0]))
    return "LibriSpeech layout", clips, problems


def _folder(folder: Path, need_text: bool) -> tuple[str, list[Clip], list[Problem]]:
    audio = _audio_files(folder)
    texts = {file.with_suffix("") for file in folder.rglob("*.txt")}
    if not audio:
        raise DataError(f"{folder}: no audio in it ({' '.join(SUFFIXES)})", hint=_KINDS_HINT)
    with_text = [file for file in audio if file.with_suffix("") in texts]
    if need_text and not with_text:
        found = f"{len(audio)} audio files (first {audio[0].name}) and {len(texts)} .txt files"
        example = f" (first {min(texts).name}.txt)" if texts else ""
        raise DataError(f"{folder}: {found}{example}, but no two of the same name", hint=_KINDS_HINT)
    stems = {file.with_suffix("") for file in audio}
    problems = [
        Problem(str(file.relative_to(folder)), f"no transcript: {file.with_suffix('.txt').name} is missing")
        for file in audio
        if need_text and file.with_suffix("") not in texts
    ]
    problems += [
        Problem(f"{stem.relative_to(folder)}.txt", "no audio of the same name") for stem in sorted(texts - stems)
    ]
    clips = []
    for file in with_text if need_text else audio:
        has_text = file.with_suffix("") in texts
        text = " ".join(_lines(file.with_suffix(".txt"))).strip() if has_text else ""
        clips.append(Clip(str(file.relative_to(folder)), file, text))
    return "folder of audio with .txt", clips, problems


_TEXT = Document("a file of transcripts", DataError, "save the transcripts as UTF-8 text", 1 << 26)
_MANIFEST = Document("a manifest", DataError, _KINDS_HINT, 1 << 28)
_INFORMATION = Document("what a dataset says of itself", DataError, "save it again with Dataset.save_to_disk", 1 << 24)


def _lines(path: Path, kind: Document = _TEXT) -> list[str]:
    # Only these end a line: JSON and speech may hold the other characters that Python splits at.
    return kind.text(path).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _manifest(path: Path, need_text: bool) -> tuple[str, list[Clip], list[Problem]]:
    problems: list[Problem] = []
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        rows = list(_json_rows(path, problems))
    elif suffix in (".csv", ".tsv"):
        rows = list(_table_rows(path, "\t" if suffix == ".tsv" else ",", problems))
    else:
        raise DataError(f"{path}: {suffix or 'no suffix'}, not a manifest", hint=_KINDS_HINT)
    if not rows and not problems:
        raise DataError(f"{path}: no rows in it", hint=_KINDS_HINT)
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    audio, text = pick_column(columns, AUDIO_COLUMNS), pick_column(columns, TEXT_COLUMNS)
    language, speaker = pick_column(columns, LANGUAGE_COLUMNS), pick_column(columns, SPEAKER_COLUMNS)
    if audio is None or (text is None and need_text):
        wanted = [
            f"{what} (one of {', '.join(names)})"
            for what, names, found in (("audio", AUDIO_COLUMNS, audio), ("text", TEXT_COLUMNS, text))
            if found is None and (what == "audio" or need_text)
        ]
        problems.append(
            Problem(
                "columns",
                f"found {', '.join(columns) or 'none'}; no column for {' and none for '.join(wanted)}",
            )
        )
        raise data_error(path, problems, hint="name the columns path and text, and language if there are several")
    clips = []
    shared = _shared_folder([str(row.get(audio) or "").strip() for _, row in rows])
    for line, row in rows:
        cells = {column: row.get(column) for column in (audio, text, language, speaker) if column}
        wrong = next((column for column, cell in cells.items() if not _is_cell(cell)), None)
        if wrong is not None:
            problems.append(Problem(f"line {line}", f"{wrong} is {ascii(cells[wrong])[:60]}, expected text"))
            continue
        name = _cell(row, audio) or ""
        if not name:
            problems.append(Problem(f"line {line}", f"no audio path in column {audio}"))
            continue
        clips.append(
            Clip(
                name.removeprefix(shared),
                _beside(path.parent, name),
                _cell(row, text) or "",
                _cell(row, language),
                speaker=_cell(row, speaker),
            )
        )
    return f"{suffix[1:]} manifest", clips, problems


def _is_cell(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(row: dict[str, Any], column: str | None) -> str | None:
    return str(row.get(column) or "").strip() or None if column else None


def _shared_folder(names: list[str]) -> str:
    """Return the folder, with its separator, that all of these absolute paths begin with; empty for others.

    Clips are named without it: where data lies on one machine belongs into no report.
    """
    if not names or not all(Path(name).is_absolute() for name in names):
        return ""
    folder = os.path.commonpath([str(Path(name).parent) for name in names])
    return folder if folder.endswith(os.sep) else folder + os.sep


def _beside(folder: Path, name: str) -> Path:
    # Common Voice keeps the clips one folder below its .tsv and does not say so in it.
    direct, below = folder / name, folder / "clips" / name
    return below if not _exists(direct) and _exists(below) else direct


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _table_rows(path: Path, delimiter: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    text = io.StringIO("\n".join(_lines(path, _MANIFEST)) + "\n")
    if delimiter == "\t":
        reader = csv.DictReader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, restval="")
    else:
        reader = csv.DictReader(text, delimiter=delimiter, restval="", strict=True)
    try:
        for row in reader:
            # What is beyond the header's columns stands under None.
            beyond = row.pop(None, None)
            if beyond is not None and any(beyond):
                count = len(row) + len(beyond)
                reason = f'{count} cells, the header has {len(row)}: write a text that has a comma in "quotes"'
                problems.append(Problem(f"line {reader.line_num}", reason))
                continue
            yield reader.line_num, {name: value for name, value in row.items() if name}
    except csv.Error as error:
        problems.append(Problem(f"line {reader.line_num}", f"not {path.suffix[1:]}: {error}"))


def _json_rows(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path, _MANIFEST), 1):
        if not line.strip():
            continue
        try:
            row = json_value(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(f"line {number}", f"not JSON: {error.msg} at column {error.colno}"))
            continue
        except ValueError as error:
            problems.append(Problem(f"line {number}", f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problems.append(Problem(f"line {number}", "not a JSON object"))


def _splits(path: Path) -> tuple[str, ...]:
    document = _INFORMATION.json(path)
    found = document.get("splits", []) if isinstance(document, dict) else None
    try:
        return tuple(typed(tuple[str, ...], found, "splits"))
    except RecordError as error:
        raise DataError(f"{path}: {error}", hint=_INFORMATION.hint) from None


def _saved_dataset(folder: Path, need_text: bool) -> tuple[str, list[Clip], list[Problem]]:
    require_packages("pyarrow", purpose="a Hugging Face dataset saved on disk")
    if (folder / "dataset_dict.json").exists():
        splits = _splits(folder / "dataset_dict.json")
        if len(splits) != 1:
            raise DataError(
                f"{folder}: holds the splits {', '.join(splits) or 'none'}, expected one",
                hint=f"name the split's own folder, such as {folder / (splits[0] if splits else 'test')}",
            )
        folder = folder / splits[0]
    files = sorted(folder.glob("*.arrow"))
    if not files:
        raise DataError(f"{folder}: no .arrow file in it", hint="save it with Dataset.save_to_disk")
    clips: list[Clip] = []
    for file in files:
        clips += _arrow_clips(folder, file, need_text)
    return "Hugging Face dataset", clips, []


def _arrow_clips(folder: Path, file: Path, need_text: bool) -> list[Clip]:
    table = arrow_table(file)
    names = table.column_names
    audio, text = pick_column(names, ARROW_AUDIO_COLUMNS), pick_column(names, TEXT_COLUMNS)
    language, speaker = pick_column(names, LANGUAGE_COLUMNS), pick_column(names, SPEAKER_COLUMNS)
    if audio is None or (text is None and need_text):
        raise data_error(
            folder,
            [
                Problem(
                    file.name,
                    f"found columns {', '.join(names)}; expected {AUDIO_COLUMNS[1]} and {TEXT_COLUMNS[0]}",
                )
            ],
            hint="rename the columns to audio and text",
        )
    nothing = [None] * table.num_rows
    texts = table.column(text).to_pylist() if text else nothing
    languages = table.column(language).to_pylist() if language else nothing
    speakers = table.column(speaker).to_pylist() if speaker else nothing
    return [
        Clip(
            f"{file.stem}:{row}",
            file,
            str(said or "").strip(),
            str(spoken) if spoken else None,
            row,
            speaker=str(who) if who is not None else None,
        )
        for row, (said, spoken, who) in enumerate(zip(texts, languages, speakers, strict=True))
    ]
