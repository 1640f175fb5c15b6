"""Calibrate: every clip through the encoder, its text through the decoder, layer by layer.

All windows pass one layer before the next is loaded, so that memory holds the windows' hidden states, one layer
and one layer's sums, whatever the model's size. What is finished is kept in the cache: an interrupted run resumes
with the layer it was in.

Windows pass a layer in groups that follow from the data alone, each a unit of work, and the groups' sums are added in
the order of the groups (``in_order``): what comes of it is the same, bit for bit, whoever does the units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from whisq.calibration import Calibration, Probes, read_calibration, write_calibration
from whisq.calibration.calibration import dims_of
from whisq.calibration.collecting import Collector, Runs
from whisq.calibration.inputs import inputs_of
from whisq.calibration.needs import check_room, needs_of
from whisq.calibration.outputs import WIDEST_STATE, weighed_outputs
from whisq.calibration.probes import MOST_PROBES, PROBE_FRAMES
from whisq.calibration.spill import Checkpoint
from whisq.calibration.texts import Line, Window, lines_of, more_lines, windows_of
from whisq.calibration.weighing import output_moments
from whisq.clips.builtin import SOURCE, builtin_clips, speech_version
from whisq.clips.clip import ClipSet
from whisq.clips.datasets import load_clips
from whisq.errors import CalibrationError, DataError
from whisq.formats import open_model
from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.model import Model
from whisq.network.devices import operations_for
from whisq.network.mel import HOP_SAMPLES, log_mel
from whisq.network.tokens import LONGEST_TEXT
from whisq.progress import Progress, no_progress
from whisq.version import __version__
from whisq.work import Executor, Local, Outline
from whisq.writing import default_cache_folder

BUILT_IN_TEXT_TOKENS = 2000
"""Tokens that the decoder reads beside the built-in speech, which has 200 in English: the output layer sees a vector a
token."""


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """How to calibrate. ``cache`` is where an interrupted run is kept, None for nowhere.

    ``own_text`` has the decoder see the model's own text even where the data has a transcript; ``text_tokens`` is how
    many tokens of other text it sees besides, on the same audio. ``weigh_outputs`` takes the words' gradients back to
    the outputs of layers, which rounding then heeds, in models up to small. ``executor`` is who takes
    windows through layers, None for this process.
    """

    limit: int | None = None
    seed: int = 0
    language: str | None = None
    own_text: bool = False
    text_tokens: int = 0
    weigh_outputs: bool = False
    device: str = "cpu"
    threads: int | None = None
    skip_bad: bool = False
    cache: Path | None = field(default_factory=default_cache_folder)
    executor: Executor | None = None


def calibrate(
    model: str | Path | Model,
    data: str | Path | ClipSet | None,
    output: str | Path,
    *,
    settings: CalibrationSettings | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Write the calibration of a model on audio, on the built-in speech where ``data`` is None, and return it.

    ``say`` is told what that needs of memory and disk. Raises ``OutputError`` and ``CalibrationError`` where they are
    not there, ``DataError`` for data that cannot be used, ``CalibrationError`` for a model that is quantized (its own
    errors would be calibrated in), ``PlanError`` and ``MissingExtraError`` for a device that cannot be used.
    """
    chosen = settings or CalibrationSettings()
    operations = operations_for(chosen.device, chosen.threads)
    opened = model if isinstance(model, Model) else open_model(str(model))
    clips, chosen = _clips_and_settings(opened, data, chosen, progress)
    sha256 = opened.sha256
    key = {
        "model": sha256, "data": clips.sha256, "own_text": chosen.own_text, "text_tokens": chosen.text_tokens,
        "seed": chosen.seed, "device": chosen.device, "layout": 8,
    }  # fmt: skip
    executor = chosen.executor or Local()
    checkpoint = Checkpoint(chosen.cache, hashlib.sha256(json.dumps(key).encode()).hexdigest(), operations)
    special, windows, lines = _heard_and_read(opened, clips, chosen)
    n_tokens = sum(len(line.ids) or LONGEST_TEXT for line in lines)
    writes = any(not line.ids for line in lines)
    spills, weighs = chosen.cache is not None, chosen.weigh_outputs
    needs = needs_of(opened.dims, len(windows), n_tokens, spills=spills, writes=writes, weighs=weighs)
    say(f"calibrating takes up to {needs}")
    check_room(needs, Path(output), chosen.cache)
    with operations.no_gradients():
        runs = Runs(operations, executor, chosen.device, chosen.threads)
        collector = Collector(opened, special, windows, lines, checkpoint, runs, progress)
        collector.run()
        audio = _audio(opened, sha256, windows, lines, clips, chosen)
        opened.check_unchanged()
        path = Path(output)
        widths = inputs_of(opened.dims)
        listed = [(name, widths[name], count) for name, count in collector.counts.items()]
        outputs = {}
        if weighs:
            rest = (lines, operations, progress)
            outputs = output_moments(opened, special, windows, *rest, seed=chosen.seed, threads=chosen.threads)
        write_calibration(path, audio, listed, checkpoint.load, _probes(opened, windows), outputs)
    checkpoint.remove()
    return read_calibration(path)


def foresee_calibration(
    model: Model,
    data: str | Path | ClipSet | None,
    outline: Outline,
    *,
    settings: CalibrationSettings | None = None,
    progress: Progress = no_progress,
) -> None:
    """Note the units that ``calibrate`` would have done from the beginning; raises what that raises for the data."""
    clips, chosen = _clips_and_settings(model, data, settings or CalibrationSettings(), progress)
    operations = operations_for(chosen.device, chosen.threads)
    special, windows, lines = _heard_and_read(model, clips, chosen)
    runs = Runs(operations, outline, chosen.device, chosen.threads)
    Collector(model, special, windows, lines, Checkpoint(None, "", operations), runs, progress).foresee(outline)


