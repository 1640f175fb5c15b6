"""Clips in Hugging Face datasets: saved on disk with ``Dataset.save_to_disk``, or as Parquet files."""

from __future__ import annotations

from pathlib import Path

from whisq.clips.arrow import arrow_table
from whisq.clips.clip import Clip
from whisq.clips.columns import ARROW_AUDIO_COLUMNS
from whisq.clips.folders import Found
from whisq.clips.manifest import Columns
from whisq.documents import Document
from whisq.errors import DataError
from whisq.extras import require_packages
from whisq.records import RecordError, typed

_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")
_INFORMATION = Document("what a dataset says of itself", DataError, "save it again with Dataset.save_to_disk", 1 << 24)


def is_dataset(path: Path) -> bool:
    """Return whether a path is a saved dataset, a Parquet file, or a folder of those."""
    if path.is_file():
        return path.suffix.lower() in (".parquet", ".arrow")
    return any((path / name).exists() for name in _DATASET_FILES) or bool(_parquet_files(path))


def dataset_clips(path: Path, need_text: bool) -> Found:
    """Return a dataset's clips. Raises ``DataError`` for one of several splits, or damaged, or without the columns."""
    require_packages("pyarrow", purpose="a Hugging Face dataset")
    if path.is_file():
        files = [path]
    elif any((path / name).exists() for name in _DATASET_FILES):
        files = _arrow_files(_split_of(path))
    else:
        files = _one_split(path, _parquet_files(path))
    clips: list[Clip] = []
    for file in files:
        clips += _clips_of(file, need_text)
    kind = "Parquet" if files[0].suffix.lower() == ".parquet" else "Hugging Face dataset"
    return kind, clips, []


def _parquet_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def _one_split(folder: Path, files: list[Path]) -> list[Path]:
    """Return the files, all of one split: the name before -00000-of-00002."""
    splits = sorted({file.stem.split("-")[0] for file in files})
    if len(splits) > 1:
        example = next(file for file in files if file.stem.startswith(splits[0]))
        raise DataError(f"{folder}: holds the splits {', '.join(splits)}, expected one", hint=f"name a file: {example}")
    return files


def _split_of(folder: Path) -> Path:
    if not (folder / "dataset_dict.json").exists():
        return folder
    splits = _texts(folder / "dataset_dict.json", "splits")
    if len(splits) != 1:
        raise DataError(
            f"{folder}: holds the splits {', '.join(splits) or 'none'}, expected one",
            hint=f"name the split's own folder, such as {folder / (splits[0] if splits else 'test')}",
        )
    return folder / splits[0]


def _arrow_files(folder: Path) -> list[Path]:
    """Return the files that a saved dataset's state names: others beside them are what `map` kept. Else all."""
    state = folder / "state.json"
    if not state.exists():
        files = sorted(folder.glob("*.arrow"))
    else:
        files = [folder / name for name in _data_files(state)]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise DataError(f"{state}: names {missing[0]}, which is not there", hint=_INFORMATION.hint)
    if not files:
        raise DataError(f"{folder}: no .arrow file in it", hint="save it with Dataset.save_to_disk")
    return files


def _data_files(state: Path) -> tuple[str, ...]:
    document = _INFORMATION.json(state)
    try:
        entries = typed(dict[str, object], document, "state")
        if entries.get("_indices_files"):
            raise DataError(
                f"{state}: rows were selected, and the files still hold them all",
                hint="save it again with Dataset.flatten_indices().save_to_disk",
            )
        if "_data_files" not in entries:
            return tuple(file.name for file in sorted(state.parent.glob("*.arrow")))
        listed = typed(tuple[dict[str, str], ...], entries["_data_files"], "_data_files")
        return tuple(Path(entry["filename"]).name for entry in listed)
    except (RecordError, KeyError) as error:
        raise DataError(f"{state}: {error}", hint=_INFORMATION.hint) from None


def _texts(path: Path, key: str) -> tuple[str, ...]:
    document = _INFORMATION.json(path)
    found = document.get(key, []) if isinstance(document, dict) else None
    try:
        return tuple(typed(tuple[str, ...], found, key))
    except RecordError as error:
        raise DataError(f"{path}: {error}", hint=_INFORMATION.hint) from None


def _clips_of(file: Path, need_text: bool) -> list[Clip]:
    table = arrow_table(file)
    columns = Columns.of(table.column_names, file, need_text, audio_columns=ARROW_AUDIO_COLUMNS)
    nothing = [None] * table.num_rows
    texts, languages, speakers = (
        table.column(name).to_pylist() if name else nothing
        for name in (columns.text, columns.language, columns.speaker)
    )
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
