"""Calibrate: every clip through the encoder, its text through the decoder, layer by layer.

All windows pass one layer before the next is loaded, so that memory holds the windows' hidden states, one layer
and one layer's sums, whatever the model's size. What is finished is kept in the cache: an interrupted run goes on
with the layer it was in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.calibration import Calibration, Moments, Probes, read_calibration, write_calibration
from whisq.calibration.calibration import dims_of
from whisq.calibration.inputs import EMBEDDING_INPUT, ENCODER_OUTPUT, inputs_of
from whisq.calibration.probes import MOST_PROBES, PROBE_FRAMES
from whisq.calibration.spill import Kept
from whisq.calibration.sums import Sums
from whisq.calibration.texts import Window, own_texts, transcript_ids, windows_of
from whisq.clips.clip import ClipSet
from whisq.clips.datasets import load_clips
from whisq.errors import CalibrationError, DataError
from whisq.extras import require_torch
from whisq.formats import open_model
from whisq.hashing import source_sha256
from whisq.model import Model
from whisq.network.layers import (
    causal_mask,
    decoder_start,
    encoder_start,
    load_layer,
    normed,
    watched_attention,
    watched_inputs,
)
from whisq.network.mel import HOP_SAMPLES, log_mel
from whisq.progress import Progress, no_progress
from whisq.version import __version__
from whisq.writing import default_cache_folder

if TYPE_CHECKING:
    import torch

PADDING_SHARE = 0.25
"""Weight of the silence up to 30 s against that of the audio. The decoder attends to it (35 % on tiny.en): of none,
0.25 and 0.5, this gave the encoder's q4_0 the least divergence on held-out speakers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to calibrate. ``cache`` is where an interrupted run is kept, None for nowhere.

    ``own_text`` has the decoder see the model's own text even where the data has a transcript.
    """

    limit: int | None = None
    seed: int = 0
    language: str | None = None
    own_text: bool = False
    device: str = "cpu"
    threads: int | None = None
    skip_bad: bool = False
    cache: Path | None = field(default_factory=default_cache_folder)


def calibrate(
    model: str | Path | Model,
    data: str | Path | ClipSet,
    output: str | Path,
    *,
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Write the calibration of a model on audio, and return it.

    Raises ``DataError`` for data that cannot be used, ``CalibrationError`` for a model that is quantized (its own
    errors would be calibrated in), ``MissingExtraError`` without torch and transformers.
    """
    require_torch()
    import torch

    chosen = settings or Settings()
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    opened = model if isinstance(model, Model) else open_model(str(model))
    if any(tensor.type.is_quantized for tensor in opened.tensors):
        raise CalibrationError(
            f"{opened.path}: is quantized: a calibration is made with the f16 or f32 model",
            hint="calibrate the original once, then use the result for all its quantizations",
        )
    clips = load_clips(
        data, limit=chosen.limit, seed=chosen.seed, language=chosen.language, skip_bad=chosen.skip_bad,
        need_text=False, on_clip=lambda done, total: progress("checking clips", done, total),
    )  # fmt: skip
    unfit = [clip.id for clip in clips.clips if clip.language not in (None, "en") and not opened.dims.is_multilingual]
    if unfit:
        raise DataError(
            f"{opened.path}: English-only, but {len(unfit)} clips are not English ({unfit[0]} first)",
            hint="leave them out of the data",
        )
    sha256 = source_sha256(opened)
    key = {"model": sha256, "data": clips.sha256, "own_text": chosen.own_text, "device": chosen.device, "layout": 1}
    kept = Kept(chosen.cache, hashlib.sha256(json.dumps(key).encode()).hexdigest())
    with torch.inference_mode():
        windows = windows_of(clips.clips)
        collector = _Collector(opened, windows, chosen, kept, progress)
        collector.run()
    audio = _audio(opened, sha256, windows, clips.source, clips.sha256, len(clips.clips), chosen)
    path = Path(output)
    widths = inputs_of(opened.dims)
    listed = [(name, widths[name], count) for name, count in collector.counts.items()]
    write_calibration(path, audio, listed, kept.load, _probes(opened, windows))
    kept.remove()
    return read_calibration(path)


def _audio(
    model: Model, sha256: str, windows: Sequence[Window], source: str, data_sha256: str, n_clips: int, chosen: Settings
) -> dict[str, Any]:
    languages: dict[str, float] = {}
    for window in windows:
        languages[window.language or "en"] = languages.get(window.language or "en", 0.0) + window.seconds
    return {
        "whisq": __version__,
        "model": model.path.name,
        "model_sha256": sha256,
        "dims": list(dims_of(model)),
        "data": [Path(source).name],
        "data_sha256": data_sha256,
        "clips": n_clips,
        "windows": len(windows),
        "seconds": round(sum(window.seconds for window in windows), 2),
        "tokens": sum(len(window.ids) for window in windows),
        "languages": {name: round(seconds, 2) for name, seconds in languages.items()},
        "own_text": chosen.own_text,
        "seed": chosen.seed,
    }


def _probes(model: Model, windows: Sequence[Window]) -> Probes:
    # Windows of at least half a probe, evenly over the data, so that all speakers and languages have a part.
    long_enough = [w for w in windows if 100 * w.seconds >= PROBE_FRAMES / 2] or list(windows)
    chosen = np.unique(np.linspace(0, len(long_enough) - 1, min(MOST_PROBES, len(long_enough))).round().astype(int))
    picked = [long_enough[index] for index in chosen]
    mels = [log_mel(w.samples()[: PROBE_FRAMES * HOP_SAMPLES], model)[0, :, :PROBE_FRAMES].numpy() for w in picked]
    return Probes(np.stack(mels).astype(np.float16), tuple(w.language or "" for w in picked))


