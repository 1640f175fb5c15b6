"""Calibrate: every clip through the encoder, its text through the decoder, layer by layer.

All windows pass one layer before the next is loaded, so that memory holds the windows' hidden states, one layer
and one layer's sums, whatever the model's size. What is finished is kept in the cache: an interrupted run resumes
with the layer it was in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.calibration import Calibration, Moments, Probes, read_calibration, write_calibration
from whisq.calibration.calibration import dims_of
from whisq.calibration.inputs import EMBEDDING_INPUT, ENCODER_OUTPUT, input_of, inputs_of
from whisq.calibration.needs import check_room, needs_of
from whisq.calibration.outputs import WIDEST_STATE, weighed_outputs
from whisq.calibration.probes import MOST_PROBES, PROBE_FRAMES
from whisq.calibration.spill import Checkpoint
from whisq.calibration.sums import Sums
from whisq.calibration.texts import Line, Window, lines_of, more_lines, windows_of, write_texts, written_ids
from whisq.calibration.weighing import output_moments
from whisq.clips.builtin import SOURCE, builtin_clips, speech_version
from whisq.clips.clip import ClipSet
from whisq.clips.datasets import load_clips
from whisq.errors import CalibrationError, DataError
from whisq.formats import open_model
from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.kernels.threads import available_cpus
from whisq.model import Model
from whisq.network import stack
from whisq.network.devices import operations_for
from whisq.network.mel import HOP_SAMPLES, log_mel
from whisq.network.model import load_decoder
from whisq.network.stack import KeysValues, Layer, Observer, read_embedding, read_layer
from whisq.network.tokens import LONGEST_TEXT
from whisq.progress import Progress, no_progress
from whisq.version import __version__
from whisq.writing import default_cache_folder

if TYPE_CHECKING:
    from whisq.network.operations import Array, Operations
    from whisq.whisper import Stack

BUILT_IN_TEXT_TOKENS = 2000
"""Tokens that the decoder reads beside the built-in speech, which has 200 in English: the output layer sees a vector a
token."""


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """How to calibrate. ``cache`` is where an interrupted run is kept, None for nowhere.

    ``own_text`` has the decoder see the model's own text even where the data has a transcript; ``text_tokens`` is how
    many tokens of other text it sees besides, on the same audio. ``weigh_outputs`` takes the words' gradients back to
    the outputs of layers, which rounding then heeds: as long again, and a model up to small.
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
    _check_model(opened, chosen)
    special = special_tokens(opened)
    clips = clips_for(opened, data, chosen, progress)
    chosen = settings_for(clips, chosen)
    sha256 = opened.sha256
    key = {
        "model": sha256, "data": clips.sha256, "own_text": chosen.own_text, "text_tokens": chosen.text_tokens,
        "device": chosen.device, "layout": 7,
    }  # fmt: skip
    checkpoint = Checkpoint(chosen.cache, hashlib.sha256(json.dumps(key).encode()).hexdigest(), operations)
    windows = windows_of(clips.clips)
    for language in {window.language for window in windows}:
        special.prompt(language)  # raises, before the work, for one that the vocabulary lacks
    lines = lines_of(opened, special, windows, own=chosen.own_text)
    lines += more_lines(opened, special, len(windows), chosen.text_tokens, chosen.seed)
    lines.sort(key=lambda line: line.window)
    n_tokens = sum(len(line.ids) or LONGEST_TEXT for line in lines)
    writes = any(not line.ids for line in lines)
    spills, weighs = chosen.cache is not None, chosen.weigh_outputs
    needs = needs_of(opened.dims, len(windows), n_tokens, spills=spills, writes=writes, weighs=weighs)
    say(f"calibrating takes up to {needs}")
    check_room(needs, Path(output), chosen.cache)
    with operations.no_gradients():
        collector = _Collector(opened, special, windows, lines, chosen, checkpoint, operations, progress)
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


