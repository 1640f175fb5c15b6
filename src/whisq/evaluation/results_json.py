"""An evaluation as JSON, versioned, and back.

``summary`` in the file is for other readers: reading it back derives everything from the counts again.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whisq.clips.clip import Problem
from whisq.errors import DataError
from whisq.evaluation.results import (
    ClipRecord,
    DataRecord,
    Evaluation,
    ModelResult,
    TensorError,
    Utterance,
    inside_utterance,
)
from whisq.evaluation.scoring import Edits

SCHEMA = "whisq-evaluation"
SCHEMA_VERSION = 3
"""What is written. Version 1, of whisq 0.1, is the same without ``n_not_finite`` of tensors, which is 0 there; versions
1 and 2 measured divergences in whisq's forward pass only, and none of timestamps."""
READ_VERSIONS = (1, 2, 3)


def to_json(evaluation: Evaluation) -> str:
    """Return the whole evaluation as a JSON text."""
    document = {
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
    }
    return json.dumps(_finite(document), ensure_ascii=False, indent=1) + "\n"


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
    hint = "give the file that `whisq evaluate --json FILE` wrote"
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source}: not JSON: {error.msg} in line {error.lineno}", hint=hint) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{source}: JSON, but not an evaluation's results", hint=hint)
    found = document.get("schema_version")
    if found not in READ_VERSIONS:
        raise DataError(
            f"{source}: results of schema version {found}, expected {' or '.join(map(str, READ_VERSIONS))}",
            hint="use the version of whisq that wrote it, or measure again (cached transcripts are used)",
        )
    try:
        return Evaluation(
            data=_data(document["data"]),
            models=tuple(_model(model) for model in document["models"]),
            settings=document["settings"],
            provenance=document["provenance"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: damaged results: {type(error).__name__}: {error}", hint=hint) from None


def read_results(path: str | Path) -> Evaluation:
    """Return the evaluation in a file; raises ``DataError``."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", hint="check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text", hint="give the file that --json wrote") from None


def _data(data: dict[str, Any]) -> DataRecord:
    clips = tuple(ClipRecord(**clip) for clip in data.pop("clips"))
    problems = tuple(Problem(**problem) for problem in data.pop("problems"))
    return DataRecord(clips=clips, problems=problems, **data)


def _model(model: dict[str, Any]) -> ModelResult:
    utterances = tuple(
        Utterance(edits=Edits(**utterance.pop("edits")), **utterance) for utterance in model.pop("utterances")
    )
    inside, beside = (tuple(inside_utterance(one) for one in model.pop(way, ())) for way in ("inside", "beside"))
    tensors = tuple(TensorError(**tensor) for tensor in model.pop("tensors"))
    return ModelResult(utterances=utterances, inside=inside, beside=beside, tensors=tensors, **model)
