"""Take all windows through all layers, one layer after the other, and keep what their inputs are like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.calibration import Moments
from whisq.calibration.bench import DecoderPart, EncoderPart, LayersJob, TextsPart, layer_bytes, layer_cost, texts_bytes
from whisq.calibration.calibration import triangle_size
from whisq.calibration.in_order import InOrder, groups_of_lines, groups_of_windows
from whisq.calibration.inputs import EMBEDDING_INPUT, ENCODER_OUTPUT, inputs_of
from whisq.calibration.sums import Sums
from whisq.calibration.texts import TEXTS_TOGETHER, written_ids
from whisq.errors import CalibrationError
from whisq.kernels.threads import available_cpus
from whisq.network import stack
from whisq.network.mel import log_mel
from whisq.network.numpy_operations import NumpyOperations
from whisq.network.stack import read_embedding, read_layer
from whisq.work import Unit

if TYPE_CHECKING:
    from whisq.calibration.spill import Checkpoint
    from whisq.calibration.texts import Line, Window
    from whisq.formats.special_tokens import SpecialTokens
    from whisq.model import Model
    from whisq.network.operations import Array, Operations
    from whisq.network.stack import Layer
    from whisq.progress import Progress
    from whisq.whisper import Stack
    from whisq.work import Executor, Outline


_EXPECTED_TOKENS = 60
"""Of what a model writes for a window, before it has."""


@dataclass(frozen=True, slots=True)
class Runs:
    """How layers are run: who does the units, on which device, and what runs here with how many threads."""

    operations: Operations
    executor: Executor
    device: str
    threads: int | None


class Collector:
    """Takes all windows through all layers; ``counts`` says afterwards how many vectors each input had."""

    def __init__(
        self,
        model: Model,
        special: SpecialTokens,
        windows: Sequence[Window],
        lines: Sequence[Line],
        checkpoint: Checkpoint,
        runs: Runs,
        progress: Progress,
    ) -> None:
        self.model, self.special, self.checkpoint = model, special, checkpoint
        self.windows, self.lines = windows, lines
        self.operations, self.executor = runs.operations, runs.executor
        self._runs = runs
        self.counts: dict[str, int] = {}
        self._window_groups = groups_of_windows(len(windows))
        memory = layer_bytes(model.dims, max(map(len, self._window_groups)))
        if not all(line.ids for line in lines):
            memory = max(memory, texts_bytes(model.dims, TEXTS_TOGETHER))
        self._job = LayersJob(model, self.operations, runs.device, memory)
        self._progress = progress
        dims = model.dims
        self._total = len(windows) * dims.n_audio_layer + len(lines) * dims.n_text_layer
        self._done = 0

    def foresee(self, outline: Outline) -> None:
        """Note all units, from the beginning; a text that is not written yet counts as one of so many tokens."""
        dims, windows = self.model.dims, len(self.windows)
        state, n_vectors = 4 * dims.n_audio_ctx * dims.n_audio_state, dims.n_audio_ctx * windows
        groups, lines = self._window_groups, groups_of_lines(self.lines)
        written = [line for line in self.lines if not line.ids]
        n_tokens = sum(len(line.ids) or _EXPECTED_TOKENS for line in self.lines) + n_vectors // 8
        layers = (
            ("encoder", groups, dims.n_audio_layer, dims.n_audio_state, n_vectors, 2 * windows * state),
            ("decoder", lines, dims.n_text_layer, dims.n_text_state, n_tokens, windows * state),
        )
        for name, parts, n_layers, width, vectors, sent in layers:
            each = layer_cost(dims, vectors) / len(parts)
            sums = 4 * len(parts) * sum(triangle_size(n) for n in (width, width, width, 4 * width))
            outline.note(f"{name} layers", self._job, [each] * len(parts) * n_layers, n_layers * (sent + sums))
        batches = -(-len(written) // TEXTS_TOGETHER)
        cost = dims.n_text_layer * layer_cost(dims, TEXTS_TOGETHER * (2 * _EXPECTED_TOKENS + dims.n_audio_ctx // 8))
        outline.note("writing texts", self._job, [cost] * batches, len(written) * state)

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
        batches = [wanted[start : start + TEXTS_TOGETHER] for start in range(0, len(wanted), TEXTS_TOGETHER)]
        keys = [[self.windows[line.window].key for line in batch] for batch in batches]
        missing = [number for number, some in enumerate(keys) if not all(map(self.checkpoint.text, some))]

        def units() -> Iterator[Unit]:
            for number in missing:
                states = self._given([encoded[line.window] for line in batches[number]])
                part = TextsPart(states, [self.windows[line.window].language for line in batches[number]])
                yield Unit(f"texts {number}", part)

        for count, done in enumerate(self.executor.run(self._job, units()), start=1):
            number = int(done.unit.key.rpartition(" ")[2])
            self.checkpoint.put_texts(dict(zip(keys[number], done.value, strict=True)))
            self._progress("writing texts", count, len(missing))
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
        def part(group: range) -> tuple[EncoderPart, int]:
            states = hidden[group.start : group.stop]
            weights = [self.windows[window].frame_weights(hidden[window].shape[1]) for window in group]
            return EncoderPart(number, group.start, self._given(states), weights), sum(x.shape[1] for x in states)

        result, _ = self._passed("encoder", number, self._window_groups, part)
        return result

    def _decoder_layer(self, number: int, hidden: list[Array], encoded: list[Array]) -> list[Array]:
        heard = [line.heard for line in self.lines]

        def part(group: range) -> tuple[DecoderPart, int]:
            states = hidden[group.start : group.stop]
            windows = [self.lines[line].window for line in group]
            distinct = list(dict.fromkeys(windows))
            outputs = [encoded[window] for window in distinct]
            given = DecoderPart(
                number,
                group.start,
                sum(heard[: group.start]),
                self._given(states),
                heard[group.start : group.stop],
                self._given(outputs),
                [distinct.index(window) for window in windows],
            )
            # Keys and values of the encoder's outputs are an eighth of a layer's weights.
            return given, sum(x.shape[1] for x in states) + sum(x.shape[1] for x in outputs) // 8

        result, received = self._passed("decoder", number, groups_of_lines(self.lines), part)
        self.checkpoint.states.put_attention(number, received)
        return result

    def _passed(
        self, half: Stack, layer: int, groups: Sequence[range], part: Callable[[range], tuple[Any, int]]
    ) -> tuple[list[Array], list[Array]]:
        """Take groups through a layer and keep its moments; returns states, and the attention that frames received.

        ``part`` says what a group is given, and how many vectors that are.
        """
        adding = self.operations if self.executor.is_here else NumpyOperations(1)
        total = InOrder(adding, self.checkpoint.folder)
        numbers: dict[str, int] = {}
        states: dict[int, list[Array]] = {}
        received: dict[int, list[Array]] = {}

        def units() -> Iterator[Unit]:
            for number, group in enumerate(groups):
                key = f"{half} layer {layer}, {group.start + 1} to {group.stop}"
                numbers[key] = number
                given, vectors = part(group)
                yield Unit(key, given, layer_cost(self.model.dims, vectors))

        for done in self.executor.run(self._job, units()):
            number = numbers.pop(done.unit.key)
            total.put(number, done.value.sums)
            states[number], received[number] = (self._taken(x) for x in (done.value.states, done.value.received))
            self._advance(len(groups[number]))
        self._keep(total.sums)
        return _flat(states), _flat(received)

    def _given(self, arrays: Sequence[Array]) -> list[Array]:
        """Return arrays as a unit takes them: numpy's, where it is done elsewhere."""
        return list(arrays) if self.executor.is_here else [self.operations.numpy(array) for array in arrays]

    def _taken(self, arrays: Sequence[Array]) -> list[Array]:
        """Return arrays that a unit gave; what comes from elsewhere lies in memory that is not ours to keep."""
        return list(arrays) if self.executor.is_here else [self.operations.array(np.array(array)) for array in arrays]

    def _keep(self, sums: Mapping[str, Sums]) -> None:
        names = list(sums)
        # Choosing the damping is factors and products of small matrices: an input a thread.
        with ThreadPoolExecutor(self._runs.threads or available_cpus()) as pool:
            for name, moments in zip(names, pool.map(lambda name: sums[name].moments(name), names), strict=True):
                self.checkpoint.put(name, _checked(moments, name, self.model))


def _flat(found: Mapping[int, Sequence[Array]]) -> list[Array]:
    return [one for number in sorted(found) for one in found[number]]


def _checked(moments: Moments, name: str, model: Model) -> Moments:
    if not (np.isfinite(moments.squares).all() and moments.mean is not None and np.isfinite(moments.mean).all()):
        raise CalibrationError(
            f"{model.path}: the input of {name} is not finite on this audio",
            hint="convert the model from its original source again: this one is damaged, or its training diverged",
        )
    return moments