def _check_model(model: Model, settings: CalibrationSettings) -> None:
    if any(tensor.type.is_quantized for tensor in model.tensors):
        raise CalibrationError(
            f"{model.path}: is quantized: a calibration is made with the f16 or f32 model",
            hint="calibrate the original once, then use the result for all its quantizations",
        )
    if settings.weigh_outputs and not weighed_outputs(model.dims):
        raise CalibrationError(
            f"{model.path}: is too wide to weigh its outputs: {model.dims.n_audio_state} values a frame, at most"
            f" {WIDEST_STATE}",
            hint="calibrate without it",
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
    }


def _probes(model: Model, windows: Sequence[Window]) -> Probes:
    # Windows of at least half a probe, evenly over the data, so that all speakers and languages have a part.
    long_enough = [w for w in windows if 100 * w.seconds >= PROBE_FRAMES / 2] or list(windows)
    chosen = np.unique(np.linspace(0, len(long_enough) - 1, min(MOST_PROBES, len(long_enough))).round().astype(int))
    picked = [long_enough[index] for index in chosen]
    mels = [log_mel(w.samples()[: PROBE_FRAMES * HOP_SAMPLES], model)[0, :, :PROBE_FRAMES] for w in picked]
    return Probes(np.stack(mels).astype(np.float16), tuple(w.language or "" for w in picked))


