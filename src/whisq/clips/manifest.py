"""Clips from the rows of a manifest, or of a table with the audio in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from whisq.clips.clip import Clip, Problem, Segment, data_error
from whisq.clips.columns import (
    AUDIO_COLUMNS,
    DURATION_COLUMNS,
    LANGUAGE_COLUMNS,
    OFFSET_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    pick_column,
    pick_span,
)
from whisq.clips.places import audio_beside
from whisq.clips.tables import Row, rows_of

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NEMO_AUDIO = "audio_filepath"
"""NeMo's column: beside it a duration says how much of the file belongs to the text, also where no offset is given."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that matter, as they are spelt there; None for one that it has not."""

    audio: str
    text: str | None
    language: str | None
    speaker: str | None
    offset: str | None
    duration: str | None
    span: tuple[str, str] | None = None

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        source: Path,
        need_text: bool,
        problems: Sequence[Problem] = (),
        audio_columns: tuple[str, ...] = AUDIO_COLUMNS,
    ) -> Columns:
        """Return the columns among these; raises ``DataError`` where audio, or a text that is needed, is not."""
        audio, text = pick_column(names, audio_columns), pick_column(names, TEXT_COLUMNS)
        if audio is None or (text is None and need_text):
            wanted = [
                f"{what} (one of {', '.join(known)})"
                for what, known, found in (("audio", AUDIO_COLUMNS, audio), ("text", TEXT_COLUMNS, text))
                if found is None and (what == "audio" or need_text)
            ]
            reason = f"found {', '.join(names) or 'none'}; no column for {' and none for '.join(wanted)}"
            hint = "name the columns path and text, and language if there are several"
            raise data_error(source, [*problems, Problem("columns", reason)], hint=hint)
        others = (LANGUAGE_COLUMNS, SPEAKER_COLUMNS, OFFSET_COLUMNS, DURATION_COLUMNS)
        language, speaker, offset, duration = (pick_column(names, known) for known in others)
        cuts = offset is not None or audio.strip().lower() == _NEMO_AUDIO
        span = None if cuts else pick_span(names)
        return cls(audio, text, language, speaker, offset, duration if cuts else None, span)

    def cells(self, row: Row) -> dict[str, Any]:
        """Return a row's cells in these columns."""
        names = (self.audio, self.text, self.language, self.speaker, self.offset, self.duration, *(self.span or ()))
        return {name: row.cells.get(name) for name in names if name}


def manifest_clips(path: Path, need_text: bool) -> tuple[str, list[Clip], list[Problem]]:
    """Return what kind of manifest this is, its clips not yet decoded, and what is wrong with single rows.

    Raises ``DataError`` for a file that is no manifest, or has no column for audio or for a text that is needed.
    """
    problems: list[Problem] = []
    rows = rows_of(path, problems)
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    columns = Columns.of(names, path, need_text, problems)
    paths = [_audio_name(row.cells.get(columns.audio)) for row in rows]
    shared = _shared_folder([name for name in paths if name])
    clips = []
    for row, name in zip(rows, paths, strict=True):
        try:
            clips.append(_clip(path.parent, row, columns, name, shared, need_text))
        except ValueError as error:
            problems.append(Problem(row.where, str(error)))
    return f"{path.suffix[1:].lower()} manifest", clips, problems


def _clip(folder: Path, row: Row, columns: Columns, name: str, shared: str, need_text: bool) -> Clip:
    cells = columns.cells(row)
    wrong = next((key for key, cell in cells.items() if key != columns.audio and not _is_cell(cell)), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is {ascii(cells[wrong])[:60]}, expected text")
    if need_text and cells[columns.text or ""] is None:
        raise ValueError(f"no text in column {columns.text}")
    if not name:
        found = cells[columns.audio]
        if found is None or not str(found).strip():
            raise ValueError(f"no audio path in column {columns.audio}")
        raise ValueError(f"{columns.audio} is {ascii(found)[:60]}, expected text")
    if _ADDRESS.match(name):
        raise ValueError(f"{ascii(name)[:80]} is an address, expected a file: download it first")
    segment = _segment(cells, columns)
    label = name.removeprefix(shared)
    return Clip(
        f"{label}@{segment.start_s:g}s" if segment else label,
        audio_beside(folder, name),
        _text(cells, columns.text) or "",
        _text(cells, columns.language),
        speaker=_text(cells, columns.speaker),
        segment=segment,
    )


def _audio_name(cell: object) -> str:
    """Return the path that a cell gives: a text, or what Hugging Face's tools write, an object with a path."""
    if isinstance(cell, dict):
        cell = cell.get("path")
    name = cell.strip() if isinstance(cell, str) and "\0" not in cell else ""
    return unquote(name.removeprefix("file://")) if name.startswith("file:///") else name


def _segment(cells: dict[str, Any], columns: Columns) -> Segment | None:
    """Return the part of the file that a row, or its audio, names; None where it means all of it."""
    audio = cells[columns.audio]
    within = pick_span(audio) if isinstance(audio, dict) else None
    span, told = (within, audio) if within is not None else (columns.span, cells)
    if span is not None:
        start, end = (_seconds(told, name) for name in span)
        if start is None and end is None:
            return None
        if end is None or end <= (start or 0.0):
            raise ValueError(f"{span[1]} is {ascii(told.get(span[1]))[:60]}, expected seconds after {span[0]}")
        return Segment(start or 0.0, end - (start or 0.0), or_whole=True)
    offset = _seconds(cells, columns.offset) or 0.0
    duration = _seconds(cells, columns.duration)
    return Segment(offset, duration) if offset or duration is not None else None


def _seconds(cells: dict[str, Any], column: str | None) -> float | None:
    text = _text(cells, column)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{column} is {ascii(text)[:60]}, expected seconds")
    return value


_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")


def _is_cell(value: object) -> bool:
    if isinstance(value, str):
        # Half of a surrogate pair, which JSON's escapes can spell, is no character.
        return not _NO_CHARACTER.search(value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(cells: dict[str, Any], column: str | None) -> str | None:
    value = cells.get(column) if column else None
    return None if value is None else str(value).strip() or None


def _shared_folder(names: Iterable[str]) -> str:
    """Return the folder, with its separator, that all of these absolute paths begin with; empty for others.

    Clips are named without it: where data lies on one machine belongs into no report.
    """
    paths = [Path(name) for name in names]
    if not paths or not all(path.is_absolute() for path in paths):
        return ""
    folder = os.path.commonpath([str(path.parent) for path in paths])
    return folder if folder.endswith(os.sep) else folder + os.sep
