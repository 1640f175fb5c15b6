"""Find clips: manifests, folders in the layouts of corpora, Hugging Face datasets on disk.

Finding reads names and texts only; ``clip.check_clips`` then decodes every clip. Everything wrong is collected
and told at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from whisq.clips.clip import Clip, ClipSet, Problem, Segment, check_clips, data_error
from whisq.clips.folders import Found, folder_clips
from whisq.clips.languages import spelling_of, whisper_language
from whisq.clips.manifest import manifest_clips
from whisq.clips.saved_datasets import dataset_clips, is_dataset
from whisq.clips.tables import KINDS_HINT
from whisq.errors import DataError


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
    Silent clips that should say something have nothing to transcribe: they always go there. Without ``need_text`` clips
    may have no transcript.
    """
    if isinstance(path, ClipSet):
        return path
    where = Path(path)
    default = parse_language(language) if language else None
    kind, clips, problems = find_clips(where, need_text)
    clips = [_with_language(clip, default, problems) for clip in clips]
    _refuse_duplicates(clips, problems)
    if limit is not None and limit < len(clips):
        chosen = set(random.Random(seed).sample(range(len(clips)), limit))
        clips = [clip for index, clip in enumerate(clips) if index in chosen]
    done = 0

    def count(_: Clip) -> None:
        nonlocal done
        done += 1
        on_clip(done, len(clips))

    good, unusable = check_clips(clips, on_clip=count)
    problems += unusable
    fatal = [problem for problem in problems if not problem.reason.startswith("silent")]
    if (fatal and not skip_bad) or not good:
        raise data_error(where, problems or [Problem(str(where), "no clips")])
    if need_text and not any(clip.text for clip in good):
        raise DataError(f"{where}: no clip has a text", hint="give what is said: errors are counted against it")
    return ClipSet(str(where), kind, tuple(good), tuple(problems))


def find_clips(path: Path, need_text: bool = True) -> Found:
    """Return what kind of data this is, its clips not yet decoded, and what was wrong on the way.

    Raises ``DataError`` when nothing at all can be made of it.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint="check the path given with --data")
    if is_dataset(path):
        return dataset_clips(path, need_text)
    if path.is_dir():
        return folder_clips(path, need_text)
    if path.suffix.lower() == ".gguf" or path.suffix.lower() in (".bin", ".pt", ".safetensors"):
        raise DataError(f"{path}: a model, expected speech", hint=KINDS_HINT)
    return manifest_clips(path, need_text)


def parse_language(name: str) -> str:
    """Return Whisper's code for a language that was asked for; raises ``DataError`` for one it has not."""
    code = whisper_language(name)
    if code is None:
        raise DataError(f"language {name!a}: Whisper has no such language", hint=spelling_of(name))
    return code


def _with_language(clip: Clip, default: str | None, problems: list[Problem]) -> Clip:
    if not clip.language:
        return replace(clip, language=default)
    code = whisper_language(clip.language)
    if code is None:
        problems.append(Problem(clip.id, f"Whisper has no language {clip.language!a}: {spelling_of(clip.language)}"))
        return clip
    return replace(clip, language=code)


def _refuse_duplicates(clips: list[Clip], problems: list[Problem]) -> None:
    seen: set[tuple[Path, int | None, Segment | None]] = set()
    for clip in clips:
        key = (clip.path, clip.row, clip.segment)
        if key in seen:
            problems.append(Problem(clip.id, "its audio is listed more than once"))
        seen.add(key)