class _Sees(Observer):
    """Adds up the inputs of one layer over windows, and the attention that the encoder's frames receive in it."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.sums: dict[str, Sums] = {}
        self.received: list[Array] = []
        self.frame_weights: Array = None
        self.heard = True

    def input(self, name: str, x: Array) -> None:
        # The encoder's output belongs to all decoder layers: it is added up at the end.
        if name == input_of(f"{name}.weight") and name != ENCODER_OUTPUT and (self.heard or ".cross_attn." not in name):
            self.sums.setdefault(name, Sums(self._operations)).add(x[0], self.frame_weights)

    def attention(self, name: str, queries: Array, keys: Array) -> None:
        if name.endswith(".cross_attn") and self.heard:
            self.received.append(self._operations.attention_weights(queries, keys)[0].mean(0).sum(0))


class _Collector:
    """Takes all windows through all layers; ``counts`` says afterwards how many vectors each input had."""

    def __init__(
        self,
        model: Model,
        special: SpecialTokens,
        windows: Sequence[Window],
        lines: Sequence[Line],
        settings: CalibrationSettings,
        checkpoint: Checkpoint,
        operations: Operations,
        progress: Progress,
    ) -> None:
        self.model, self.special, self.checkpoint = model, special, checkpoint
        self.windows, self.lines = windows, lines
        self.settings, self.operations = settings, operations
        self.counts: dict[str, int] = {}
        self._progress = progress
        dims = model.dims
        self._total = len(windows) * dims.n_audio_layer + len(lines) * dims.n_text_layer
        self._done = 0

    def run(self) -> None:
        """Collect, from where an earlier run stopped."""
        dims, states = self.model.dims, self.checkpoint.states
        hidden: list[Array] = []
        done = self.checkpoint.stage
        for layer in range(dims.n_audio_layer):
            if layer >= done:
                hidden = hidden or (states.load(done) if done else self._start_encoder())
                hidden = self._encoder_layer(layer, hidden)
                if layer + 1 == dims.n_audio_layer:
                    hidden = self._end_encoder(hidden)
                self.checkpoint.finish(layer + 1, hidden)
                states.forget(layer)
            self._advance(len(self.windows) if layer < done else 0)
        encoded = hidden or states.load(dims.n_audio_layer)
        self._write_texts(encoded)
        hidden = []
        for layer in range(dims.n_text_layer):
            stage = dims.n_audio_layer + layer
            if stage >= done:
                hidden = hidden or (states.load(done) if done > dims.n_audio_layer else self._start_decoder())
                hidden = self._decoder_layer(layer, hidden, encoded)
                if layer + 1 == dims.n_text_layer:
                    self._end_decoder(hidden, encoded)
                self.checkpoint.finish(stage + 1, hidden)
                if layer:
                    states.forget(stage)
            self._advance(len(self.lines) if stage < done else 0)
        self.counts = self.checkpoint.counts(inputs_of(dims))

    def _advance(self, passed: int) -> None:
        self._done += passed
        self._progress("calibrating", self._done, self._total)

    def _outside(self, half: Stack, *parts: str) -> Layer:
        return read_layer(self.model, half, None, self.operations, parts)

    def _start_encoder(self) -> list[Array]:
        convolutions = [f"conv{number}.{part}" for number in (1, 2) for part in ("weight", "bias")]
        encoder = self._outside("encoder", "positional_embedding", *convolutions)
        mels = (log_mel(window.samples(), self.model) for window in self.windows)
        return [stack.stem(encoder, self.operations.array(mel)) for mel in mels]

    def _end_encoder(self, hidden: list[Array]) -> list[Array]:
        encoder = self._outside("encoder", "ln_post.weight", "ln_post.bias")
        return [stack.encoder_end(encoder, states) for states in hidden]

    def _write_texts(self, encoded: list[Array]) -> None:
        wanted = [line for line in self.lines if not line.ids]
        missing = [self.windows[line.window] for line in wanted]
        missing = [window for window in missing if not self.checkpoint.text(window.key)]
        if missing:
            states = {window.key: states for window, states in zip(self.windows, encoded, strict=True)}
            decoder = load_decoder(self.model, self.operations)
            self.checkpoint.put_texts(write_texts(decoder, missing, states, self._progress))
        for line in wanted:
            window = self.windows[line.window]
            line.ids = written_ids(self.special, line, window, self.checkpoint.text(window.key))

    def _start_decoder(self) -> list[Array]:
        decoder = read_embedding(self.model, self.operations)
        return [stack.embed(decoder, np.array([line.ids[:-1]])) for line in self.lines]

    def _end_decoder(self, hidden: list[Array], encoded: list[Array]) -> None:
        sums = Sums(self.operations)
        # A key or value matters as much as the decoder attends to its frame.
        received = self.checkpoint.states.attention(self.model.dims.n_text_layer)
        heard = [line for line in self.lines if line.heard]
        for line, attended in zip(heard, received, strict=True):
            sums.add(encoded[line.window][0], attended)
        self.checkpoint.put(ENCODER_OUTPUT, sums.moments(ENCODER_OUTPUT))
        sums = Sums(self.operations)
        decoder = self._outside("decoder", "ln.weight", "ln.bias")
        for states in hidden:
            sums.add(stack.decoder_end(decoder, states)[0])
        self.checkpoint.put(EMBEDDING_INPUT, sums.moments(EMBEDDING_INPUT))

    def _encoder_layer(self, number: int, hidden: list[Array]) -> list[Array]:
        layer = read_layer(self.model, "encoder", number, self.operations)
        sees, result = _Sees(self.operations), []
        for states, window in zip(hidden, self.windows, strict=True):
            sees.frame_weights = self.operations.array(window.frame_weights(states.shape[1]))
            result.append(stack.encoder_block(layer, states, sees))
            self._advance(1)
        self._keep(sees)
        return result

    def _decoder_layer(self, number: int, hidden: list[Array], encoded: list[Array]) -> list[Array]:
        layer = read_layer(self.model, "decoder", number, self.operations)
        sees, result = _Sees(self.operations), []
        cross: dict[int, KeysValues] = {}
        for states, line in zip(hidden, self.lines, strict=True):
            if line.window not in cross:
                cross = {line.window: stack.keys_values(layer, "cross_attn", encoded[line.window])}
            sees.heard = line.heard
            result.append(stack.decoder_block(layer, states, cross[line.window], sees))
            self._advance(1)
        self.checkpoint.states.put_attention(number, sees.received)
        self._keep(sees)
        return result

    def _keep(self, sees: _Sees) -> None:
        names = list(sees.sums)
        # Choosing the damping is factors and products of small matrices: an input a thread.
        with ThreadPoolExecutor(self.settings.threads or available_cpus()) as pool:
            for name, moments in zip(names, pool.map(lambda name: sees.sums[name].moments(name), names), strict=True):
                self.checkpoint.put(name, _checked(moments, name, self.model))


def _checked(moments: Moments, name: str, model: Model) -> Moments:
    if not (np.isfinite(moments.squares).all() and moments.mean is not None and np.isfinite(moments.mean).all()):
        raise CalibrationError(
            f"{model.path}: the input of {name} is not finite on this audio",
            hint="convert the model from its original source again: this one is damaged, or its training diverged",
        )
    return moments
