"""The columns that manifests and datasets keep audio, text, language and speaker in."""

from __future__ import annotations

from collections.abc import Iterable

# Columns by the field's habits (ours, AudioFolder's, NeMo's, Common Voice's). The first present counts.
AUDIO_COLUMNS = ("path", "audio", "file", "file_name", "audio_path", "audio_filepath", "filename")
"""Paths of audio files, in manifests."""

ARROW_AUDIO_COLUMNS = ("audio", *AUDIO_COLUMNS)
"""In a saved dataset the column with the audio itself often sits next to a column of paths from another machine."""

TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence", "normalized_text")
"""What is said."""

LANGUAGE_COLUMNS = ("language", "lang", "locale")
"""The language's code, or a locale that begins with it."""

OFFSET_COLUMNS = ("offset",)
"""Seconds into the file at which the text begins: NeMo's."""

DURATION_COLUMNS = ("duration",)
"""Seconds of the file that belong to the text."""

SPAN_COLUMNS = (("start", "end"), ("start_time", "end_time"), ("begin", "end"), ("begin_time", "end_time"))
"""Seconds into the file at which the text begins and ends; the audio may have been cut out since."""

SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
"""Who speaks, by which data is split."""


def pick_column(columns: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """Return the first wanted column that is there, whatever its case, as it is spelt there."""
    by_lower = {name.strip().lower(): name for name in columns if name}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def pick_span(columns: Iterable[str]) -> tuple[str, str] | None:
    """Return the columns of a start and an end, as they are spelt there, where both are there."""
    names = list(columns)
    found = ((pick_column(names, (start,)), pick_column(names, (end,))) for start, end in SPAN_COLUMNS)
    return next(((start, end) for start, end in found if start is not None and end is not None), None)
