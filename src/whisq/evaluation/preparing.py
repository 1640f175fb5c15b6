"""What an evaluation is of, before anything is measured: models, what runs them, and the clips to score them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.clips.clip import ClipSet, Problem, data_error
from whisq.clips.datasets import load_clips
from whisq.errors import DataError
from whisq.evaluation.doubts import refuse_other_models
from whisq.evaluation.inside import Ways, choose_ways
from whisq.evaluation.model_files import ModelFile, RuntimeChoice, choose_runtimes, describe, labels_of
from whisq.evaluation.normalizing import normalize
from whisq.model import Model
from whisq.network.devices import check_device
from whisq.progress import Progress

if TYPE_CHECKING:
    from whisq.evaluation.run import EvaluationSettings


def prepared(
    reference: str | Path | Model,
    candidates: Sequence[str | Path],
    data: str | Path | ClipSet,
    chosen: EvaluationSettings,
    progress: Progress,
) -> tuple[list[ModelFile], list[RuntimeChoice], Ways, ClipSet]:
    """Return models, what runs each, how one looks inside, and the clips: all that can be checked was."""
    files = _describe_all(reference, [Path(path) for path in candidates], chosen.cache, progress)
    refuse_other_models(files)
    choices = choose_runtimes(files, chosen.runtime)
    ways = choose_ways(files, chosen.runtime, chosen.device)
    if chosen.inside and ways.common.runtime is None:
        check_device(chosen.device)
    clips = load_clips(
        data,
        limit=chosen.limit,
        seed=chosen.seed,
        language=chosen.language,
        skip_bad=chosen.skip_bad,
        on_clip=lambda done, total: progress("checking clips", done, total),
    )
    clips = _fit_to_models(clips, files, chosen)
    return files, choices, ways, clips


def _describe_all(
    reference: str | Path | Model, candidates: list[Path], cache: Path | None, progress: Progress
) -> list[ModelFile]:
    first = reference if isinstance(reference, Model) else Path(reference)
    paths = [first.path if isinstance(first, Model) else first, *candidates]
    labels = labels_of(paths)
    if len(set(paths)) < len(paths):
        raise DataError("a model is named twice", hint="give the reference and each candidate once")
    files = []
    for index, (source, label) in enumerate(zip((first, *candidates), labels, strict=True)):
        progress("reading models", index, len(paths))
        files.append(describe(source, label, cache))
    progress("reading models", len(paths), len(paths))
    return files


def _fit_to_models(clips: ClipSet, files: list[ModelFile], settings: EvaluationSettings) -> ClipSet:
    """Return the clips that these models can be scored on; the language is settled for each."""
    good, problems = [], []
    for clip in clips.clips:
        language = clip.language or "en"
        if clip.text and not normalize(clip.text, language):
            problems.append(Problem(clip.id, f"nothing is left of its text after normalizing: {clip.text!r}"))
        elif lacking := [file for file in files if language not in file.languages]:
            has = "is English-only" if len(lacking[0].languages) == 1 else "has no token for it"
            problems.append(Problem(clip.id, f"language {language}, but {lacking[0].label} {has}"))
        else:
            good.append(replace(clip, language=language))
    if (problems and not settings.skip_bad) or not good:
        raise data_error(clips.source, [*clips.problems, *problems])
    return ClipSet(clips.source, clips.kind, tuple(good), (*clips.problems, *problems))