class _Collector:
    """Takes all windows through all layers; ``counts`` says afterwards how many vectors each input had."""

    def __init__(
        self, model: Model, windows: Sequence[Window], settings: Settings, kept: Kept, progress: Progress
    ) -> None:
        self.model, self.windows, self.kept = model, windows, kept
        self.settings, self.device = settings, settings.device
        self.counts: dict[str, int] = {}
        self._progress = progress
        dims = model.dims
        self._total = len(windows) * (dims.n_audio_layer + dims.n_text_layer)
        self._done = 0

    def run(self) -> None:
        """Collect, from where an earlier run stopped."""
        dims = self.model.dims
        hidden: list[torch.Tensor] = []
        done = self.kept.stage
        for layer in range(dims.n_audio_layer):
            if layer >= done:
                hidden = hidden or (self.kept.hidden(self.device) if done else self._start_encoder())
                hidden = self._layer("encoder", layer, hidden, None)
                if layer + 1 == dims.n_audio_layer:
                    hidden = self._end_encoder(hidden)
                self.kept.finish(layer + 1, hidden)
                self.kept.forget_states(layer)
            self._advance(len(self.windows) if layer < done else 0)
        encoded = hidden or self.kept.encoded(dims.n_audio_layer, self.device)
        self._write_texts(encoded)
        hidden = []
        for layer in range(dims.n_text_layer):
            stage = dims.n_audio_layer + layer
            if stage >= done:
                hidden = hidden or (
                    self.kept.hidden(self.device) if done > dims.n_audio_layer else self._start_decoder()
                )
                hidden = self._layer("decoder", layer, hidden, encoded)
                if layer + 1 == dims.n_text_layer:
                    self._end_decoder(hidden, encoded)
                self.kept.finish(stage + 1, hidden)
                if layer:
                    self.kept.forget_states(stage)
            self._advance(len(self.windows) if stage < done else 0)
        self.counts = self.kept.counts(inputs_of(dims))

    def _advance(self, windows: int) -> None:
        self._done += windows
        self._progress("calibrating", self._done, self._total)

    def _start_encoder(self) -> list[torch.Tensor]:
        found = []
        for window in self.windows:
            mel = log_mel(window.samples(), self.model, device=self.device)
            found.append(encoder_start(self.model, mel))
        return found

    def _end_encoder(self, hidden: list[torch.Tensor]) -> list[torch.Tensor]:
        return [normed(self.model, "encoder.ln_post", states) for states in hidden]

    def _write_texts(self, encoded: list[torch.Tensor]) -> None:
        if not self.settings.own_text:
            pieces = Counter(window.clip.id for window in self.windows)
            for window in self.windows:
                window.ids = transcript_ids(self.model, window, pieces[window.clip.id])
        wanted = [window for window in self.windows if not window.ids]
        missing = [window for window in wanted if not self.kept.text(window.key)]
        if missing:
            states = {window.key: states for window, states in zip(self.windows, encoded, strict=True)}
            texts = own_texts(self.model, missing, states, self.device, self._progress)
            self.kept.put_texts(texts)
        for window in wanted:
            window.ids = self.kept.text(window.key)

    def _start_decoder(self) -> list[torch.Tensor]:
        return [decoder_start(self.model, window.ids[:-1], self.device) for window in self.windows]

    def _end_decoder(self, hidden: list[torch.Tensor], encoded: list[torch.Tensor]) -> None:
        sums = Sums()
        # A key or value matters as much as the decoder attends to its frame.
        for states, attended in zip(encoded, self.kept.attention(self.model.dims.n_text_layer), strict=True):
            sums.add(states[0], attended.to(self.device))
        self.kept.put(ENCODER_OUTPUT, sums.moments())
        sums = Sums()
        for states in hidden:
            sums.add(normed(self.model, "decoder.ln", states)[0])
        self.kept.put(EMBEDDING_INPUT, sums.moments())

    def _layer(
        self, stack: Any, layer: int, hidden: list[torch.Tensor], encoded: list[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        module = load_layer(self.model, stack, layer, self.device)
        sums: dict[str, Sums] = {}
        result, attended = [], []
        for index, (states, window) in enumerate(zip(hidden, self.windows, strict=True)):
            frames = _frame_weights(window, states) if encoded is None else None

            def see(name: str, x: torch.Tensor, frames: torch.Tensor | None = frames) -> None:
                sums.setdefault(name, Sums()).add(x[0], frames)

            with watched_inputs(module, stack, layer, see):
                if encoded is None:
                    out = module(states, None)
                else:
                    mask = causal_mask(states.shape[1], self.device)
                    with watched_attention(module) as received:
                        out = module(states, mask, encoded[index], use_cache=False)
                    attended.append(received())
            # Some releases of transformers return a tuple.
            result.append(out[0] if isinstance(out, tuple) else out)
            self._advance(1)
        if attended:
            self.kept.put_attention(layer, attended)
        for name, found in sums.items():
            self.kept.put(name, _checked(found.moments(), name, self.model))
        return result


def _frame_weights(window: Window, states: torch.Tensor) -> torch.Tensor:
    """Return the weight of each frame: 1 over the audio, together ``PADDING_SHARE`` of that in the silence."""
    import torch

    weights = torch.ones(states.shape[1], device=states.device)
    silent = states.shape[1] - window.frames
    if silent > 0:
        weights[window.frames :] = PADDING_SHARE * window.frames / silent
    return weights


def _checked(moments: Moments, name: str, model: Model) -> Moments:
    if not (np.isfinite(moments.squares).all() and moments.mean is not None and np.isfinite(moments.mean).all()):
        raise CalibrationError(
            f"{model.path}: the input of {name} is not finite on this audio", hint="is the model damaged?"
        )
    return moments