def _clips_and_settings(
    model: Model, data: str | Path | ClipSet | None, settings: CalibrationSettings, progress: Progress
) -> tuple[ClipSet, CalibrationSettings]:
    _check_model(model, settings)
    clips = clips_for(model, data, settings, progress)
    return clips, settings_for(clips, settings)


def _heard_and_read(
    model: Model, clips: ClipSet, settings: CalibrationSettings
) -> tuple[SpecialTokens, list[Window], list[Line]]:
    """Return the windows that the encoder hears, and the lines that the decoder reads, sorted by window."""
    special = special_tokens(model)
    windows = windows_of(clips.clips)
    for language in {window.language for window in windows}:
        special.prompt(language)  # raises, before the work, for one that the vocabulary lacks
    lines = lines_of(model, special, windows, own=settings.own_text)
    lines += more_lines(model, special, len(windows), settings.text_tokens, settings.seed)
    return special, windows, sorted(lines, key=lambda line: line.window)


def _check_model(model: Model, settings: CalibrationSettings) -> None:
    if any(tensor.type.is_quantized for tensor in model.tensors):
        raise CalibrationError(
            f"{model.path}: is quantized: a calibration is made with the f16 or f32 model",
            hint="calibrate the original once, then use the result for all its quantizations",
        )
    if settings.weigh_outputs and not weighed_outputs(model.dims):
        raise CalibrationError(
            f"{model.path}: is too wide to weigh its outputs: {model.dims.n_audio_state} values per frame, at most"
            f" {WIDEST_STATE}",
            hint="leave out --weigh-outputs",
        )


def settings_for(clips: ClipSet, settings: CalibrationSettings) -> CalibrationSettings:
    """Return settings as they are for these clips: what the built-in speech wants besides, the others' unchanged."""
    if clips.source != SOURCE:
        return settings
    return replace(settings, own_text=True, text_tokens=max(settings.text_tokens, BUILT_IN_TEXT_TOKENS))


def clips_for(
    model: Model, data: str | Path | ClipSet | None, settings: CalibrationSettings, progress: Progress = no_progress
) -> ClipSet:
    """Return the clips of some data, or the built-in speech in the languages of a model; raises ``DataError``."""
    special = special_tokens(model)
    if data is None:
        clips = builtin_clips("calibrate", special)
        if not clips.clips:
            raise DataError(
                f"{model.path}: the built-in speech has none of its languages ({' '.join(special.languages)})",
                hint="give clips of your own: --data CLIPS",
            )
        return clips
    clips = load_clips(
        data,
        limit=settings.limit,
        seed=settings.seed,
        language=settings.language,
        skip_bad=settings.skip_bad,
        need_text=False,
        on_clip=lambda done, total: progress("checking clips", done, total),
    )
    unfit = [clip.id for clip in clips.clips if clip.language not in (None, "en") and not special.languages]
    if unfit:
        raise DataError(
            f"{model.path}: English-only, but {len(unfit)} clips are not English ({unfit[0]} first)",
            hint="leave them out of the data",
        )
    return clips


def _audio(
    model: Model,
    sha256: str,
    windows: Sequence[Window],
    lines: Sequence[Line],
    clips: ClipSet,
    chosen: CalibrationSettings,
) -> dict[str, Any]:
    kinds = chosen.executor.account.kinds if chosen.executor else ()
    languages: dict[str, float] = {}
    for window in windows:
        parts = [(said.language, said.end_s - said.start_s) for said in window.clip.sentences]
        for language, seconds in parts or [(window.language or "en", window.seconds)]:
            languages[language] = languages.get(language, 0.0) + seconds
    return {
        "whisq": __version__,
        "model": model.path.name,
        "model_sha256": sha256,
        "model_fingerprint": model.fingerprint,
        "dims": list(dims_of(model)),
        "data": [Path(clips.source).name],
        "data_sha256": clips.sha256,
        "clips": len(clips.clips),
        "windows": len(windows),
        "seconds": round(sum(window.seconds for window in windows), 2),
        "tokens": sum(len(line.ids) for line in lines),
        "languages": {name: round(seconds, 2) for name, seconds in languages.items()},
        "own_text": chosen.own_text,
        "text_tokens": sum(len(line.ids) for line in lines if not line.heard),
        "seed": chosen.seed,
        **({"speech": speech_version()} if clips.source == SOURCE else {}),
        # Figures of several kinds of CPU agree to the noise of float32 only.
        **({"cpus": list(kinds)} if len(kinds) > 1 else {}),
    }


def _probes(model: Model, windows: Sequence[Window]) -> Probes:
    # Windows of at least half a probe, evenly over the data, so that all speakers and languages have a part.
    long_enough = [w for w in windows if 100 * w.seconds >= PROBE_FRAMES / 2] or list(windows)
    chosen = np.unique(np.linspace(0, len(long_enough) - 1, min(MOST_PROBES, len(long_enough))).round().astype(int))
    picked = [long_enough[index] for index in chosen]
    mels = [log_mel(w.samples()[: PROBE_FRAMES * HOP_SAMPLES], model)[0, :, :PROBE_FRAMES] for w in picked]
    return Probes(np.stack(mels).astype(np.float16), tuple(w.language or "" for w in picked))
