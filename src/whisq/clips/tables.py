"""Rows of the manifests that people have: CSV in its dialects, tables with tabs or bars, JSON lines, JSON arrays."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.clips.clip import Problem
from whisq.clips.columns import AUDIO_COLUMNS, TEXT_COLUMNS, pick_column
from whisq.documents import Document, json_value
from whisq.errors import DataError

KINDS_HINT = (
    "give a .csv, .tsv, .json or .jsonl manifest with columns path and text, a folder of audio with a .txt of the "
    "same name beside each, or one in LibriSpeech's, LJSpeech's, MLS', Kaldi's, Common Voice's or AudioFolder's "
    "layout, or a Hugging Face dataset saved on disk or as .parquet"
)

_TEXT = Document("a file of transcripts", DataError, "save the transcripts as UTF-8 text", 1 << 26)
_MANIFEST = Document("a manifest", DataError, KINDS_HINT, 1 << 28)

_DELIMITERS = ",;\t|"
_CERTAIN_COLUMNS = (2, 3)
"""Columns of a table without a header: audio and text, or LJSpeech's audio, text as written and text as read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest: where it stands in the file, and its cells by column."""

    where: str
    cells: dict[str, Any]


def lines_of(path: Path, kind: Document = _TEXT) -> list[str]:
    """Return a text file's lines; raises ``DataError`` for what is not UTF-8 text."""
    # Only these end a line: JSON and speech may hold the other characters that Python splits at.
    return kind.text(path).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def rows_of(path: Path, problems: list[Problem]) -> list[Row]:
    """Return a manifest's rows; single lines that cannot be read are added to ``problems``.

    Raises ``DataError`` for a file that is no manifest at all.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        rows = list(_json_rows(path, problems))
    elif suffix in (".csv", ".tsv", ".psv"):
        rows = list(_table_rows(path, problems))
    else:
        raise DataError(f"{path}: {suffix or 'no suffix'}, not a manifest", hint=KINDS_HINT)
    if not rows and not problems:
        raise DataError(f"{path}: no rows in it", hint=KINDS_HINT)
    return rows


def _json_rows(path: Path, problems: list[Problem]) -> Iterator[Row]:
    lines = lines_of(path, _MANIFEST)
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("["):
        values = _MANIFEST.parse_json("\n".join(lines), str(path))
        numbered = [(f"entry {number}", value) for number, value in enumerate(values, 1)]
    else:
        numbered = list(_json_lines(lines, problems))
    for where, value in numbered:
        if isinstance(value, dict):
            yield Row(where, value)
        else:
            problems.append(Problem(where, "not a JSON object"))


def _json_lines(lines: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json_value(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(f"line {number}", f"not JSON: {error.msg} at column {error.colno}"))
        except ValueError as error:
            problems.append(Problem(f"line {number}", f"not JSON: {error}"))


def _table_rows(path: Path, problems: list[Problem]) -> Iterator[Row]:
    lines = lines_of(path, _MANIFEST)
    delimiter, header = _dialect(path, lines)
    reader = _reader(io.StringIO("\n".join(lines) + "\n"), delimiter)
    columns = header
    try:
        for cells in reader:
            if not cells:
                continue
            if columns is None:
                columns = [name.strip() for name in cells]
                continue
            reason = _wrong_count(cells, columns, delimiter)
            if reason:
                problems.append(Problem(f"line {reader.line_num}", reason))
                continue
            yield Row(
                f"line {reader.line_num}", {name: cell for name, cell in zip(columns, cells, strict=False) if name}
            )
    except csv.Error as error:
        problems.append(Problem(f"line {reader.line_num}", f"not {path.suffix[1:]}: {error}"))


def _reader(lines: Iterable[str], delimiter: str) -> Any:
    # A tab ends a cell whatever is quoted; after a comma a space may stand before the quote.
    if delimiter in ",;":
        return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, skipinitialspace=True)


def _wrong_count(cells: Sequence[str], columns: Sequence[str], delimiter: str) -> str:
    """Return what is wrong with a row's number of cells: more with something in them, or fewer than reach the text."""
    if len(cells) > len(columns) and any(cells[len(columns) :]):
        named = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}[delimiter]
        way_out = f'write a text that has {named} in "quotes"' if delimiter in ",;" else f"a text cannot hold {named}"
        return f"{len(cells)} cells, the header has {len(columns)}: {way_out}"
    needed = [pick_column(columns, names) for names in (AUDIO_COLUMNS, TEXT_COLUMNS)]
    reach = max((columns.index(name) for name in needed if name is not None), default=-1) + 1
    if len(cells) < reach:
        return f"{len(cells)} cells, the header has {len(columns)}"
    return ""


def _dialect(path: Path, lines: Sequence[str]) -> tuple[str, list[str] | None]:
    """Return what stands between cells, and the columns where the first line is a row like any other.

    The delimiter is the one under which the first line names a column of audio; a table without a header is taken only
    where it is certain: the first cell of every row is an audio file that is there.
    """
    first = next((line for line in lines if line.strip()), "")
    usual = "\t" if path.suffix.lower() == ".tsv" else "|" if path.suffix.lower() == ".psv" else ","
    order = [usual, *(other for other in _DELIMITERS if other != usual)]
    for delimiter in order:
        names = [name.strip().strip('"') for name in first.split(delimiter)]
        if delimiter in first and pick_column(names, AUDIO_COLUMNS) is not None:
            return delimiter, None
    for delimiter in order:
        columns = _columns_without_header(path.parent, lines, delimiter)
        if columns is not None:
            return delimiter, columns
    return usual, None


def _columns_without_header(folder: Path, lines: Sequence[str], delimiter: str) -> list[str] | None:
    from whisq.clips.places import find_audio

    try:
        rows = [row for row in _reader(lines, delimiter) if row]
    except csv.Error:
        return None
    width = len(rows[0]) if rows else 0
    if width not in _CERTAIN_COLUMNS or any(len(row) != width for row in rows):
        return None
    if not all(find_audio(folder, row[0]) is not None for row in rows):
        return None
    # LJSpeech's third column is its text with numbers and abbreviations written out.
    return ["path", "text", "read"][:width]
