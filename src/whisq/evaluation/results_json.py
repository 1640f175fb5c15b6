"""An evaluation as JSON, versioned, and back.

``summary``, ``which_file``, ``doubts`` and ``audio`` in the file are for other readers: reading it back derives all
from what was counted.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from whisq.documents import Document
from whisq.errors import DataError
from whisq.evaluation.coverage import audio_lines
from whisq.evaluation.doubts import doubts
from whisq.evaluation.results import Evaluation
from whisq.evaluation.which_file import Answer, WhichFile
from whisq.records import RecordError, record

SCHEMA = "whisq-evaluation"
SCHEMA_VERSION = 3
"""What is written. Version 1, of whisq 0.1, is the same without ``n_not_finite`` of tensors, which is 0 there; versions
1 and 2 measured divergences in whisq's forward pass only, and none of timestamps."""
READ_VERSIONS = (1, 2, 3)

_EVALUATION = ("data", "models", "settings", "provenance")
_FILE = Document("results", DataError, "give the file that `whisq evaluate --json FILE` wrote", 1 << 29)


def to_json(evaluation: Evaluation) -> str:
    """Return the whole evaluation as a JSON text."""
    return json.dumps(as_document(evaluation), ensure_ascii=False, indent=1) + "\n"


def as_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return the whole evaluation as JSON's types."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": evaluation.provenance,
        "settings": evaluation.settings,
        "data": asdict(evaluation.data),
        "models": [asdict(model) for model in evaluation.models],
        "summary": [
            None if summary is None else asdict(summary) | {"failure": model.failure}
            for summary, model in zip(evaluation.summaries, evaluation.models, strict=True)
        ],
        "which_file": which_file_document(evaluation.which_file),
        "doubts": doubts(evaluation),
        "audio": audio_lines(evaluation),
    }
    return {key: _finite(value) for key, value in document.items()}


def which_file_document(which: WhichFile) -> dict[str, Any]:
    """Return which file to ship as JSON's types: all files by size, and the answers for any runtime and for each."""

    def named(answers: tuple[Answer, ...]) -> list[dict[str, str | None]]:
        return [{"runtime": one.runtime or None, "file": one.rung.file.name if one.rung else None} for one in answers]

    return {
        "loss_nats": which.loss_nats,
        "not_worse": named(which.not_worse),
        "within_loss": named(which.within),
        "files": [
            {
                "file": rung.file.name,
                "size_bytes": rung.file.size_bytes,
                "divergence": None if rung.divergence is None else asdict(rung.divergence),
                "words": None if rung.file.words is None else asdict(rung.file.words.interval),
                "changed": None if rung.file.changed is None else asdict(rung.file.changed),
                "loads_in": None if rung.file.loads_in is None else sorted(rung.file.loads_in),
                "standing": rung.standing,
                "dropped_for": rung.dropped_for or None,
            }
            for rung in which.rungs
        ],
    }


def _finite(value: Any) -> Any:
    """Return the value with NaN and infinities as null: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def from_json(text: str, source: str = "results") -> Evaluation:
    """Return the evaluation that ``to_json`` wrote; raises ``DataError`` for anything else."""
    hint, document = _FILE.hint, _FILE.parse_json(text, source)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{source}: JSON, but not an evaluation's results", hint=hint)
    found = document.get("schema_version")
    if found not in READ_VERSIONS:
        raise DataError(
            f"{source}: results of schema version {found}, expected {' or '.join(map(str, READ_VERSIONS))}",
            hint="use the version of whisq that wrote it, or measure again (cached transcripts are used)",
        )
    try:
        return _checked(record(Evaluation, {key: document.get(key) for key in _EVALUATION}, "it"))
    except RecordError as error:
        raise DataError(f"{source}: damaged results: {error}", hint=hint) from None


def read_results(path: str | Path) -> Evaluation:
    """Return the evaluation in a file; raises ``DataError``."""
    return from_json(_FILE.text(Path(path)), str(path))


def _checked(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation whose parts fit together; raises ``RecordError`` for one whose do not."""
    if not evaluation.models:
        raise RecordError("it has no models")
    n_clips = len(evaluation.data.clips)
    for number, model in enumerate(evaluation.models):
        where = f"it.models[{number}]"
        if model.n_weights < 1 or model.size_bytes < 0:
            raise RecordError(f"{where} has {model.n_weights} weights in {model.size_bytes} bytes")
        if len(model.utterances) not in (0, n_clips):
            raise RecordError(f"{where} has {len(model.utterances)} utterances for {n_clips} clips")
        if model.utterances and not (evaluation.models[0].utterances and evaluation.data.duration_s > 0):
            raise RecordError(f"{where} has utterances, but the reference, or the audio, has none")
        if model.inside and not any(one.divergences for one in model.inside):
            raise RecordError(f"{where} was measured inside on no tokens")
        if any(count < 0 for one in model.utterances for count in astuple(one.edits)):
            raise RecordError(f"{where} counts fewer than no edits or words")
    seed = evaluation.settings.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise RecordError("it.settings.seed is not a whole number")
    return evaluation
